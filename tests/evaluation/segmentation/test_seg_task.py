"""Segmentation from start to score: metrics against scikit-learn, repetition, frozen backbones, mistakes."""

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from going_on import check_goes_on
from PIL import Image

from regionssl.config import parse, read_yaml
from regionssl.errors import InputError
from regionssl.evaluation import segmentation
from regionssl.evaluation.outcome import Outcome
from regionssl.evaluation.segmentation.config import SegmentationConfig
from regionssl.evaluation.segmentation.network import SegmentationNetwork, build
from regionssl.evaluation.segmentation.pixel_probe import PixelProbeTask
from regionssl.evaluation.segmentation.task import SegmentationTask
from regionssl.evaluation.segmentation.train import train
from regionssl.evaluation.start import open_start
from regionssl.labels.sets import MapSet, Split

PROTOCOLS = Path(segmentation.__file__).parents[1] / "protocols"
RANDOM = open_start("random", "resnet18")
Check = Callable[[Outcome, MapSet, Path], None]
Write = Callable[[list[tuple[np.ndarray, np.ndarray]], int], MapSet]


def small(**settings: object) -> SegmentationTask:
    tree = {"crop": {"size": 48}, "channels": 8, "dilation": 1, "batch_size": 2, "iterations": 2, **settings}
    return parse(SegmentationTask, tree, "test")


@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"head": "deeplabv3", "rates": [2]}])
def test_scores_are_those_of_scikit_learn(
    maps: Split[MapSet], tmp_path: Path, settings: dict[str, object], check_against_sklearn: Check
) -> None:
    outcome = small(**settings).run(RANDOM, maps, tmp_path)
    check_against_sklearn(outcome, maps.val, tmp_path)
    assert all(path.exists() for path in outcome.artefacts.values())
    assert len(list((tmp_path / "pictures").iterdir())) == 5


def test_two_runs_are_equal_to_the_last_bit_and_leave_the_generator_alone(maps: Split[MapSet], tmp_path: Path) -> None:
    task, results = small(), []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        before = torch.get_rng_state()
        network = build(RANDOM, task, len(maps.train.classes), seed)
        train(network, task, maps.train, RANDOM, seed, "cpu")
        assert torch.equal(before, torch.get_rng_state())
        results.append(network.state_dict())
    assert all(torch.equal(value, results[1][key]) for key, value in results[0].items())
    assert not torch.equal(results[0]["head.classifier.weight"], results[2]["head.classifier.weight"])
    first, again = (task.run(RANDOM, maps, tmp_path / name) for name in "ab")
    np.testing.assert_array_equal(first.evidence.counts, again.evidence.counts)  # type: ignore[attr-defined]


def test_a_stopped_training_goes_on_to_the_same_scores(
    maps: Split[MapSet], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_goes_on(small(iterations=4, dropout=0.5), RANDOM, maps, tmp_path, capsys)


def test_colours_that_are_classes_are_learnt(write_maps: Write, tmp_path: Path) -> None:
    colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], np.uint8)
    rng = np.random.default_rng(0)
    cells = [rng.integers(0, 3, (2, 3)).repeat(32, 0).repeat(32, 1) for _ in range(10)]
    pictures = [(colours[labels], labels) for labels in cells]
    data = Split(write_maps(pictures[:8], 3), write_maps(pictures[8:], 3))
    settings = {"crop": {"size": 64, "scale": [1, 1]}, "output_stride": 8, "convs": 1, "auxiliary": 0, "dropout": 0}
    task = small(iterations=60, batch_size=4, lr=0.1, schedule="poly", **settings)
    outcome = task.run(RANDOM, data, tmp_path)
    assert outcome.value > 60
    picture = np.asarray(Image.open(tmp_path / "pictures" / "000000.png"))
    assert picture.shape == (64, 3 * 96 + 16, 3)
    np.testing.assert_array_equal(picture[:, :96], pictures[8][0])


def weights(network: SegmentationNetwork) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_backbone_keeps_weights_and_statistics(maps: Split[MapSet], tmp_path: Path, frozen: bool) -> None:
    path = tmp_path / "weights.pt"
    torch.save(RANDOM.encoder().body.state_dict(), path)
    task, start = small(frozen=frozen), open_start(str(path), "resnet18")
    network = build(start, task, len(maps.train.classes), 0)
    before = weights(network)
    train(network, task, maps.train, start, 0, "cpu")
    after = weights(network)
    same = {key: torch.equal(after[key], value) for key, value in before.items()}
    if frozen:
        assert all(same[key] for key in same if key.startswith("encoder."))
    else:
        assert not any(same[key] for key in same if key.startswith("encoder."))
    assert not any(same[key] for key in same if not key.startswith("encoder."))


def test_a_frozen_random_backbone_takes_statistics_once(maps: Split[MapSet]) -> None:
    states = []
    for iterations in (1, 3):
        task = small(frozen=True, iterations=iterations)
        network = build(RANDOM, task, len(maps.train.classes), 0)
        train(network, task, maps.train, RANDOM, 0, "cpu")
        states.append(weights(network))
    means = [state["encoder.body.layer1.0.bn1.running_mean"] for state in states]
    assert means[0].abs().max() > 0
    assert torch.equal(*means)


def test_rates_of_the_schedules() -> None:
    voc = SegmentationConfig()
    assert [voc.rate(step) for step in (0, 20_999, 21_000, 26_999, 27_000)] == pytest.approx(
        [0.01, 0.01, 0.001, 0.001, 0.0001]
    )
    assert SegmentationConfig(drops=(21_000, 27_000)).rate(26_999) == voc.rate(26_999)
    poly = SegmentationConfig(schedule="poly", lr=1, iterations=100, warmup=10)
    assert poly.rate(0) == pytest.approx(0.1)
    assert poly.rate(50) == pytest.approx(0.5**0.9)
    assert 0 < poly.rate(99) < 0.02


def protocols() -> list[Path]:
    kinds = {"segmentation", "pixel_probe"}
    return [path for path in sorted(PROTOCOLS.glob("*.yaml")) if read_yaml(path)["task"] in kinds]


def test_protocols_exist() -> None:
    names = {path.stem for path in protocols()}
    assert names >= {"voc_fcn", "cityscapes_fcn", "ade20k_fcn", "coco_stuff_fcn", "voc_deeplabv3"}
    assert names >= {"segmentation_small", "pixel_probe"}


@pytest.mark.parametrize("path", protocols(), ids=lambda path: path.stem)
def test_protocols_hold_settings_of_their_task(path: Path) -> None:
    tree = read_yaml(path)
    about = tree.pop("about")
    assert set(about) == {"summary", "source", "data"}
    kind = {"segmentation": SegmentationTask, "pixel_probe": PixelProbeTask}[tree.pop("task")]
    parse(kind, tree, str(path))


def test_published_protocols() -> None:
    voc, cityscapes = (read_yaml(PROTOCOLS / f"{name}_fcn.yaml") for name in ("voc", "cityscapes"))
    settings = {key: value for key, value in voc.items() if key not in ("task", "about")}
    assert parse(SegmentationConfig, settings, "voc") == SegmentationConfig()
    assert round(cityscapes["iterations"] * 16 / 2975) == 160


def test_mistakes_are_named(maps: Split[MapSet], write_maps: Write, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"multiples of 32 px, and crop.size is 48; set crop.size to 64"):
        small(output_stride=32).run(open_start("random", "convnext_atto"), maps, tmp_path)
    with pytest.raises(InputError, match=r"the loss is (nan|inf) at iteration 2 with lr 1e\+30; lower lr"):
        small(lr=1e30, iterations=3).run(RANDOM, maps, tmp_path)
    with pytest.raises(InputError, match="drops"):
        small(drops=[0])
    empty = write_maps([(np.zeros((64, 64, 3), np.uint8), np.full((64, 64), 255))], 3)
    train = write_maps([(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64)))], 3)
    with pytest.raises(InputError, match="none of the 1 validation images has a labelled pixel"):
        small().run(RANDOM, Split(train, empty), tmp_path)
    with pytest.raises(InputError, match="values"):
        small().run(RANDOM, Split(replace(maps.train, values=np.full(256, -2)), maps.val), tmp_path)


def test_images_without_labels_leave_the_network_finite(write_maps: Write, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(2)]
    data = write_maps([(noise[0], np.full((64, 64), 255)), (noise[1], np.zeros((64, 64)))], 2)
    outcome = small(iterations=3).run(RANDOM, Split(data, data), tmp_path)
    assert outcome.evidence.metric(np.array([0, 1])) == pytest.approx(outcome.value)


def worker(rank: int, port: int, maps: Split[MapSet], out: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.save(trained(maps), f"{out}/{rank}.pt")
    dist.destroy_process_group()


def trained(maps: Split[MapSet]) -> dict[str, torch.Tensor]:
    task = small(batch_size=4, dropout=0.0, lr=0.001)
    network = build(RANDOM, task, len(maps.train.classes), 0)
    train(network, task, maps.train, RANDOM, 0, "cpu")
    return network.state_dict()


def test_two_processes_equal_one(maps: Split[MapSet], tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, (port, maps, str(tmp_path)), nprocs=2)
    single, parts = trained(maps), [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for key, value in single.items():
        assert torch.equal(parts[0][key], parts[1][key])
        torch.testing.assert_close(parts[0][key], value, atol=2e-4, rtol=2e-3)
