"""VOC's average precision by hand and against a slow reading of VOC's rules."""

import numpy as np
import pytest

from regionssl.data.image_list import ImageList
from regionssl.data.store import Files, Names
from regionssl.evaluation.detection.predictions import Detections
from regionssl.evaluation.detection.voc_metrics import voc_scores
from regionssl.labels.sets import Objects, ObjectSet


def objects(boxes: list[list[float]], labels: list[int], difficult: list[bool] | None = None) -> Objects:
    array = np.array(boxes, np.float64).reshape(-1, 4)
    crowd = np.array(difficult if difficult is not None else [False] * len(boxes), bool)
    return Objects(array, np.array(labels, np.int64), crowd, np.prod(array[:, 2:] - array[:, :2], 1))


def detections(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Detections:
    order = np.argsort(-np.array(scores), kind="stable")
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4)[order],
        np.array(scores, np.float32)[order],
        np.array(labels, np.int64)[order],
    )


def labelled(truth: list[Objects], classes: int) -> ObjectSet:
    images = ImageList("", Files("", Names(f"{i}.jpg" for i in range(len(truth)))))
    sizes = np.full((len(truth), 2), 100)
    return ObjectSet(images, sizes, tuple(truth), tuple(f"class {i}" for i in range(classes)))


def slow_overlap(a: list[float], b: list[float]) -> float:
    """Of boxes written as VOC writes them, inclusive pixels that count from 1."""
    a, b = ([box[0] + 1, box[1] + 1, box[2], box[3]] for box in (a, b))
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + 1, 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + 1, 0.0)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def slow_precision(truth: list[Objects], found: list[Detections], label: int, least: float, eleven: bool) -> float:
    """One class at one overlap, detection by detection."""
    entries = sorted(
        (
            (float(one.scores[k]), i, one.boxes[k].astype(float).tolist())
            for i, one in enumerate(found)
            for k in range(len(one.scores))
            if one.labels[k] == label
        ),
        key=lambda entry: -entry[0],
    )
    mine = [np.flatnonzero(one.labels == label) for one in truth]
    count = sum(int((~one.crowd[rows]).sum()) for one, rows in zip(truth, mine, strict=True))
    used: set[tuple[int, int]] = set()
    hits, misses, curve = 0, 0, []
    for _, i, box in entries:
        overlaps = [slow_overlap(box, truth[i].boxes[k].tolist()) for k in mine[i]]
        best = int(np.argmax(overlaps)) if overlaps else -1
        if overlaps and overlaps[best] > least:
            if truth[i].crowd[mine[i][best]]:
                pass
            elif (i, best) not in used:
                used.add((i, best))
                hits += 1
            else:
                misses += 1
        else:
            misses += 1
        curve.append((hits / count, hits / max(hits + misses, 1e-12)))
    if eleven:
        marks = np.arange(0.0, 1.1, 0.1)
        return float(np.mean([max([p for r, p in curve if r >= mark], default=0.0) for mark in marks]))
    area, before = 0.0, 0.0
    for place, (recall, _) in enumerate(curve):
        area += (recall - before) * max(p for _, p in curve[place:])
        before = recall
    return area


def test_by_hand() -> None:
    """Two objects and a difficult one: the best hits, a second one there misses, the difficult one is passed over."""
    truth = objects([[0, 0, 10, 10], [20, 0, 40, 20], [60, 60, 80, 80]], [0, 0, 0], [False, False, True])
    found = detections(
        [[0, 0, 10, 10], [0, 0, 10, 9], [60, 60, 80, 80], [20, 0, 40, 14]], [0.9, 0.8, 0.7, 0.6], [0] * 4
    )
    scores, _ = voc_scores(labelled([truth], 1), [found], "voc12")
    # at 0.5: hit, miss, -, hit: 1/2 * 1 + 1/2 * 2/3; the last has an overlap of 0.7, which does not exceed 0.75
    assert scores["ap50"] == pytest.approx(100 * (1 / 2 + 1 / 3))
    assert scores["ap75"] == pytest.approx(50)
    scores, _ = voc_scores(labelled([truth], 1), [found], "voc07")
    assert scores["ap50"] == pytest.approx(100 * (6 * 1 + 5 * 2 / 3) / 11)
    assert scores["ap75"] == pytest.approx(100 * 6 / 11)


def test_an_object_is_not_given_to_the_second_best() -> None:
    """COCO would match the second box to the other object; VOC goes by the largest overlap alone."""
    truth = objects([[0, 0, 10, 10], [2, 0, 12, 10]], [0, 0])
    found = detections([[0, 0, 10, 10], [0.5, 0, 10.5, 10]], [0.9, 0.8], [0, 0])
    scores, evidence = voc_scores(labelled([truth], 1), [found], "voc12")
    assert scores["ap50"] == pytest.approx(50)
    assert evidence.matches.hit[0].tolist() == [True, False]


@pytest.mark.parametrize("seed", range(5))
def test_against_the_slow_reading(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(8):
        count = int(rng.integers(1, 5))
        corner = rng.integers(0, 60, (count, 2))
        boxes = np.concatenate([corner, corner + rng.integers(8, 40, (count, 2))], 1).astype(float)
        labels = rng.integers(0, 2, count)
        truth.append(objects(boxes.tolist(), labels.tolist(), (rng.random(count) < 0.2).tolist()))
        rows = rng.integers(0, count, 6)
        moved = boxes[rows] + rng.integers(-3, 4, (6, 4))
        found.append(detections(moved.tolist(), rng.permutation(100)[:6].tolist(), labels[rows].tolist()))
    for curve in ("voc07", "voc12"):
        scores, evidence = voc_scores(labelled(truth, 2), found, curve)  # type: ignore[arg-type]
        expected = np.array(
            [
                [100 * slow_precision(truth, found, label, least, curve == "voc07") for label in (0, 1)]
                for least in np.linspace(0.5, 0.95, 10)
            ]
        )
        np.testing.assert_allclose(evidence.precisions(np.arange(8)), expected, atol=1e-9)
        assert scores["ap"] == pytest.approx(expected.mean())
        assert scores["ap75"] == pytest.approx(expected[5].mean())
        assert evidence.metric(np.arange(8)) == pytest.approx(scores["ap"])
        twice = np.repeat(np.arange(8), 2)
        pairs = [one for one in truth for _ in range(2)], [one for one in found for _ in range(2)]
        assert evidence.metric(twice) == pytest.approx(voc_scores(labelled(pairs[0], 2), pairs[1], curve)[0]["ap"])  # type: ignore[arg-type]
