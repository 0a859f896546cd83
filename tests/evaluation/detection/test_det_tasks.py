"""Whole evaluations on tiny scenes, and one that has to learn."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from going_on import check_goes_on
from PIL import Image
from pycocotools.coco import COCO

from regionssl import run_lengths
from regionssl.data.images import find_images
from regionssl.errors import InputError
from regionssl.evaluation.detection.coco_metrics import coco_scores
from regionssl.evaluation.detection.detection import DetectionTask, InstanceTask
from regionssl.evaluation.detection.matches import DetectionEvidence
from regionssl.evaluation.detection.predictions import Detections, coco_results
from regionssl.evaluation.detection.predictions import run_lengths as run_lengths_of
from regionssl.evaluation.detection.voc_metrics import voc_scores
from regionssl.evaluation.start import Start
from regionssl.evaluation.tasks import load_protocol, protocol_names
from regionssl.labels.coco import coco
from regionssl.labels.sets import Objects, ObjectSet, Split

SHORT: dict[str, Any] = {"lr": 0.01, "batch_size": 2, "iterations": 2, "warmup": 1, "drops": (0.5,), "pictures": 2}


@pytest.fixture(scope="module")
def split(labelled: ObjectSet) -> Split[ObjectSet]:
    return Split(labelled.subset(range(6)), labelled.subset(range(6, 10)))


def test_instances(split: Split[ObjectSet], random_start: Start, cheap: dict[str, Any], tmp_path: Path) -> None:
    task = InstanceTask(**cheap, **SHORT, precise_norm=1, least_score=0.0, detections=5)
    outcome = task.run(random_start, split, tmp_path / "a")
    assert outcome.primary == "mask_ap"
    assert {"mask_ap", "mask_ap50", "box_ap", "box_ap75"} <= set(outcome.metrics)
    assert outcome.evidence.metric(np.arange(4)) == pytest.approx(outcome.value, abs=1e-9)
    results = json.loads(outcome.artefacts["predictions"].read_text())
    assert len(results) == 20
    first = results[0]
    assert first["file_name"] == split.val.images.names[first["image_id"] - 1]
    assert first["category"] == split.val.classes[first["category_id"] - 1]
    ann = {**first, "iscrowd": 0}
    reader = COCO()
    reader.imgs = {first["image_id"]: {"height": 96, "width": 96}}
    assert reader.annToMask(ann).shape == (96, 96)
    pictures = sorted(outcome.artefacts["pictures"].iterdir())
    assert len(pictures) == 2
    assert Image.open(pictures[0]).size == (96 * 2 + 8, 96)
    rows = list(csv.DictReader(outcome.artefacts["per_class"].open()))
    assert [row["class"] for row in rows] == list(split.val.classes)
    assert set(outcome.per_class) == set(split.val.classes)

    again = task.run(random_start, split, tmp_path / "b")
    assert again.metrics == outcome.metrics
    for name in ("predictions", "losses", "per_class"):
        assert again.artefacts[name].read_bytes() == outcome.artefacts[name].read_bytes()
    assert task.run(random_start, split, tmp_path / "c", seed=1).artefacts["losses"].read_bytes() != (
        outcome.artefacts["losses"].read_bytes()
    )


def test_a_stopped_training_goes_on_to_the_same_detections(
    split: Split[ObjectSet],
    random_start: Start,
    cheap: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = DetectionTask(**cheap, **SHORT | {"iterations": 4, "pictures": 0}, precise_norm=1, least_score=0.0)
    check_goes_on(task, random_start, split, tmp_path, capsys)
    losses = [(tmp_path / name / "losses.csv").read_text().splitlines() for name in ("whole", "parts")]
    assert [len(rows) for rows in losses] == [5, 5]


@pytest.mark.parametrize(("detector", "metric"), [("fcos", "voc12"), ("retinanet", "voc07")])
def test_detection_scored_as_voc(
    detector: str,
    metric: str,
    split: Split[ObjectSet],
    random_start: Start,
    cheap: dict[str, Any],
    tmp_path: Path,
) -> None:
    task = DetectionTask(**cheap, **SHORT, detector=detector, metric=metric)
    outcome = task.run(random_start, split, tmp_path)
    assert set(outcome.metrics) == {"box_ap", "box_ap50", "box_ap75"}
    outcome.evidence.save(tmp_path / "evidence.npz")
    again = DetectionEvidence.load(tmp_path / "evidence.npz")
    assert again.curve == metric
    assert again.metric(np.arange(4)) == outcome.value


def test_masks_are_needed(split: Split[ObjectSet], random_start: Start, tmp_path: Path) -> None:
    bare = tuple(dataclasses.replace(one, masks=()) for one in split.train.objects)
    with pytest.raises(InputError, match="in 6 of the 6 training images objects have boxes alone"):
        InstanceTask().run(random_start, Split(dataclasses.replace(split.train, objects=bare), split.val), tmp_path)


def test_nothing_to_score(split: Split[ObjectSet], random_start: Start, tmp_path: Path) -> None:
    none = tuple(dataclasses.replace(one, crowd=np.ones_like(one.crowd)) for one in split.val.objects)
    with pytest.raises(InputError, match="none of the 4 validation images has an object"):
        DetectionTask().run(random_start, Split(split.train, dataclasses.replace(split.val, objects=none)), tmp_path)


def easy(folder: Path, count: int) -> ObjectSet:
    """A bright rectangle on a dark ground in each picture."""
    folder.mkdir()
    objects = []
    for i in range(count):
        rng = np.random.default_rng(i)
        x, y, w, h = (int(value) for value in (*rng.integers(4, 30, 2), *rng.integers(20, 30, 2)))
        pixels = rng.integers(0, 40, (64, 64, 3)).astype(np.uint8)
        pixels[y : y + h, x : x + w] = (230, 180, 60)
        mask = np.zeros((64, 64), bool)
        mask[y : y + h, x : x + w] = True
        runs = ({"size": [64, 64], "counts": run_lengths.encode(mask)},)
        box = np.array([[x, y, x + w, y + h]], float)
        objects.append(Objects(box, np.zeros(1, np.int64), np.zeros(1, bool), np.array([w * h * 1.0]), runs))
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return ObjectSet(find_images(folder), np.full((count, 2), 64), tuple(objects), ("rectangle",))


@pytest.mark.long
def test_it_learns(random_start: Start, cheap: dict[str, Any], tmp_path: Path) -> None:
    """From random weights, on other pictures than it is scored on."""
    data = easy(tmp_path / "easy", 24)
    wider = cheap | {"head_width": 128, "regions": 32}
    task = InstanceTask(**wider, lr=0.05, batch_size=4, iterations=120, warmup=5, drops=(0.8,), clip=10, precise_norm=4)
    outcome = task.run(random_start, Split(data.subset(range(16)), data.subset(range(16, 24))), tmp_path / "out")
    assert outcome.metrics["box_ap50"] > 60
    assert outcome.metrics["mask_ap50"] > 60
    losses = [float(row["loss"]) for row in csv.DictReader(outcome.artefacts["losses"].open())]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


@pytest.mark.parametrize("task", ["detection", "instance_segmentation"])
def test_protocols_are_read(task: str) -> None:
    names = protocol_names(task)
    assert names
    for name in names:
        found = load_protocol(task, name)
        assert found.about.summary
        assert found.settings["batch_size"] > 0


def test_the_truth_scores_full_marks(labelled: ObjectSet) -> None:
    """Objects handed back as detections, masks encoded as a detector's are; shifted ones score less."""
    found = [truth_as_found(labelled, i) for i in range(len(labelled))]
    for kind in ("bbox", "segm"):
        scores, _ = coco_scores(coco(labelled), coco_results(found), kind)  # type: ignore[arg-type]
        assert scores["ap"] == pytest.approx(100)
    assert voc_scores(labelled, found)[0]["ap"] == pytest.approx(100)
    away = [dataclasses.replace(one, boxes=one.boxes + 3) for one in found]
    shifted, _ = coco_scores(coco(labelled), coco_results(away), "bbox")
    assert 5 < shifted["ap"] < 80
    assert coco_scores(coco(labelled), coco_results(away), "segm")[0]["ap"] == pytest.approx(100)


def truth_as_found(data: ObjectSet, i: int) -> Detections:
    one = data.objects[i]
    masks = torch.from_numpy(np.stack([data.mask(i, k) for k in range(len(one.labels))])).float()[:, None]
    scores = np.linspace(0.9, 0.5, len(one.labels)).astype(np.float32)
    return Detections(one.boxes.astype(np.float32), scores, one.labels, run_lengths_of(masks))
