"""What the measures of a run mean: rules from logged records to findings; docs/health.md has the values behind them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from regionssl.data.photometric import IMAGENET_MEAN, IMAGENET_STD
from regionssl.engine.log import HEALTH

Level = Literal["green", "amber", "red"]

GRACE = 40
"""Steps before features and losses are judged: healthy ones dip until then (docs/results.md)."""
SPREAD = 0.2
"""Standard deviation of features from which on their similarities are judged."""
FEW, MANY = 5, 30
"""Records that a measure is averaged over: usually, and where single steps scatter (similarities)."""

BLACK = min((0 - mean) / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))
WHITE = max((1 - mean) / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))


@dataclass(frozen=True)
class Finding:
    """What a rule has found: how bad it is, in which measure, and a sentence on what it means and what mends it."""

    level: Level
    measure: str
    value: float
    sentence: str


class History:
    """The latest records of a run, and what is known of all of them.

    Attributes:
        step: of the latest record.
        darkest, brightest: extremes of the views so far. strongest_pull: of the slow networks so far.
    """

    def __init__(self) -> None:
        self.recent: deque[Mapping[str, Any]] = deque(maxlen=MANY)
        self.step = -1
        self.darkest, self.brightest, self.strongest_pull = math.inf, -math.inf, 0.0

    def add(self, record: Mapping[str, Any]) -> None:
        """Take a record of ``log.jsonl``."""
        self.recent.append(record)
        self.step = record["step"]
        self.darkest = min(self.darkest, self.last("view_min", math.inf))
        self.brightest = max(self.brightest, self.last("view_max", -math.inf))
        self.strongest_pull = max(self.strongest_pull, self.last("slow_pull", 0.0))

    def last(self, measure: str, default: float) -> float:
        """A measure of the latest record."""
        return float(self.recent[-1].get(HEALTH + measure, default))

    def mean(self, name: str, count: int = FEW) -> float:
        """The mean of a record's entry over the latest ``count`` records that have it."""
        values = [record[name] for record in list(self.recent)[-count:] if name in record]
        return sum(values) / len(values)

    def ending(self, suffix: str) -> list[str]:
        """Entries of the latest record whose names end so."""
        return [name for name in self.recent[-1] if name.endswith(suffix)]


def findings(history: History) -> Iterator[Finding]:
    """What is wrong with a run at its latest record; nothing if it is healthy."""
    for rule in (_numbers, _views, _queue, _slow_network, _update):
        yield from rule(history)
    if history.step >= GRACE:
        for rule in (_collapse, _dimensions, _pairs, _places, _coverage, _assignments, _losses):
            yield from rule(history)


def _below(measure: str, value: float, amber: float, red: float, sentence: str) -> Iterator[Finding]:
    if value < amber:
        yield Finding("red" if value < red else "amber", measure.removeprefix(HEALTH), value, sentence)


def _low(history: History, suffix: str, amber: float, red: float, sentence: str) -> Iterator[Finding]:
    """:func:`_below` for the means of all entries whose names end so."""
    for name in history.ending(suffix):
        yield from _below(name, history.mean(name), amber, red, sentence)


def _above(measure: str, value: float, amber: float, red: float, sentence: str) -> Iterator[Finding]:
    yield from (
        Finding(found.level, found.measure, value, sentence)
        for found in _below(measure, -value, -amber, -red, sentence)
    )


def _numbers(history: History) -> Iterator[Finding]:
    for name, value in history.recent[-1].items():
        if isinstance(value, float) and not math.isfinite(value):
            sentence = "is not a finite number; a lower learning rate or --precision fp32 usually mend it"
            yield Finding("red", name.removeprefix(HEALTH), value, sentence)


def _views(history: History) -> Iterator[Finding]:
    low, high = history.darkest, history.brightest
    if not math.isfinite(low):
        return
    if low > -0.02 and high < 1.02:
        yield Finding("red", "view_min", low, f"no view leaves [0, 1]: they are not normalised; black is {BLACK:.2f}")
    elif low < BLACK - 0.1 or high > WHITE + 0.1:
        value = low if low < BLACK - 0.1 else high
        sentence = f"normalised views lie within {BLACK:.2f} and {WHITE:.2f}; pixels are scaled or normalised twice"
        yield Finding("red", "view_min" if low < BLACK - 0.1 else "view_max", value, sentence)


def _queue(history: History) -> Iterator[Finding]:
    sentence = (
        "the queue is long for these data: images meet their own old keys as negatives; at most a quarter of the "
        "images is usual (method.queue)"
    )
    yield from _above("queue_share", history.last("queue_share", 0), 0.5, 1.0, sentence)


def _slow_network(history: History) -> Iterator[Finding]:
    if HEALTH + "slow_pull" not in history.recent[-1] or history.last("update", 0) == 0:
        return
    pull = history.last("slow_pull", 0)
    if history.strongest_pull < 1e-9:
        sentence = (
            "the slow network has never moved, so nothing is learned beyond it; is its average taken after each step?"
        )
        yield Finding("red", "slow_pull", pull, sentence)
    sentence = (
        "the slow network is the trained one of the step before; a momentum of 0.9 to 0.999 is usual (method.momentum)"
    )
    yield from _above("slow_pull", pull, 0.9, 0.99, sentence)


def _update(history: History) -> Iterator[Finding]:
    sentence = (
        "a step changes the weights by this share of themselves, where 0.0001 to 0.02 is usual: the learning rate is "
        "far too high; divide it by 10 or more (optimiser.lr), or warm up longer"
    )
    yield from _above("update", history.last("update", 0), 0.05, 0.1, sentence)


def _collapse(history: History) -> Iterator[Finding]:
    sentence = (
        "features of different images have become the same (collapse); a lower learning rate, or a predictor and a "
        "slow network that work, usually mend it"
    )
    yield from _low(history, "_target_std", 0.1, 0.05, sentence)


def _dimensions(history: History) -> Iterator[Finding]:
    sentence = "features differ along one direction only; a lower learning rate or more varied images usually mend it"
    yield from _low(history, "_target_rank", 1.3, 1.1, sentence)


def _pairs(history: History) -> Iterator[Finding]:
    sentence = (
        "a pair of matching features is no more alike than features of different images: views, boxes, windows or "
        "points are matched wrongly, or the views share nothing; look at them with regionssl show"
    )
    for kind, advantage in _advantages(history, "_negative").items():
        yield from _below(f"{kind}_positive over negative", advantage, 0.03, 0.01, sentence)


def _places(history: History) -> Iterator[Finding]:
    sentence = (
        "a region is no more like its match than like other regions of the same image: regions are matched with wrong "
        "places, or are too small for the feature map; look at them with regionssl show"
    )
    if advantages := _advantages(history, "_elsewhere"):
        # all kinds of regions are matched by the same crops; a coarse map alone tells few places apart
        mean = sum(advantages.values()) / len(advantages)
        kinds = " and ".join(f"{kind}_positive" for kind in advantages)
        yield from _below(f"{kinds} over elsewhere", mean, 0.003, 0.0, sentence)


def _advantages(history: History, others: str) -> dict[str, float]:
    """By kind of features, how much more alike pairs are than ``others``, as a share of what could be.

    0 is not at all, 1 is equal. Kinds of which nothing can be told yet are left out.
    """
    found: dict[str, float] = {}
    for name in history.ending(others) if len(history.recent) >= MANY // 2 else ():
        start = name.removesuffix(others)
        if not start.endswith("_slow") and f"{start}_slow{others}" in history.recent[-1]:
            continue  # predictions are judged by what they predict: they are all alike at first
        spread = f"{start.removesuffix('_slow')}_target_std"
        if any(record.get(spread, SPREAD) < SPREAD for record in history.recent):
            continue  # all are alike, as they are for a while in healthy runs of MoCo v2: nothing can be told
        pair, other = history.mean(f"{start}_positive", MANY), history.mean(name, MANY)
        found[start.removeprefix(HEALTH)] = (pair - other) / max(1 - other, 1e-6)
    return found


def _coverage(history: History) -> Iterator[Finding]:
    sentence = (
        "hardly any region is seen by both views, so the region loss has little to learn from; larger crops "
        "(method.plan.views[].area) or other regions usually mend it"
    )
    yield from _low(history, "valid", 0.1, 0.02, sentence)


def _assignments(history: History) -> Iterator[Finding]:
    sentence = (
        "nearly all is assigned to one cluster or prototype; a lower learning rate or fewer clusters usually mend it"
    )
    yield from _low(history, "_entropy", 0.2, 0.05, sentence)


def _losses(history: History) -> Iterator[Finding]:
    easy = (
        "the loss is nearly 0: a pair is told without looking (collapse); is the predictor there, and the target slow?"
    )
    wild = "the loss is beyond that of a blind guess; the learning rate is too high, or pairs are matched wrongly"
    for name in history.ending("_orthogonal"):
        term = name.removeprefix(HEALTH).removesuffix("_orthogonal")
        if (level := history.mean(name)) > 0:  # 0 for a term of weight 0
            share = history.mean(term) / level
            yield from _below(f"{term} over orthogonal", share, 0.05, 0.02, easy)
            yield from _above(f"{term} over orthogonal", share, 1.2, 1.5, wild)
    for name in history.ending("_chance"):
        term = name.removeprefix(HEALTH).removesuffix("_chance")
        yield from _above(f"{term} over chance", history.mean(term) / history.mean(name), 1.2, 1.5, wild)
