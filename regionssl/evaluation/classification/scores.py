"""From class scores to metrics: accuracy where images have one class each, mean average precision where not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from regionssl.evaluation.outcome import Evidence, Shares
from regionssl.labels.sets import ClassSet


@dataclass(frozen=True)
class RankedScores:
    """Evidence of a mean average precision.

    Attributes:
        scores: (R, N, C) float32 of R classifiers, whose mean is the metric.
        truth: (N, C) int8: 1 present, 0 absent, -1 not counted.
    """

    scores: np.ndarray
    truth: np.ndarray

    def __len__(self) -> int:
        return len(self.truth)

    def metric(self, rows: np.ndarray) -> float:
        """Mean over classifiers and over the classes that the images ``rows`` show; nan if they show none."""
        weights = np.bincount(rows, minlength=len(self)).astype(np.float64)
        return float(np.mean([_mean(self.precisions(run, weights)) for run in range(len(self.scores))]))

    def precisions(self, run: int, weights: np.ndarray | None = None) -> np.ndarray:
        """Average precision (C,) of each class, in 0..100; nan without positives.

        Args:
            weights: (N,) how often each image counts; None for once.
        """
        weights = np.ones(len(self)) if weights is None else weights
        classes = range(self.truth.shape[1])
        found = [_ranked_precision(*self._ranking[run][c], self.truth[:, c], weights) for c in classes]
        return 100 * np.array(found)

    @cached_property
    def _ranking(self) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        return [[_rank(column) for column in run.T] for run in self.scores]

    def save(self, path: Path) -> None:
        np.savez_compressed(path, kind="ranked", scores=self.scores, truth=self.truth)

    @classmethod
    def load(cls, path: Path) -> RankedScores:
        with np.load(path) as file:
            return cls(file["scores"], file["truth"])


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under the interpolated curve of precision over recall, in 0..1 (ORL 6.3); nan without positives.

    Precision at a recall is the largest at that recall or a higher one. Images of equal scores enter the curve
    together, so their order does not matter.

    Args:
        scores: (N,) float.
        truth: (N,) 1 present, 0 absent, -1 not counted.
    """
    return _ranked_precision(*_rank(scores), truth, np.ones(len(scores)))


def _rank(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images by falling score, and the last place of each run of equal scores."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)
    return order, ends


def _ranked_precision(order: np.ndarray, ends: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> float:
    truth, weights = truth[order], weights[order]
    hits, seen = np.cumsum(weights * (truth == 1))[ends], np.cumsum(weights * (truth >= 0))[ends]
    if not len(hits) or hits[-1] == 0:
        return float("nan")
    precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(hits, prepend=0.0) * highest) / hits[-1])


@dataclass(frozen=True)
class Score:
    """What class scores are worth; fields as in :class:`regionssl.evaluation.outcome.Outcome`."""

    primary: str
    metrics: dict[str, float]
    per_class: dict[str, float]
    evidence: Evidence


def score(scores: np.ndarray, val: ClassSet, exclusive: bool) -> Score:
    """Accuracy ("top1", and "top5" with more than five classes), or "map".

    Args:
        scores: (N, C), the larger the likelier.
        exclusive: whether every image has one class.
    """
    return accuracies(scores, val) if exclusive else precisions(scores[None], val)


def accuracies(scores: np.ndarray, val: ClassSet) -> Score:
    """Share of images whose class has the largest score, or is among the five largest; the first of equal ones wins."""
    truth = val.truth.argmax(1)
    ranking = np.argsort(-scores, 1, kind="stable")
    hits = (ranking[:, 0] == truth).astype(np.float64)
    metrics = {"top1": float(100 * hits.mean())}
    if len(val.classes) > 5:
        metrics["top5"] = float(100 * (ranking[:, :5] == truth[:, None]).any(1).mean())
    shares = (100 * hits[truth == c].mean() if (truth == c).any() else np.nan for c in range(len(val.classes)))
    per_class = dict(zip(val.classes, map(float, shares), strict=True))
    return Score("top1", metrics, per_class, Shares(hits, np.ones(len(hits))))


def precisions(scores: np.ndarray, val: ClassSet) -> Score:
    """Mean average precision of the classes that occur, the mean over R classifiers' scores (R, N, C)."""
    evidence = RankedScores(scores.astype(np.float32), val.truth)
    runs = np.array([evidence.precisions(run) for run in range(len(scores))])
    per_class = dict(zip(val.classes, map(float, runs.mean(0)), strict=True))
    return Score("map", {"map": float(np.mean([_mean(run) for run in runs]))}, per_class, evidence)


def _mean(precisions: np.ndarray) -> float:
    found = precisions[~np.isnan(precisions)]
    return float(found.mean()) if len(found) else float("nan")
