"""Average precision by similarities of points: against pycocotools, a plain matching and cases worked out by hand."""

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from regionssl.evaluation.point_precision import COCO_KEYPOINTS, keypoint_scores, similarity_scores


def persons(images: int, keypoints: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    annotations = []
    for image in range(images):
        for _ in range(rng.integers(0, 4)):
            corner, extent = rng.uniform(0, 200, 2), rng.uniform(20, 150, 2)
            points = np.column_stack([corner + rng.random((keypoints, 2)) * extent, rng.integers(0, 3, keypoints)])
            points[points[:, 2] == 0] = 0
            if rng.random() < 0.15:
                points[:] = 0
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image + 1,
                    "category_id": 1,
                    "bbox": [*corner.tolist(), *extent.tolist()],
                    "area": float(extent.prod()),
                    "iscrowd": int(rng.random() < 0.1),
                    "keypoints": points.ravel().tolist(),
                    "num_keypoints": int((points[:, 2] > 0).sum()),
                }
            )
    return {
        "images": [{"id": image + 1} for image in range(images)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }


def guesses(truth: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    results = []
    for one in truth["annotations"]:
        for _ in range(rng.integers(0, 3)):
            points = np.reshape(one["keypoints"], (-1, 3)).copy()
            points[:, :2] += rng.normal(0, rng.choice([1, 5, 30]), (len(points), 2))
            score = float(rng.choice([0.3, 0.6, rng.random()]))
            results.append(
                {"image_id": one["image_id"], "category_id": 1, "keypoints": points.ravel().tolist(), "score": score}
            )
    return results


@pytest.mark.parametrize("seed", range(3))
def test_cocos_keypoints(seed: int) -> None:
    truth = persons(12, 17, seed)
    results = guesses(truth, seed)
    scores, evidence = keypoint_scores(truth, results, None)
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = truth
        known.createIndex()
        evaluation = COCOeval(known, known.loadRes([dict(one) for one in results]), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    expected = dict(zip(("ap", "ap50", "ap75", "apm", "apl"), 100 * evaluation.stats[:5], strict=True))
    assert 0 < expected["ap"] < 100
    assert scores == pytest.approx(expected, abs=1e-9)
    assert evidence.metric(np.arange(12)) == pytest.approx(scores["ap"], abs=1e-9)


def test_own_sigmas_by_hand() -> None:
    """One person of area 100^2, one of two keypoints off by 10: (1 + exp(-100 / (2 * 0.1^2 * 100^2))) / 2 is 0.80."""
    truth = persons(1, 2, 0)
    truth["annotations"] = [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [0, 0, 100, 100],
            "area": 1e4,
            "iscrowd": 0,
            "num_keypoints": 2,
            "keypoints": [10, 10, 2, 50, 50, 1],
        }
    ]
    result = {"image_id": 1, "category_id": 1, "score": 0.9, "keypoints": [10, 10, 1, 60, 50, 1]}
    similarity = (1 + np.exp(-100 / (2 * (2 * 0.05) ** 2 * 1e4))) / 2  # 0.803: right at 0.5, 0.55, ..., 0.8
    assert 0.8 < similarity < 0.85
    scores, _ = keypoint_scores(truth, [result], [0.05, 0.05])
    assert scores["ap"] == pytest.approx(70)
    assert keypoint_scores(truth, [result], [0.05, 0.5])[0]["ap"] == pytest.approx(100)
    assert keypoint_scores(truth, [], [0.05, 0.05])[0]["ap"] == 0


def slow_precision(similarity: dict[int, np.ndarray], scores: dict[int, np.ndarray], threshold: float) -> float:
    """Greedy matching, then the 101-point average precision; no ignored objects, unequal scores."""
    rows = sorted(((scores[i][d], i, d) for i in scores for d in range(len(scores[i]))), reverse=True)
    taken: set[tuple[int, int]] = set()
    hits = []
    for _, i, d in rows:
        free = [(similarity[i][d, g], g) for g in range(similarity[i].shape[1]) if (i, g) not in taken]
        best = max(free, default=(0.0, -1))
        hits.append(best[0] >= threshold)
        if hits[-1]:
            taken.add((i, best[1]))
    total = sum(table.shape[1] for table in similarity.values())
    recall, precision = np.cumsum(hits) / total, np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(np.mean([max(precision[recall >= mark], default=0) for mark in np.linspace(0, 1, 101)]))


def test_a_similarity_of_ones_own_against_a_plain_matching() -> None:
    rng = np.random.default_rng(5)
    counts = rng.integers(1, 5, (8, 2))
    similarity = {i: rng.random((d, g)) for i, (d, g) in enumerate(counts.tolist())}
    scores = {i: rng.random(len(table)) for i, table in similarity.items()}
    box = {"bbox": [0.0, 0.0, 50.0, 50.0], "category_id": 1}
    truth = persons(8, 1, 0)
    truth["annotations"] = [
        {**box, "image_id": i + 1, "column": g, "area": 2500.0, "iscrowd": 0, "num_keypoints": 1}
        for i, table in similarity.items()
        for g in range(table.shape[1])
    ]
    for number, one in enumerate(truth["annotations"], 1):
        one["id"] = number
    results = [
        {**box, "image_id": i + 1, "row": d, "score": float(score)}
        for i, values in scores.items()
        for d, score in enumerate(values)
    ]

    def table(objects: Any, found: Any) -> np.ndarray:
        image = objects[0]["image_id"] - 1
        return similarity[image][np.ix_([one["row"] for one in found], [one["column"] for one in objects])]

    found, evidence = similarity_scores(truth, results, table)
    expected = [slow_precision(similarity, scores, t) for t in np.linspace(0.5, 0.95, 10)]
    assert found["ap"] == pytest.approx(100 * np.mean(expected), abs=1e-6)
    assert found["ap50"] == pytest.approx(100 * expected[0], abs=1e-6)
    np.testing.assert_allclose(evidence.precisions(np.arange(8))[:, 0], 100 * np.array(expected), atol=1e-6)


def test_names_of_cocos_keypoints() -> None:
    assert len(COCO_KEYPOINTS) == 17
    assert COCO_KEYPOINTS[:5] == ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
    assert COCO_KEYPOINTS[-2:] == ("left_ankle", "right_ankle")
