"""What an evaluation gives back: its numbers, and per image what they were computed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from regionssl.errors import InputError


class Evidence(Protocol):
    """The primary metric's sufficient statistics, image by image, so that it can be computed on a drawn sample."""

    def __len__(self) -> int:
        """Number of validation images."""

    def metric(self, rows: np.ndarray) -> float:
        """The primary metric over the images ``rows`` (int64, repetitions count as often as they occur), in 0..100."""

    def save(self, path: Path) -> None:
        """Write an ``.npz`` without pickles from which the class's ``load`` makes the same."""


@dataclass(frozen=True)
class Outcome:
    """The result of one evaluation of one start.

    Attributes:
        primary: name of the metric that the task is judged by.
        metrics: by name; shares and average precisions in 0..100.
        per_class: the primary metric of each class, nan where it has no value.
        evidence: of the validation images, in their order.
        artefacts: what else was written below the output folder, by a short name.
        seconds: wall time of training and scoring.

    Raises:
        InputError: the primary metric has no value.
    """

    primary: str
    metrics: Mapping[str, float]
    per_class: Mapping[str, float]
    evidence: Evidence
    artefacts: Mapping[str, Path]
    seconds: float

    def __post_init__(self) -> None:
        if self.primary not in self.metrics:
            raise InputError(
                f"{self.primary} has no value on these {len(self.evidence)} validation images, as nothing that is "
                "labelled in them counts for it; give validation labels that do"
            )

    @property
    def value(self) -> float:
        return self.metrics[self.primary]


@dataclass(frozen=True)
class Shares:
    """Evidence of a metric that is a ratio of sums over images: 100 * sum(hits) / sum(counts), both (N,) float64."""

    hits: np.ndarray
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.hits)

    def metric(self, rows: np.ndarray) -> float:
        return float(100 * self.hits[rows].sum() / self.counts[rows].sum())

    def save(self, path: Path) -> None:
        np.savez_compressed(path, kind="shares", hits=self.hits, counts=self.counts)


@dataclass(frozen=True)
class Confusions:
    """Evidence of a mean IoU: (N, C, C) int64 counts by true (row) and predicted class."""

    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.counts)

    def metric(self, rows: np.ndarray) -> float:
        total = np.tensordot(np.bincount(rows, minlength=len(self)), self.counts, 1).astype(np.float64)
        hits = np.diagonal(total)
        union = total.sum(0) + total.sum(1) - hits
        return float(100 * np.mean(hits[union > 0] / union[union > 0]))

    def save(self, path: Path) -> None:
        np.savez_compressed(path, kind="confusions", counts=self.counts)
