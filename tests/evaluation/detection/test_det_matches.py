"""Evidence of average precision against pycocotools, on all images, on drawn ones, and by hand."""

import contextlib
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from regionssl.errors import InputError
from regionssl.evaluation.detection.coco_metrics import coco_scores
from regionssl.evaluation.detection.matches import DetectionEvidence, Matches, average_precision


def random_case(images: int, classes: int, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects with crowds and boxes near them; equal scores in different images, never in one."""
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    for image in range(1, images + 1):
        scores = iter(rng.permutation(np.arange(1, 16)) / 16)
        for _ in range(rng.integers(0, 5)):
            x, y, w, h = (*rng.uniform(0, 60, 2), *rng.uniform(5, 120, 2))
            label = int(rng.integers(1, classes + 1))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
            for _ in range(rng.integers(0, 3)):
                moved = (np.array([x, y, w, h]) + rng.normal(0, 0.08 * w, 4)).tolist()
                seen = label if rng.random() < 0.8 else int(rng.integers(1, classes + 1))
                results.append({"image_id": image, "category_id": seen, "bbox": moved, "score": float(next(scores))})
    pictures = [{"id": image, "width": 200, "height": 200} for image in range(1, images + 1)]
    names = [{"id": label, "name": f"class {label}"} for label in range(1, classes + 1)]
    return {"info": {}, "images": pictures, "annotations": annotations, "categories": names}, results


def oracle(truth: dict[str, Any], results: list[dict[str, Any]]) -> list[float]:
    """What pycocotools says of boxes."""
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = truth
        known.createIndex()
        evaluation = COCOeval(known, known.loadRes([dict(result) for result in results]), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * float(value) for value in evaluation.stats]


def drawn(truth: dict[str, Any], results: list[dict[str, Any]], rows: list[int]) -> tuple[Any, Any]:
    """A set that really holds the images ``rows``, as often as they occur."""
    annotations, copies = [], []
    for place, row in enumerate(rows, 1):
        for one in truth["annotations"]:
            if one["image_id"] == row + 1:
                annotations.append(one | {"id": len(annotations) + 1, "image_id": place})
        copies += [one | {"image_id": place} for one in results if one["image_id"] == row + 1]
    pictures = [{"id": place, "width": 200, "height": 200} for place in range(1, len(rows) + 1)]
    return truth | {"images": pictures, "annotations": annotations}, copies


@pytest.mark.parametrize("seed", range(3))
def test_all_images_equal_pycocotools(seed: int) -> None:
    truth, results = random_case(20, 3, seed)
    expected = oracle(truth, results)
    scores, evidence = coco_scores(truth, results, "bbox")
    for name, value in zip(("ap", "ap50", "ap75", "aps", "apm", "apl"), expected, strict=False):
        assert scores.get(name, -100) == pytest.approx(value, abs=1e-9)
    assert 5 < expected[0] < 95
    assert evidence.metric(np.arange(20)) == pytest.approx(expected[0], abs=1e-9)
    assert np.nanmean(evidence.precisions(np.arange(20))[0]) == pytest.approx(expected[1], abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_drawn_images_equal_a_set_that_holds_them(seed: int) -> None:
    truth, results = random_case(12, 2, seed)
    _, evidence = coco_scores(truth, results, "bbox")
    # equal scores of different images count in the order of the images, so the drawn ones are sorted
    rows = np.sort(np.random.default_rng(seed).integers(0, 12, 12))
    assert len(set(rows.tolist())) < 12
    assert evidence.metric(rows) == pytest.approx(oracle(*drawn(truth, results, rows.tolist()))[0], abs=1e-9)
    assert evidence.metric(rows[::-1]) == evidence.metric(rows)


def test_nothing_found_and_nothing_there() -> None:
    truth, _ = random_case(6, 2, 0)
    truth["annotations"] = [one for one in truth["annotations"] if one["image_id"] > 1]
    scores, evidence = coco_scores(truth, [], "bbox")
    assert scores["ap"] == 0 == evidence.metric(np.arange(6))
    assert np.isnan(evidence.metric(np.array([0, 0])))


def test_a_class_without_objects_has_no_value() -> None:
    truth, results = random_case(10, 3, 1)
    truth["annotations"] = [one for one in truth["annotations"] if one["category_id"] != 2]
    scores, evidence = coco_scores(truth, results, "bbox")
    table = evidence.precisions(np.arange(10))
    assert np.isnan(table[:, 1]).all()
    assert not np.isnan(table[:, [0, 2]]).any()
    assert scores["ap"] == pytest.approx(oracle(truth, results)[0], abs=1e-9)


def test_save_and_load(tmp_path: Path) -> None:
    _, evidence = coco_scores(*random_case(15, 3, 2), "bbox")
    rows = np.random.default_rng(0).integers(0, 15, 15)
    for curve in ("coco", "voc07", "voc12"):
        one = DetectionEvidence(evidence.matches, curve)
        one.save(tmp_path / f"{curve}.npz")
        again = DetectionEvidence.load(tmp_path / f"{curve}.npz")
        assert again.curve == curve
        assert again.metric(rows) == one.metric(rows)
    np.savez(tmp_path / "other.npz", kind="shares")
    with pytest.raises(InputError, match="kind shares"):
        DetectionEvidence.load(tmp_path / "other.npz")


def test_a_draw_is_fast() -> None:
    """100 images with 100 detections each."""
    rng = np.random.default_rng(0)
    count = 10_000
    hit = rng.random((10, count)) < 0.2
    matches = Matches(
        rng.integers(0, 100, count),
        rng.integers(0, 5, count),
        rng.random(count),
        hit,
        ~hit & (rng.random((10, count)) < 0.1),
        np.full((100, 5), 5),
    )
    evidence = DetectionEvidence(matches)
    evidence.metric(np.arange(100))
    best = 1.0
    for draw in range(5):
        began = time.process_time()
        evidence.metric(np.random.default_rng(draw).integers(0, 100, 100))
        best = min(best, time.process_time() - began)
    assert best < 0.1


def test_average_precision_by_hand() -> None:
    """Four objects; hit, miss, hit, miss, hit: precision 1, 1/2, 2/3, 1/2, 3/5 at recall 1/4, 1/4, 1/2, 1/2, 3/4."""
    hit = np.array([[1, 0, 1, 0, 1]], bool)
    hits, misses = np.cumsum(hit, 1), np.cumsum(~hit, 1)
    area = 0.25 * 1 + 0.25 * 2 / 3 + 0.25 * 3 / 5
    eleven = (3 * 1 + 3 * 2 / 3 + 2 * 3 / 5 + 3 * 0) / 11  # recalls 0 to 0.2, 0.3 to 0.5, 0.6 and 0.7, 0.8 to 1
    hundred = (26 * 1 + 25 * 2 / 3 + 25 * 3 / 5) / 101
    for curve, expected in (("voc12", area), ("voc07", eleven), ("coco", hundred)):
        assert average_precision(hits, misses, 4, curve)[0] == pytest.approx(expected, abs=1e-12)  # type: ignore[arg-type]
