"""The dense-pose task on generated bodies."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from body_scenes import body_set, write_plane

from regionssl import evaluation
from regionssl.config import parse, read_yaml
from regionssl.errors import InputError, TooFewLabels
from regionssl.evaluation.densepose.dense_pose import DensePoseTask
from regionssl.evaluation.outcome import Outcome
from regionssl.evaluation.start import open_start
from regionssl.labels.sets import ObjectSet, Split

SMALL = DensePoseTask(
    train_sizes=(64,),
    test_size=64,
    max_size=64,
    anchor_scale=0.5,
    norm="group",
    fpn_norm="group",
    fpn_width=32,
    head_width=64,
    regions=16,
    rpn_train=(100, 50),
    rpn_test=(50, 20),
    detections=5,
    convs=2,
    width=32,
    lr=0.02,
    batch_size=4,
    iterations=2,
    warmup=10,
    drops=(0.8,),
    clip=10,
    pictures=2,
)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split[ObjectSet]:
    folder = tmp_path_factory.mktemp("bodies")
    return Split(body_set(folder / "train", 16, size=64), body_set(folder / "val", 4, size=64, seed=1))


@pytest.fixture(scope="module")
def surface(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("surface") / "plane.npz"
    write_plane(path)
    return path


def run(split: Split[ObjectSet], out: Path, **changes: object) -> Outcome:
    return SMALL.model_copy(update=changes).run(open_start("random", "resnet18"), split, out)


def test_two_runs_are_equal_and_leave_what_they_say(split: Split[ObjectSet], surface: Path, tmp_path: Path) -> None:
    first, second = (run(split, tmp_path / name, surface=surface, coarse=15) for name in "ab")
    assert first.metrics == second.metrics
    assert first.artefacts["losses"].read_bytes() == second.artefacts["losses"].read_bytes()
    assert first.primary == "gps_ap"
    assert {"gps_ap", "gps_ap50", "box_ap"} <= first.metrics.keys()
    assert first.evidence.metric(np.arange(4)) == pytest.approx(first.value, abs=1e-9)
    with np.load(first.artefacts["predictions"]) as one, np.load(second.artefacts["predictions"]) as other:
        assert one["names"].tolist() == list(split.val.images.names)
        assert one["part"].shape == (len(one["image"]), 56, 56)
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])
    assert len(list(first.artefacts["pictures"].iterdir())) == 2


def test_without_a_surface_there_is_no_gps(
    split: Split[ObjectSet], surface: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=r"GPS needs distances.*score=uv_similarity"):
        run(split, tmp_path, flip=0)
    with pytest.raises(InputError, match=r"array mirror.*flip=0"):
        run(split, tmp_path, score="uv_similarity")
    outcome = run(split, tmp_path / "uv", score="uv_similarity", flip=0, pictures=0, iterations=1)
    assert outcome.primary == "uv_similarity_ap"
    assert not [name for name in outcome.metrics if "gps" in name]
    assert "not GPS" in capsys.readouterr().err


def test_images_are_not_cut() -> None:
    with pytest.raises(ValueError, match="leave jitter out"):
        DensePoseTask(jitter=(0.8, 1.25))


def test_labels_without_dense_pose(split: Split[ObjectSet], surface: Path, tmp_path: Path) -> None:
    bare = replace(split.train, objects=tuple(replace(one, dense=()) for one in split.train.objects))
    with pytest.raises(TooFewLabels, match="none of the 16 images has an object with dense pose"):
        run(Split(bare, split.val), tmp_path, surface=surface)


def test_a_surface_that_lacks_parts(split: Split[ObjectSet], tmp_path: Path) -> None:
    np.savez(tmp_path / "part.npz", part=[1, 2], u=[0.5, 0.5], v=[0.5, 0.5], distances=[0.3], mirror=[1, 0])
    with pytest.raises(InputError, match=r"parts \[3, 4, 5, 6\]"):
        run(split, tmp_path, surface=tmp_path / "part.npz")


def test_the_published_protocol_says_that_it_is_a_convention() -> None:
    file = read_yaml(Path(str(evaluation.__file__)).parent / "protocols" / "densepose_s1x.yaml")
    assert file.pop("task") == DensePoseTask.task
    assert "not verified" in file.pop("about")["source"]
    task = parse(DensePoseTask, file, "densepose_s1x")
    assert (task.score, task.surface, task.iterations, task.lr) == ("gps", None, 130_000, 0.01)


@pytest.mark.long
def test_dense_pose_is_learnt(split: Split[ObjectSet], surface: Path, tmp_path: Path) -> None:
    outcome = run(split, tmp_path, surface=surface, iterations=120)
    assert outcome.metrics["box_ap"] > 40
    assert outcome.metrics["gps_ap"] > 60
