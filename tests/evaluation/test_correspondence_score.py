"""Regions that find themselves: exact features, constant ones, shuffled ones, and a network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from regionssl.backbones.encoder import Encoder
from regionssl.config import parse
from regionssl.data.images import ImageList, find_images
from regionssl.errors import InputError
from regionssl.evaluation.correspondence import CorrespondenceTask
from regionssl.evaluation.start import Start, open_start
from regionssl.evaluation.warps import WarpSettings
from regionssl.labels.sets import ClassSet, Split

GEOMETRIC = ("identity", "crop", "flip", "rotation", "view")
WARPS = (*GEOMETRIC, "colour")


class Stub(Encoder):
    """An encoder of stride 4 without weights."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        self.calls += 1
        return {"c2": self.features(F.avg_pool2d(x, 4))}

    def features(self, cells: torch.Tensor) -> torch.Tensor:
        return torch.cat([cells[:, :2], torch.ones_like(cells[:, :1])], 1)


class Constant(Stub):
    def features(self, cells: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(cells)


class Shuffled(Stub):
    """The features of every view at places drawn anew."""

    def features(self, cells: torch.Tensor) -> torch.Tensor:
        rng = torch.Generator().manual_seed(self.calls)
        return torch.stack(
            [one.flatten(1)[:, torch.randperm(one[0].numel(), generator=rng)].view_as(one) for one in cells]
        )


@pytest.fixture(scope="module")
def gradients(tmp_path_factory: pytest.TempPathFactory) -> ImageList:
    """Pictures in which red grows to the right and green downwards: every place has a colour of its own."""
    folder = tmp_path_factory.mktemp("gradients")
    for i, (width, height) in enumerate([(256, 256), (300, 200), (190, 250)]):
        x, y = np.meshgrid(np.linspace(20, 235, width), np.linspace(20, 235, height))
        Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8)).save(folder / f"{i}.png")
    return find_images(folder)


@pytest.fixture(scope="module")
def plain() -> Start:
    return Start("plain", "random", open_start("random", "test_resnet").config, 64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def score(encoder: Encoder, images: ImageList, start: Start, **settings: object) -> tuple[np.ndarray, np.ndarray]:
    task = parse(CorrespondenceTask, {"map": "c2", "size": 128, **settings}, "test")
    return task.score(encoder, images, start, seed=3, device="cpu")[:2]


def test_features_that_name_their_place_find_it_under_every_warp(gradients: ImageList, plain: Start) -> None:
    hits, chance = score(Stub(), gradients, plain, warps=["identity", "crop", "flip", "rotation"])
    np.testing.assert_array_equal(hits, 1)
    assert (chance < 0.5).all()


def test_constant_features_are_at_chance(gradients: ImageList, plain: Start) -> None:
    hits, chance = score(Constant(), gradients, plain, warps=list(WARPS))
    np.testing.assert_allclose(hits, chance, atol=1e-12)


def test_shuffled_features_are_near_chance(gradients: ImageList, plain: Start) -> None:
    hits, chance = score(Shuffled(), gradients, plain, warps=["identity", "crop"], boxes=128, scales=[0.25])
    spread = np.sqrt(chance * (1 - chance) / 128).max()
    assert abs(hits.mean() - chance.mean()) < 4 * spread
    distinct, _ = score(Stub(), gradients, plain, warps=["identity", "crop"], boxes=128, scales=[0.25])
    assert distinct.mean() == 1


def test_chance_is_the_share_of_right_places() -> None:
    task = CorrespondenceTask(size=100, scales=(0.25,))
    places = task._places(25.0)
    assert len(places) == 13**2
    assert places.min() == 0
    assert places.max() == 100
    step = places[1, 0] - places[0, 0]
    assert 0 < step <= 6.25


@given(st.sampled_from(GEOMETRIC), st.integers(0, 1000), st.tuples(st.integers(60, 200), st.integers(60, 200)))
def test_drawn_regions_lie_in_both_views(warp: str, seed: int, size: tuple[int, int]) -> None:
    settings = WarpSettings(size=64, warps=(warp,))
    first = settings.first(*size)
    second = settings.second(warp, first, np.random.default_rng(seed))
    side = 0.5 * 64 * second.zoom_over(first)
    assert side < 64
    assert second.zoom_over(first) <= settings.largest_zoom + 1e-9
    corners = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1], [0.3, 0.6]], dtype=torch.float64) * (64 - side)
    boxes = second.carry(torch.cat([corners, corners + side], 1), first)
    torch.testing.assert_close(boxes[:, 2:] - boxes[:, :2], torch.full((5, 2), 32.0, dtype=torch.float64))
    assert boxes.min() >= -1e-9
    assert boxes.max() <= 64 + 1e-9


@pytest.mark.parametrize("warp", GEOMETRIC)
@pytest.mark.parametrize("seed", range(3))
def test_the_picture_and_the_boxes_are_warped_alike(warp: str, seed: int) -> None:
    settings = WarpSettings(size=120, warps=(warp,))
    x, y = np.meshgrid(np.arange(150) + 0.5, np.arange(130) + 0.5)
    blob = 255 * np.exp(-((x - 80) ** 2 + (y - 58) ** 2) / 50)
    image = Image.fromarray(np.repeat(blob[..., None], 3, 2).astype(np.uint8))
    first = settings.first(*image.size)
    second = replace(settings.second(warp, first, np.random.default_rng(seed)), colours=False)
    places = []
    for look in (first, second):
        seen = settings.render(image, look, np.random.default_rng(0))[1].double()
        steps = torch.arange(120) + 0.5
        places.append(torch.stack([(seen.sum(0) * steps).sum(), (seen.sum(1) * steps).sum()]) / seen.sum())
    carried = second.carry(torch.cat([places[1] - 5, places[1] + 5])[None], first)[0]
    torch.testing.assert_close((carried[:2] + carried[2:]) / 2, places[0], atol=0.35, rtol=0)


def test_a_rotated_view_has_no_empty_corner() -> None:
    settings = WarpSettings(size=90, warps=("rotation",), angle=30)
    image = Image.new("RGB", (100, 120), "white")
    first = settings.first(*image.size)
    for seed in range(4):
        look = settings.second("rotation", first, np.random.default_rng(seed))
        assert abs(look.angle) == 30
        assert settings.render(image, look, np.random.default_rng(0)).min() == 255


@pytest.fixture(scope="module")
def scene_split(images: ImageList) -> Split[ClassSet]:
    labelled = ClassSet(images, np.ones((len(images), 1), np.int8), ("scene",))
    return Split(labelled.subset(range(8)), labelled.subset(range(8, 14)))


def test_a_network(scene_split: Split[ClassSet], tmp_path: Path) -> None:
    task = CorrespondenceTask(size=64, boxes=4, warps=("identity", "colour", "view"), scales=(0.25, 0.5))
    start = open_start("random", "test_resnet")
    outcome = task.run(start, scene_split, tmp_path / "a")
    assert outcome.metrics["identity_hit_rate"] > 95
    assert outcome.metrics["identity_hit_rate"] >= outcome.metrics["view_hit_rate"]
    assert outcome.value > outcome.metrics["chance"]
    assert len(outcome.evidence) == 6
    assert outcome.evidence.metric(np.arange(6)) == pytest.approx(outcome.value, abs=1e-9)
    assert set(outcome.per_class) == {f"{warp} {scale}" for warp in task.warps for scale in ("0.25", "0.5")}
    assert np.mean([*outcome.per_class.values()]) == pytest.approx(outcome.value)
    assert all(path.is_file() for path in outcome.artefacts.values())
    again = task.run(start, scene_split, tmp_path / "b")
    assert again.metrics == outcome.metrics
    assert again.artefacts["per_image"].read_bytes() == outcome.artefacts["per_image"].read_bytes()
    other = task.run(start, scene_split, tmp_path / "c", seed=1)
    assert other.metrics != outcome.metrics


def test_settings_that_cannot_be() -> None:
    with pytest.raises(InputError, match=r"scales must be above 0 and below 0\.70"):
        parse(CorrespondenceTask, {"scales": [0.75]}, "test")
    with pytest.raises(InputError, match="each warp can be named once"):
        parse(CorrespondenceTask, {"warps": ["flip", "flip"]}, "test")
    with pytest.raises(InputError, match="crop is a range of shares"):
        parse(CorrespondenceTask, {"crop": [0.9, 0.7]}, "test")


def test_no_images(plain: Start, images: ImageList) -> None:
    with pytest.raises(InputError, match="at least one image"):
        score(Stub(), images.subset([]), plain)
