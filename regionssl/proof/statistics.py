"""Means, and intervals of paired differences over images and seeds.

All starts share the drawn images of the validation set and the seeds of the trainings, so what is hard for every start
cancels in a difference.
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
_ROUNDING = 1e-9
_PER_DRAW = 200
"""Draws of the error over seeds for each draw of images: few would leave the ends of a t distribution to chance."""


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
        return self.low > _ROUNDING

    @property
    def below(self) -> bool:
        return self.high < -_ROUNDING


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
    """The mean, over fractions, of a start's metric or of its lead over another, with its interval.

    Images are drawn with replacement. To each draw comes the error of a mean over few seeds: Student's t with S - 1
    degrees of freedom, times the standard error of the mean over seeds. One seed says nothing about the spread between
    trainings; its interval covers images alone.

    Args:
        parts: of each fraction the start's scores, and those of the start it is compared with, if any. Of seeds that
            not all fractions have, no spread is taken.
        level: of the interval, 0.95 for 95 %.
    """
    leads = [scores.values - (other.values if other else 0.0) for scores, other in parts]
    drawn = [(scores.drawn - (other.drawn if other else 0.0)).mean(0) for scores, other in parts]
    mean = float(np.mean([lead.mean() for lead in leads]))
    samples = np.mean(drawn, 0)
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        return Interval(mean, math.nan, math.nan)
    seeds = min(len(lead) for lead in leads)
    if seeds > 1:
        error = np.mean([lead[:seeds] for lead in leads], 0).std(ddof=1) / math.sqrt(seeds)
        student = generator(seed, Stream.BOOTSTRAP, seeds, 1).standard_t(seeds - 1, (len(samples), _PER_DRAW))
        samples = (samples[:, None] + error * student).ravel()
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high))
