"""The keypoint task on generated bodies."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from body_scenes import NAMES, body_set

from regionssl import evaluation
from regionssl.config import parse, read_yaml
from regionssl.errors import InputError, TooFewLabels
from regionssl.evaluation.detection.matches import DetectionEvidence
from regionssl.evaluation.keypoints import KeypointTask, keypoint_results, trainable
from regionssl.evaluation.outcome import Outcome
from regionssl.evaluation.point_precision import COCO_KEYPOINTS
from regionssl.evaluation.start import open_start
from regionssl.labels.sets import ObjectSet, Split

SMALL = KeypointTask(
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
    offset=0,
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


def run(split: Split[ObjectSet], out: Path, **changes: object) -> Outcome:
    return SMALL.model_copy(update=changes).run(open_start("random", "resnet18"), split, out)


def test_two_runs_are_equal_and_leave_what_they_say(split: Split[ObjectSet], tmp_path: Path) -> None:
    first, second = run(split, tmp_path / "a"), run(split, tmp_path / "b")
    assert first.metrics == second.metrics
    assert first.per_class == second.per_class
    for name in ("predictions", "losses", "per_class"):
        assert first.artefacts[name].read_bytes() == second.artefacts[name].read_bytes()
    assert first.primary == "keypoint_ap"
    assert {"keypoint_ap", "keypoint_ap50", "keypoint_ap75", "box_ap"} <= first.metrics.keys()
    assert first.evidence.metric(np.arange(4)) == pytest.approx(first.value, abs=1e-9)
    first.evidence.save(tmp_path / "evidence.npz")
    rows = np.array([2, 2, 0])
    assert DetectionEvidence.load(tmp_path / "evidence.npz").metric(rows) == first.evidence.metric(rows)
    results = json.loads(first.artefacts["predictions"].read_text())
    assert all(len(one["keypoints"]) == 18 and one["category"] == "person" for one in results)
    assert len(list(first.artefacts["pictures"].iterdir())) == 2
    with first.artefacts["per_class"].open() as file:
        assert [row["class"] for row in csv.DictReader(file)] == ["person"]


def test_bad_labels(split: Split[ObjectSet], tmp_path: Path) -> None:
    bare = replace(
        split.train, keypoint_names=(), objects=tuple(replace(one, keypoints=None) for one in split.train.objects)
    )
    with pytest.raises(TooFewLabels, match="16 training images has an object with labelled keypoints"):
        run(Split(bare, split.val), tmp_path)
    blind = replace(split.val, objects=tuple(replace(one, keypoints=np.zeros((1, 6, 3))) for one in split.val.objects))
    with pytest.raises(InputError, match="4 validation images"):
        run(Split(split.train, blind), tmp_path)
    with pytest.raises(InputError, match=r"sigmas has 2 values.*6 keypoints \(left_head"):
        run(split, tmp_path, sigmas=(0.1, 0.1))


def test_sigmas(capsys: pytest.CaptureFixture[str]) -> None:
    assert SMALL.similarity_spreads(COCO_KEYPOINTS) is None
    assert capsys.readouterr().err == ""
    assert SMALL.similarity_spreads(NAMES) == (0.05,) * 6
    assert "0.05 for each of 6" in capsys.readouterr().err
    assert KeypointTask(sigmas=(0.1, 0.2)).similarity_spreads(("a", "b")) == (0.1, 0.2)
    with pytest.raises(ValueError, match="between 0 and 1"):
        KeypointTask(sigmas=(0.1, 0.0))


def test_images_without_a_labelled_keypoint_do_not_train(split: Split[ObjectSet]) -> None:
    objects = list(split.val.objects)
    objects[1] = replace(objects[1], keypoints=np.zeros((1, 6, 3)))
    objects[2] = replace(objects[2], crowd=np.array([True]))
    kept = trainable(replace(split.val, objects=tuple(objects)), 0.5)
    assert list(kept.images.names) == [split.val.images.names[i] for i in (0, 3)]
    before, after = split.val.objects[0].keypoints, kept.objects[0].keypoints
    assert before is not None
    assert after is not None
    np.testing.assert_allclose(after - before, np.broadcast_to([0.5, 0.5, 0], (1, 6, 3)))


def test_results_undo_the_offset_and_come_by_score() -> None:
    output = {
        "boxes": torch.tensor([[0.0, 0, 4, 4], [10, 20, 40, 80]]),
        "labels": torch.tensor([1, 2]),
        "scores": torch.tensor([0.25, 0.75]),
        "keypoints": torch.tensor([[[1.0, 2, 1]], [[15.5, 30, 1]]]),
    }
    first, second = keypoint_results(output, 6, 0.5)
    assert first == {
        "image_id": 7,
        "category_id": 2,
        "bbox": [10, 20, 30, 60],
        "keypoints": [15, 29.5, 1],
        "score": 0.75,
    }
    assert second["keypoints"] == [0.5, 1.5, 1]


def test_cocos_protocol_is_scrls() -> None:
    file = read_yaml(Path(str(evaluation.__file__)).parent / "protocols" / "coco_keypoints.yaml")
    assert file.pop("task") == KeypointTask.task
    assert "not published" in file.pop("about")["source"]
    task = parse(KeypointTask, file, "coco_keypoints")
    assert (task.rpn_train[1], task.box_beta, task.iterations, task.drops) == (1500, 0.5, 90_000, (60_000, 80_000))
    assert task == KeypointTask()


@pytest.mark.long
def test_keypoints_are_learnt(split: Split[ObjectSet], tmp_path: Path) -> None:
    """Bodies look the same left and right, so flips teach the right thing only if the pairs change places."""
    outcome = run(split, tmp_path, iterations=200)
    assert outcome.metrics["box_ap"] > 40
    assert outcome.metrics["keypoint_ap"] > 60
