"""From finished trainings to means, intervals, leads and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from regionssl.proof.plan import Block, Plan
from regionssl.proof.statistics import LEVEL, Interval, Scores, interval
from regionssl.proof.store import Result
from regionssl.proof.verdict import Setting, Verdict, judge

Results = Mapping[tuple[str, Block], Result]
"""By the start's name and the block."""


@dataclass(frozen=True)
class Point:
    """A start at a label fraction: number of training images, score of each seed, mean and interval."""

    start: str
    fraction: float
    images: int
    values: tuple[float, ...]
    interval: Interval


@dataclass(frozen=True)
class Lead:
    """By how much a run leads another start at a fraction, or over all of them (None)."""

    run: str
    other: str
    fraction: float | None
    interval: Interval


@dataclass(frozen=True)
class Comparison:
    """What the trainings say.

    Attributes:
        metric: the primary one.
        points: by start and fraction.
        leads: at each fraction, and over all.
        classes: of each class the mean over seeds, by start, at the largest fraction.
        verdict: on ``run``, the best of the runs by mean.
    """

    metric: str
    points: tuple[Point, ...]
    leads: tuple[Lead, ...]
    classes: Mapping[str, Mapping[str, float]]
    run: str
    verdict: Verdict


def compare(plan: Plan, results: Results, blocks: Sequence[Block]) -> Comparison:
    """The comparison over the blocks that were trained."""
    names = [start.name for start in plan.starts]
    fractions = sorted({fraction for fraction, _ in blocks})
    scores = {(name, fraction): _scores(results, name, fraction, blocks) for name in names for fraction in fractions}
    points = tuple(
        Point(
            name,
            fraction,
            len(plan.positions[fraction, 0]),
            tuple(scores[name, fraction].values.tolist()),
            _of_a_score(interval([(scores[name, fraction], None)], plan.seed)),
        )
        for name in names
        for fraction in fractions
    )
    leads = []
    for run, other in plan.pairs:
        pairs = [(scores[run, fraction], scores[other, fraction]) for fraction in fractions]
        leads += [
            Lead(run, other, fraction, interval([pair], plan.seed))
            for fraction, pair in zip(fractions, pairs, strict=True)
        ]
        leads.append(Lead(run, other, None, interval(pairs, plan.seed)))
    means = {name: float(np.mean([scores[name, fraction].values.mean() for fraction in fractions])) for name in names}
    run = max(names[: plan.runs], key=means.__getitem__)
    first = results[names[0], blocks[0]]
    return Comparison(
        first.primary,
        points,
        tuple(leads),
        _classes(results, names, fractions[-1], blocks),
        run,
        _verdict(plan, run, scores, fractions, first.primary),
    )


def _scores(results: Results, name: str, fraction: float, blocks: Sequence[Block]) -> Scores:
    found = [results[name, block] for block in sorted(blocks) if block[0] == fraction]
    return Scores(np.array([one.value for one in found]), np.stack([one.drawn for one in found]))


def _of_a_score(found: Interval) -> Interval:
    """An interval that reaches beyond where scores lie, cut there."""
    return replace(found, low=max(found.low, 0.0), high=min(found.high, max(found.mean, 100.0)))


def _classes(
    results: Results, names: Sequence[str], fraction: float, blocks: Sequence[Block]
) -> dict[str, dict[str, float]]:
    chosen = {name: [results[name, block] for block in blocks if block[0] == fraction] for name in names}
    return {
        label: {name: float(np.mean([one.per_class[label] for one in found])) for name, found in chosen.items()}
        for label in chosen[names[0]][0].per_class
    }


def _verdict(
    plan: Plan,
    run: str,
    scores: Mapping[tuple[str, float], Scores],
    fractions: Sequence[float],
    metric: str,
) -> Verdict:
    others = {start.name: start.source for start in plan.starts[plan.runs :]}
    level, lag_level = 1 - (1 - LEVEL) / plan.runs, 1 - (1 - LEVEL) / len(plan.pairs)
    parts = {other: [(scores[run, f], scores[other, f]) for f in fractions] for other in others}
    leads, lags = ({other: interval(parts[other], plan.seed, one) for other in others} for one in (level, lag_level))
    seeds = min(len(scores[run, fraction].values) for fraction in fractions)
    return judge(run, others, leads, lags, Setting(metric, len(plan.data.val), seeds, len(fractions), level, lag_level))
