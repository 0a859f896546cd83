"""Means, and intervals of paired differences over images and seeds.

The images of the validation set and the seeds of the trainings are both drawn with replacement. All starts share the
drawn images and seeds, so what is hard for every start cancels in a difference.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from regionssl.counted import Stream, generator
from regionssl.evaluation.outcome import Evidence

LEVEL = 0.95


@dataclass(frozen=True)
class Scores:
    """The primary metric of one start at one fraction of the labels.

    Attributes:
        values: (S,) float64, of each seed, on the whole validation set.
        drawn: (S, R) float64, of each seed on each of the R drawn sets of images.
    """

    values: np.ndarray
    drawn: np.ndarray


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds of its interval; the bounds are nan where nothing could be drawn."""

    mean: float
    low: float
    high: float

    @property
    def above(self) -> bool:
        return self.low > 0

    @property
    def below(self) -> bool:
        return self.high < 0


def drawn_metrics(evidence: Evidence, draws: int, seed: int) -> np.ndarray:
    """(R,) float64: the metric on R draws of N images with replacement, the same draws for equal N and ``seed``.

    A draw on which the metric has no value (no labelled object in it) gives nan.
    """
    images = len(evidence)
    rows = (generator(seed, Stream.BOOTSTRAP, draw, 0).integers(0, images, images) for draw in range(draws))
    return _metrics(evidence, rows)


def image_metrics(evidence: Evidence) -> np.ndarray:
    """(N,) float64: the metric of each image alone; nan where it has none."""
    return _metrics(evidence, (np.array([i]) for i in range(len(evidence))))


def _metrics(evidence: Evidence, samples: Iterable[np.ndarray]) -> np.ndarray:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's word on means of nothing, which are nan
        return np.array([evidence.metric(rows) for rows in samples], np.float64)


def interval(parts: Sequence[tuple[Scores, Scores | None]], seed: int, level: float = LEVEL) -> Interval:
    """The mean, over fractions, of a start's metric or of its lead over another, with a percentile interval.

    With few seeds a plain bootstrap over them is too narrow, so deviations from their mean are widened by
    sqrt(S / (S - 1)). One seed says nothing about the spread between trainings; its interval covers images alone.

    Args:
        parts: of each fraction the start's scores, and those of the start it is compared with, if any.
        level: of the interval, 0.95 for 95 %.
    """
    means, totals = [], []
    most = max(len(scores.values) for scores, _ in parts)
    draws = parts[0][0].drawn.shape[1]
    uniform = np.array([generator(seed, Stream.BOOTSTRAP, draw, 1).random(most) for draw in range(draws)])
    for scores, other in parts:
        values = scores.values - (other.values if other else 0.0)
        drawn = scores.drawn - (other.drawn if other else 0.0)
        means.append(float(values.mean()))
        totals.append(_over_seeds(drawn, uniform))
    samples = np.mean(totals, 0)
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        return Interval(float(np.mean(means)), math.nan, math.nan)
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.mean(means)), float(low), float(high))


def _over_seeds(drawn: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """(R,): of each draw the mean over drawn seeds, its deviation from the mean over all seeds widened."""
    seeds = len(drawn)
    centre = drawn.mean(0)
    if seeds == 1:
        return np.asarray(centre)
    chosen = np.floor(uniform[:, :seeds] * seeds).astype(np.int64)
    mean = np.take_along_axis(drawn.T, chosen, 1).mean(1)
    return np.asarray(centre + math.sqrt(seeds / (seeds - 1)) * (mean - centre))
