"""How many clusters an epoch has (R2O, section 4.4): from many small regions to a few large ones."""

from __future__ import annotations

import bisect
import math
from typing import Literal, Self

from pydantic import Field, model_validator

from regionssl.config import Config


class CurriculumConfig(Config):
    """The schedule of the number of clusters K. The defaults are the release's.

    Attributes:
        kind: between the knots, a quarter cosine (two knots; slow at first when falling, slow at last when rising) or
            straight lines; "piecewise" holds the last knot's value; "constant" is the first value; "none" makes no
            clusters, so that the regions themselves are the masks.
        epochs: of the knots. Epochs are numbered from 1, and the last knot stands for the end of the run, however long
            that is: see ``length``.
        clusters: K at the knots.
        length: epochs of this run, filled in when it starts; None for those of the last knot.
        none_above: K above this means no clusters at all; the release has 128 (quirk Q17).
    """

    kind: Literal["cosine", "linear", "piecewise", "constant", "none"] = "cosine"
    epochs: tuple[float, ...] = Field((0, 300), min_length=1)
    clusters: tuple[float, ...] = Field((128, 4), min_length=1)
    length: float | None = Field(None, gt=0)
    none_above: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _knots_fit(self) -> Self:
        if self.kind in ("constant", "none"):
            return self
        if len(self.epochs) != len(self.clusters):
            raise ValueError(f"each knot needs an epoch and a K, got {len(self.epochs)} and {len(self.clusters)}")
        if any(later <= earlier for earlier, later in zip(self.epochs, self.epochs[1:], strict=False)):
            raise ValueError(f"the epochs of the knots must rise, got {list(self.epochs)}")
        if self.kind == "cosine" and len(self.epochs) != 2:
            raise ValueError(f"a cosine has two knots, got {len(self.epochs)}; kind linear takes any number")
        if self.kind == "linear" and len(self.epochs) < 2:
            raise ValueError("straight lines need two knots or more")
        return self


def real_clusters(config: CurriculumConfig, epoch: float) -> float:
    """The schedule before truncation, k(e), at an epoch of this run, counted from 1."""
    if config.length is not None:
        epoch = epoch * config.epochs[-1] / config.length
    if config.kind == "cosine":
        return _cosine(config, epoch)
    if config.kind == "linear":
        return _linear(config, epoch)
    if config.kind == "piecewise":
        return config.clusters[max(bisect.bisect_right(config.epochs, epoch) - 1, 0)]
    return config.clusters[0]


def cluster_count(config: CurriculumConfig, epoch: float) -> int | None:
    """K of an epoch of this run, counted from 1: truncated and at least 1; None for no clusters."""
    count = int(real_clusters(config, epoch))
    if config.kind == "none" or (config.none_above is not None and count > config.none_above):
        return None
    return max(count, 1)


def most_clusters(config: CurriculumConfig) -> int:
    """The largest K that the schedule reaches; 0 when there are never clusters."""
    values = config.clusters[:1] if config.kind == "constant" else config.clusters
    counts = [max(int(value), 1) for value in values]
    if config.none_above is not None:
        counts = [min(count, config.none_above) for count in counts]
    return 0 if config.kind == "none" else max(counts)


def _cosine(config: CurriculumConfig, epoch: float) -> float:
    """Each branch in the release's form: another one would truncate differently at some epochs."""
    (begin, end), (first, last) = config.epochs, config.clusters
    if epoch <= begin or epoch >= end:
        return first if epoch <= begin else last
    x = (epoch - begin) / (end - begin) * math.pi / 2
    if last < first:
        return last + (first - last) * math.cos(x)
    return first + (last - first) * math.cos(math.pi / 2 - x)


def _linear(config: CurriculumConfig, epoch: float) -> float:
    """Lines through the knots; the outermost go on."""
    at = min(max(bisect.bisect_right(config.epochs, epoch), 1), len(config.epochs) - 1)
    (begin, end), (first, last) = config.epochs[at - 1 : at + 1], config.clusters[at - 1 : at + 1]
    return first + (last - first) * (epoch - begin) / (end - begin)
