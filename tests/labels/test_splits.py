"""Stratified parts: their rules, for any labels and any order of the files."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from regionssl.data.image_list import ImageList
from regionssl.errors import InputError
from regionssl.labels.checks import listed_files
from regionssl.labels.splits import nested_fractions, stratified_order, train_val

tables = arrays.arrays(np.int64, st.tuples(st.integers(2, 25), st.integers(1, 6)), elements=st.integers(0, 4))
seeds = st.integers(0, 2**63)


@dataclass(frozen=True)
class Counted:
    """A labelled set of which only names and counts are known."""

    images: ImageList
    table: np.ndarray

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.table.shape[1])))

    def __len__(self) -> int:
        return len(self.table)

    def subset(self, positions: Sequence[int]) -> "Counted":
        rows = np.asarray(positions, np.int64)
        return Counted(self.images.subset(rows), self.table[rows])

    def class_counts(self) -> np.ndarray:
        return self.table


def labelled(table: np.ndarray) -> Counted:
    return Counted(listed_files("x", [f"{i:04d}.jpg" for i in range(len(table))], "x"), table)


def names(one: Counted, positions: np.ndarray) -> set[str]:
    return {one.images.names[int(i)] for i in positions}


@given(tables, seeds)
@settings(max_examples=40)
def test_fractions_are_nested_whole_and_independent_of_the_order_of_files(table: np.ndarray, seed: int) -> None:
    fractions = [0.3, 0.01, 1, 0.5]
    whole = labelled(table)
    parts = nested_fractions(whole, fractions, seed)
    assert list(parts) == fractions
    for fraction, rows in parts.items():
        assert len(set(rows.tolist())) == len(rows) == max(1, round(fraction * len(table)))
        assert (np.diff(rows) > 0).all()
    assert set(parts[0.01]) <= set(parts[0.3]) <= set(parts[0.5]) <= set(parts[1])
    order = np.random.default_rng(seed).permutation(len(table))
    mixed = whole.subset(order.tolist())
    for fraction, rows in nested_fractions(mixed, fractions[::-1], seed).items():
        assert names(mixed, rows) == names(whole, parts[fraction])


@given(tables, seeds)
@settings(max_examples=40)
def test_the_greedy_rule_is_as_stated(table: np.ndarray, seed: int) -> None:
    """Each image has a class of which least was taken, and classes are met before any is met in vain."""
    counts = np.concatenate([table, (table.sum(1) == 0)[:, None]], 1)
    counts = counts[:, counts.any(0)]
    shares = counts / counts.sum(0)
    order = stratified_order(table, [str(i) for i in range(len(table))], seed)
    assert sorted(order.tolist()) == list(range(len(table)))
    got, left = np.zeros(counts.shape[1]), set(range(len(table)))
    for i in order.tolist():
        available = shares[sorted(left)].any(0)
        least = available & (got <= got[available].min() + 1e-12)
        assert shares[i][least].any()
        got += shares[i]
        left.remove(i)


@given(tables, seeds, st.floats(0.05, 0.95))
@settings(max_examples=40)
def test_a_validation_split_and_the_rest_make_the_whole(table: np.ndarray, seed: int, share: float) -> None:
    kept, scored = train_val(labelled(table), share, seed)
    assert sorted([*kept, *scored]) == list(range(len(table)))
    assert len(scored) == min(max(1, round(share * len(table))), len(table) - 1)


def test_every_class_is_met_by_as_many_images_as_there_are_classes() -> None:
    table = np.zeros((60, 12), np.int64)
    for c in range(12):
        table[c * 5 : c * 5 + 1 + c % 4, c] = 3
    for seed in range(5):
        order = stratified_order(table, [str(i) for i in range(60)], seed)
        assert (table[order[:13]].sum(0) > 0).all()  # the thirteenth class is that of empty images


def test_a_class_of_one_image_is_trained_on() -> None:
    table = np.ones((20, 2), np.int64)
    table[7, 1] = 1
    table[:7, 1] = table[8:, 1] = 0
    for seed in range(10):
        assert 7 in train_val(labelled(table), 0.5, seed)[0]


def test_shares_are_kept_better_than_by_chance() -> None:
    rng = np.random.default_rng(0)
    table = (rng.random((400, 10)) < 0.15) * rng.integers(1, 9, (400, 10))
    whole = labelled(table)

    def error(rows: np.ndarray) -> float:
        return float(np.abs(table[rows].sum(0) / table.sum(0) - len(rows) / 400).max())

    for seed in range(5):
        rows = nested_fractions(whole, [0.1], seed)[0.1]
        assert error(rows) < min(error(rng.permutation(400)[:40]) for _ in range(20))


def test_seeds_give_different_parts() -> None:
    whole = labelled(np.ones((50, 1), np.int64))
    parts = [set(nested_fractions(whole, [0.2], seed)[0.2].tolist()) for seed in range(3)]
    assert len({frozenset(part) for part in parts}) == 3


def test_an_order_that_was_once_drawn_stays() -> None:
    table = np.arange(24).reshape(8, 3) % 4
    assert stratified_order(table, [f"{i}.jpg" for i in range(8)], 1).tolist() == [3, 5, 6, 4, 0, 2, 1, 7]


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan")])
def test_fractions_lie_between_zero_and_one(fraction: float) -> None:
    with pytest.raises(InputError, match="above 0 and are at most 1"):
        nested_fractions(labelled(np.ones((4, 1), np.int64)), [0.5, fraction], 0)


def test_parts_of_too_few_images_are_refused() -> None:
    with pytest.raises(InputError, match="no labelled images"):
        nested_fractions(labelled(np.ones((0, 1), np.int64)), [0.5], 0)
    with pytest.raises(InputError, match="at least two labelled images, got 1"):
        train_val(labelled(np.ones((1, 1), np.int64)), 0.5, 0)
    for share in (0, 1):
        with pytest.raises(InputError, match="between 0 and 1"):
            train_val(labelled(np.ones((4, 1), np.int64)), share, 0)


@pytest.mark.parametrize("seed", range(8))
def test_images_without_a_class_come_after_one_of_each(seed: int) -> None:
    counts = np.zeros((40, 3), np.int64)
    counts[np.arange(9), np.arange(9) % 3] = 1
    order = stratified_order(counts, [f"{i:02d}" for i in range(40)], seed)
    assert set(counts[order[:3]].argmax(1)) == {0, 1, 2}
    assert counts[order[:3]].any(1).all()
