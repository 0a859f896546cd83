"""What a comparison consists of: every training by what decides its result, in the order of its worth."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np

from regionssl.config import Config, to_plain
from regionssl.evaluation.start import Start, weights_digest
from regionssl.evaluation.tasks import Evaluator
from regionssl.labels.digest import labels_digest
from regionssl.labels.sets import Split
from regionssl.labels.splits import nested_fractions, train_val

HOLD_OUT = 0.2  # share of the training labels on which settings are chosen

Block = tuple[float, int]
"""A label fraction and a seed, for which all starts are trained."""


@dataclass(frozen=True)
class Training:
    """One training and its scoring.

    Attributes:
        name: for people.
        weights: identity of the start's weights.
        data_key: identity of ``data``.
        draws, draw_seed: of the images on which its metric is computed again.
    """

    name: str
    start: Start
    weights: str
    evaluator: Evaluator
    data: Split[Any]
    data_key: str
    seed: int
    draws: int
    draw_seed: int

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits of all that decides the result."""
        identity = {
            "task": self.evaluator.task,
            "settings": to_plain(cast(Config, self.evaluator)),
            "weights": self.weights,
            "inputs": [self.start.mean, self.start.std, self.start.size],
            "data": self.data_key,
            "seed": self.seed,
            "draws": [self.draws, self.draw_seed],
        }
        if revision := getattr(self.evaluator, "revision", 0):
            identity["revision"] = revision
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Plan:
    """A comparison.

    Attributes:
        starts: the runs to be judged first, then what they are compared with.
        runs: how many of them are to be judged.
        data: labels, without the validation images that leak.
        fractions: of the training labels, ascending.
        seeds: number of seeds.
        draws: how many draws of images an interval is made of.
        seed: of splits, draws and hold-outs; training ``s`` has the seed ``seed + s``.
    """

    starts: tuple[Start, ...]
    runs: int
    evaluator: Evaluator
    data: Split[Any]
    fractions: tuple[float, ...]
    seeds: int
    draws: int
    seed: int

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Names of each run and each start that it is compared with."""
        names = [start.name for start in self.starts]
        return [(run, other) for run in names[: self.runs] for other in names[self.runs :]]

    @property
    def blocks(self) -> list[Block]:
        """The most telling first: all seeds of the largest fraction, of the smallest, and on inwards."""
        order = list[float]()
        left = list(self.fractions)
        while left:
            order.append(left.pop(0 if len(order) % 2 else -1))
        return [(fraction, seed) for fraction in order for seed in range(self.seeds)]

    @cached_property
    def weights(self) -> dict[str, str]:
        """Identity of the weights by the start's name."""
        return {start.name: weights_digest(start) for start in self.starts}

    @cached_property
    def data_digests(self) -> dict[str, str]:
        """Identity of the labels of each split."""
        return {"train": labels_digest(self.data.train), "val": labels_digest(self.data.val)}

    @cached_property
    def positions(self) -> dict[Block, np.ndarray]:
        """Of each block the training images; nested over the fractions of one seed, the same for all starts."""
        return {
            (fraction, seed): chosen
            for seed in range(self.seeds)
            for fraction, chosen in nested_fractions(self.data.train, self.fractions, self.seed + seed).items()
        }

    def training(self, start: Start, block: Block, evaluator: Evaluator) -> Training:
        """The training of one start in one block."""
        fraction, seed = block
        chosen = self.positions[block]
        data = Split(self.data.train.subset(chosen.tolist()), self.data.val)
        name = f"{start.name}, {fraction:.4g} of the labels, seed {seed}"
        key = self.key_of(train=chosen, val="all")
        return Training(
            name, start, self.weights[start.name], evaluator, data, key, self.seed + seed, self.draws, self.seed
        )

    def hold_out(self, start: Start, evaluator: Evaluator, name: str) -> Training:
        """A training for choosing settings: on four fifths of the largest fraction's labels, scored on the fifth."""
        labels = self.data.train.subset(self.positions[self.fractions[-1], 0].tolist())
        train, val = train_val(labels, HOLD_OUT, self.seed)
        data = Split(labels.subset(train.tolist()), labels.subset(val.tolist()))
        key = self.key_of(train=train, val=val)
        return Training(name, start, self.weights[start.name], evaluator, data, key, self.seed, 0, self.seed)

    def key_of(self, train: np.ndarray, val: np.ndarray | Literal["all"]) -> str:
        """Identity of parts of the labels."""
        digest = hashlib.sha256("".join(self.data_digests.values()).encode())
        for part in (train, val):
            digest.update(part.encode() if isinstance(part, str) else part.astype("<i8").tobytes() + b"-")
        return digest.hexdigest()[:16]


def small_fractions(plan: Plan) -> list[str]:
    """Sentences on fractions that have fewer images than there are classes."""
    classes = len(plan.data.train.classes)
    counts = {fraction: len(plan.positions[fraction, 0]) for fraction in plan.fractions}
    return [
        f"{fraction:.4g} of the labels is {count} image{'s' if count > 1 else ''} for {classes} classes: some classes "
        "are not trained"
        for fraction, count in counts.items()
        if count < classes
    ]


def fraction_counts(plan: Plan, fractions: Sequence[float]) -> list[int]:
    """Numbers of training images."""
    return [len(plan.positions[fraction, 0]) for fraction in fractions]
