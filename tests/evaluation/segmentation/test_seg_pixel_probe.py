"""The pixel probe of labelled images: equal to the function on pictures, lazy, any size, repeatable."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from regionssl.evaluation.outcome import Outcome
from regionssl.evaluation.probes import Picture, pixel_probe, read_samples
from regionssl.evaluation.segmentation.pixel_probe import PixelProbeTask
from regionssl.evaluation.start import Start, open_start
from regionssl.labels.sets import MapSet, Split

SMALL = PixelProbeTask(short_side=64, pixels=600)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """A file of weights, so that batch statistics are the file's."""
    path = tmp_path_factory.mktemp("start") / "weights.pt"
    torch.save(open_start("random", "resnet18").encoder().body.state_dict(), path)
    return open_start(str(path), "resnet18")


def test_scores_are_those_of_scikit_learn(
    maps: Split[MapSet], start: Start, tmp_path: Path, check_against_sklearn: Callable[[Outcome, MapSet, Path], None]
) -> None:
    outcome = SMALL.run(start, maps, tmp_path)
    check_against_sklearn(outcome, maps.val, tmp_path)


def test_it_is_the_probe_of_pictures(maps: Split[MapSet], start: Start, tmp_path: Path) -> None:
    # Images of 64 x 64 need no resizing.
    data = Split(maps.train.subset([3, 9]), maps.val.subset([3]))
    encoder = start.encoder(("c3", "c4")).eval()

    def extract(images: Tensor) -> Tensor:
        found = encoder(images)
        coarse = F.interpolate(found["c4"], found["c3"].shape[-2:], mode="bilinear")
        return torch.cat([found["c3"], coarse], 1)

    def pictures(part: MapSet) -> list[Picture]:
        images = [torch.from_numpy(np.array(part.images.load(i))).permute(2, 0, 1) for i in range(len(part))]
        assert {image.shape for image in images} == {(3, 64, 64)}
        return [(image, torch.from_numpy(part.labels(i))) for i, image in enumerate(images)]

    expected = pixel_probe(
        extract, pictures(data.train), pictures(data.val), data.val.classes, ignore=-1, seed=3, pixels=600
    )
    outcome = SMALL.run(start, data, tmp_path, seed=3)
    assert outcome.value == pytest.approx(100 * expected.miou)
    assert outcome.per_class == pytest.approx({k: 100 * v for k, v in expected.per_class.items()}, nan_ok=True)


def test_two_runs_are_equal_and_a_random_start_takes_statistics(
    maps: Split[MapSet], start: Start, tmp_path: Path
) -> None:
    random = open_start("random", "resnet18")
    counts = [
        SMALL.run(one, maps, tmp_path / str(i)).evidence.counts  # type: ignore[attr-defined]
        for i, one in enumerate((random, random, start))
    ]
    np.testing.assert_array_equal(counts[0], counts[1])
    assert (counts[0] != counts[2]).any()  # the same weights, but the file's statistics are kept


def test_pictures_are_gone_through_once_and_a_few_at_a_time() -> None:
    alive, most = [0], [0]

    def pictures() -> Iterator[Picture]:
        for i in range(23):
            alive[0] += 1
            most[0] = max(most[0], alive[0])
            yield torch.full((3, 16, 16 + 16 * (i > 11)), i, dtype=torch.uint8), torch.full((8, 12), i % 3)

    def extract(images: Tensor) -> Tensor:
        assert len(images) <= 4
        alive[0] -= len(images)
        return images[:, :1, ::4, ::4].float()

    features, targets = read_samples(extract, pictures(), -1, 5, seed=0, batch=4)
    assert most[0] <= 5
    assert features.shape == (23 * 5, 1)
    np.testing.assert_allclose(features[:, 0], np.arange(23).repeat(5))
    assert torch.equal(targets, features[:, 0].long() % 3)


def test_labels_of_another_size_than_the_picture_are_read_at_their_places() -> None:
    labels = torch.arange(24 * 32).reshape(24, 32)
    ramp = torch.linspace(0, 255, 8).to(torch.uint8).expand(3, 6, 8).contiguous()
    features, targets = read_samples(lambda images: images.float(), [(ramp, labels)], -1, 10**4, seed=0)
    whole = F.interpolate(ramp[None].float(), (24, 32), mode="bilinear")[0].flatten(1).T
    torch.testing.assert_close(features, whole[targets], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", ["vit_tiny", "swin_tiny"])
def test_transformers_take_images_of_any_size(maps: Split[MapSet], tmp_path: Path, name: str) -> None:
    data = Split(maps.train.subset([0, 1, 2]), maps.val.subset([0, 2]))
    outcome = PixelProbeTask(short_side=72, pixels=60).run(open_start("random", name), data, tmp_path)
    assert np.isfinite(outcome.value)
