"""Metrics against the authors' arrays (``golden/orl_svm.npz``; ORL, section 6.3) and scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, precision_recall_curve, top_k_accuracy_score

from regionssl.data.images import ImageList
from regionssl.evaluation.classification.scores import (
    RankedScores,
    accuracies,
    average_precision,
    precisions,
    score,
)
from regionssl.labels.sets import ClassSet

with np.load(Path(__file__).parents[2] / "golden" / "orl_svm.npz") as file:
    GOLDEN = dict(file)


def classes(images: ImageList, truth: np.ndarray) -> ClassSet:
    names = tuple(f"class {c}" for c in range(truth.shape[1]))
    return ClassSet(images.subset(range(len(truth))), truth.astype(np.int8), names)


def test_average_precision_of_the_release() -> None:
    found = average_precision(GOLDEN["ap_scores"], GOLDEN["ap_targets"])
    assert found == pytest.approx(float(GOLDEN["ap"][0]), abs=1e-12)


def test_what_is_unsure_does_not_count() -> None:
    scores, truth = GOLDEN["ap_scores"], GOLDEN["ap_targets"]
    more_scores = np.concatenate([scores, [9.0, 0.0, -9.0]])
    more = average_precision(more_scores, np.concatenate([truth, [-1, -1, -1]]))
    assert more == pytest.approx(float(GOLDEN["ap"][0]), abs=1e-12)


def slow(scores: np.ndarray, truth: np.ndarray) -> float:
    """The same from scikit-learn's curve: precision made monotonous, times the steps of recall."""
    kept = truth >= 0
    precision, recall, _ = precision_recall_curve(truth[kept], scores[kept])  # falling recall, ends at precision 1
    highest = np.maximum.accumulate(precision[:-1])
    return float(np.sum(-np.diff(recall) * highest))


lists = st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 6)), min_size=1, max_size=30)


@given(lists.filter(lambda rows: any(truth == 1 for truth, _ in rows)))
def test_average_precision_is_scikit_learns_made_monotonous(rows: list[tuple[int, int]]) -> None:
    truth, scores = np.array(rows).T
    assert average_precision(scores.astype(float), truth) == pytest.approx(slow(scores, truth), abs=1e-9)
    kept = truth >= 0
    least = average_precision_score(truth[kept], scores[kept])
    assert average_precision(scores.astype(float), truth) >= least - 1e-9
    order = np.random.default_rng(0).permutation(len(rows))
    assert average_precision(scores[order].astype(float), truth[order]) == pytest.approx(
        average_precision(scores.astype(float), truth), abs=1e-12
    )


def test_no_positive_no_value() -> None:
    assert np.isnan(average_precision(np.zeros(3), np.array([0, -1, 0])))
    assert average_precision(np.zeros(4), np.array([1, 0, 0, 0])) == 0.25


@settings(max_examples=25)
@given(st.integers(0, 1000))
def test_a_drawn_sample_is_its_images_repeated(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 8, (2, 20, 3)).astype(np.float32)
    truth = rng.integers(-1, 2, (20, 3)).astype(np.int8)
    truth[:, 2] = np.minimum(truth[:, 2], 0)
    evidence = RankedScores(scores, truth)
    rows = rng.integers(0, 20, 20)
    drawn = [np.nanmean([100 * average_precision(run[rows, c], truth[rows, c]) for c in range(2)]) for run in scores]
    assert evidence.metric(rows) == pytest.approx(float(np.mean(drawn)), abs=1e-9, nan_ok=True)


def test_evidence_survives_the_disk(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    evidence = RankedScores(rng.random((1, 9, 2)).astype(np.float32), rng.integers(0, 2, (9, 2)).astype(np.int8))
    evidence.save(tmp_path / "evidence.npz")
    again = RankedScores.load(tmp_path / "evidence.npz")
    rows = rng.integers(0, 9, 9)
    assert again.metric(rows) == evidence.metric(rows)
    assert len(again) == 9


def test_accuracies_are_scikit_learns(images: ImageList) -> None:
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(7), rng.integers(0, 7, 25)])
    scores = rng.random((32, 7))
    found = accuracies(scores, classes(images, np.eye(7)[labels]))
    assert found.metrics["top1"] == pytest.approx(100 * accuracy_score(labels, scores.argmax(1)))
    assert found.metrics["top5"] == pytest.approx(100 * top_k_accuracy_score(labels, scores, k=5))
    assert found.evidence.metric(np.arange(32)) == pytest.approx(found.metrics["top1"])
    assert found.per_class["class 3"] == pytest.approx(100 * (scores.argmax(1) == 3)[labels == 3].mean())


def test_five_classes_have_no_top5(images: ImageList) -> None:
    found = score(np.eye(5), classes(images, np.eye(5)), exclusive=True)
    assert found.metrics == {"top1": 100.0}


def test_a_mean_over_classes_that_occur(images: ImageList) -> None:
    truth = np.array([[1, 0, 0], [0, 1, 0], [1, -1, 0], [0, 0, 0]])
    scores = np.array([[4, 1, 0], [3, 2, 1], [2, 9, 2], [1, 4, 3]])
    found = score(scores, classes(images, truth), exclusive=False)
    assert found.per_class["class 0"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert found.per_class["class 1"] == pytest.approx(50)
    assert np.isnan(found.per_class["class 2"])
    assert found.metrics["map"] == pytest.approx((100 * 5 / 6 + 50) / 2)
    several = precisions(np.stack([scores, -scores]), classes(images, truth))
    assert several.evidence.metric(np.arange(4)) == pytest.approx(several.metrics["map"])
