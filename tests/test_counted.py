"""Counted randomness: pure functions of their counters, uniform, independent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regionssl import counted
from regionssl.counted import Stream

WORD = (1 << 64) - 1
COUNTERS = st.integers(0, WORD)


def splitmix(x: int) -> int:
    """The finaliser of splitmix64."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def reference(count: int, seed: int, stream: int, epoch: int, index: int) -> list[float]:
    """The hash in Python's integers."""
    key = seed & WORD
    for word in (stream, epoch, index):
        key = splitmix((key + 0x9E3779B97F4A7C15) & WORD) ^ word
    sample = splitmix(key)
    return [(splitmix((sample + i * 0x9E3779B97F4A7C15) & WORD) >> 11) * 2.0**-53 for i in range(1, count + 1)]


@settings(max_examples=50)
@given(st.integers(-(2**63), 2**64), st.sampled_from(Stream), st.integers(0, 2**40), st.integers(0, 2**62))
def test_uniform_is_the_hash_of_its_counters(seed: int, stream: Stream, epoch: int, index: int) -> None:
    ours = counted.uniform((5,), seed, stream, epoch, torch.tensor([index]))
    key_order = reference(5, seed, stream, epoch, index)
    assert ours.tolist() == [key_order]


def test_uniform_is_uniform() -> None:
    values = counted.uniform((20, 10), 0, Stream.BOXES, 0, torch.arange(2000))
    assert values.shape == (2000, 20, 10)
    assert values.dtype == torch.float64
    assert values.min() >= 0
    assert values.max() < 1
    n = values.numel()
    assert values.mean().item() == pytest.approx(1 / 2, abs=4 * (1 / 12 / n) ** 0.5)
    assert values.var().item() == pytest.approx(1 / 12, rel=0.01)
    counts = torch.histc(values.flatten(), 100, 0, 1)
    chi_square = ((counts - n / 100) ** 2 / (n / 100)).sum().item()
    assert 50 < chi_square < 160  # 99 degrees of freedom: 6e-6 of the mass below 50, 1e-4 above 160
    assert len(values.unique()) == n


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_neighbouring_counters_are_uncorrelated(seed: int) -> None:
    index = torch.arange(4000)
    base = counted.uniform((8,), seed, Stream.BOXES, 0, index).flatten()
    others = {
        "seed": counted.uniform((8,), seed + 1, Stream.BOXES, 0, index),
        "stream": counted.uniform((8,), seed, Stream.VIEWS, 0, index),
        "epoch": counted.uniform((8,), seed, Stream.BOXES, 1, index),
        "index": counted.uniform((8,), seed, Stream.BOXES, 0, index + 1),
        "position": counted.uniform((9,), seed, Stream.BOXES, 0, index)[:, 1:],
    }
    for name, other in others.items():
        correlation = torch.corrcoef(torch.stack([base, other.flatten()]))[0, 1].item()
        assert abs(correlation) < 4.5 / len(base) ** 0.5, name
        assert not torch.equal(base, other.flatten()), name


@settings(max_examples=30)
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=12), st.integers(0, 10**6))
def test_a_sample_draws_the_same_in_any_batch(index: list[int], epoch: int) -> None:
    together = counted.uniform((2, 3), 7, Stream.COLOURS, epoch, torch.tensor(index))
    backwards = counted.uniform((2, 3), 7, Stream.COLOURS, epoch, torch.tensor(index[::-1]))
    assert torch.equal(backwards, together.flip(0))
    for row, i in enumerate(index):
        alone = counted.uniform((2, 3), 7, Stream.COLOURS, epoch, torch.tensor([i]))
        assert torch.equal(alone[0], together[row])


def test_longer_draws_begin_with_the_shorter_ones() -> None:
    index = torch.arange(5)
    long = counted.uniform((6, 2), 0, Stream.BOXES, 3, index)
    assert torch.equal(counted.uniform((4, 2), 0, Stream.BOXES, 3, index), long[:, :4])


def test_no_samples_no_draws() -> None:
    assert counted.uniform((3, 2), 0, Stream.BOXES, 0, torch.empty(0, dtype=torch.int64)).shape == (0, 3, 2)


def test_uniform_leaves_torch_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    counted.uniform((3,), 0, Stream.BOXES, 0, torch.arange(3))
    assert torch.equal(torch.rand(3), expected)


@settings(max_examples=30)
@given(st.integers(-(2**63), 2**63), st.sampled_from(Stream), st.lists(COUNTERS, max_size=3))
def test_generator_is_a_pure_function(seed: int, stream: Stream, counters: list[int]) -> None:
    first = counted.generator(seed, stream, *counters)
    np.random.default_rng(0).random(5)
    second = counted.generator(seed, stream, *counters)
    assert first.random(4).tolist() == second.random(4).tolist()
    assert counted.integer(seed, stream, *counters) == counted.integer(seed, stream, *counters)


def test_generators_of_different_counters_differ() -> None:
    places = [(0, Stream.VIEWS, 0, 0), (1, Stream.VIEWS, 0, 0), (0, Stream.COLOURS, 0, 0)]
    places += [(0, Stream.VIEWS, 1, 0), (0, Stream.VIEWS, 0, 1), (0, Stream.VIEWS, 1, 1), (0, Stream.VIEWS, 0, 0, 1)]
    assert len({counted.generator(*place).random() for place in places}) == len(places)
    assert len({counted.integer(*place) for place in places}) == len(places)


@pytest.mark.parametrize("large", [-2, 2**63 + 1, 2**53 + 1])
def test_every_bit_of_seeds_and_counters_counts(large: int) -> None:
    assert counted.integer(large, Stream.VIEWS) != counted.integer(large + 1, Stream.VIEWS)
    if large > 0:
        assert counted.integer(0, Stream.VIEWS, large) != counted.integer(0, Stream.VIEWS, large + 1)


def test_generators_of_neighbouring_samples_do_not_overlap() -> None:
    """Neither sample's numbers turn up in the other's sequence, however much is drawn."""
    sequences = [set(counted.generator(0, Stream.VIEWS, 0, i).random(5000).tolist()) for i in range(4)]
    assert len(set().union(*sequences)) == 4 * 5000


def test_integer_has_63_bits() -> None:
    values = [counted.integer(3, Stream.SCENES, i) for i in range(2000)]
    assert min(values) >= 0
    assert 2**62 < max(values) < 2**63
    assert len(set(values)) == 2000


def test_permutation() -> None:
    order = counted.permutation(1000, 0, Stream.ORDER, 4)
    assert sorted(order.tolist()) == list(range(1000))
    assert order.tolist() == counted.permutation(1000, 0, Stream.ORDER, 4).tolist()
    assert order.tolist() != counted.permutation(1000, 0, Stream.ORDER, 5).tolist()


def test_too_many_counters_are_refused() -> None:
    with pytest.raises(ValueError, match="at most three counters"):
        counted.generator(0, Stream.VIEWS, 1, 2, 3, 4)


@settings(max_examples=30)
@given(st.integers(-(2**63), 2**64), st.integers(0, 2**40), st.lists(st.integers(0, 2**62), min_size=1, max_size=4))
def test_single_numbers_are_those_of_the_whole(seed: int, epoch: int, index: list[int]) -> None:
    whole = counted.uniform((4, 5), seed, Stream.BOXES, epoch, torch.tensor(index)).flatten(1).numpy()
    places = np.array([[19], [0], [7]])
    some = counted.uniform_at(places, seed, Stream.BOXES, epoch, np.array(index))
    np.testing.assert_array_equal(some, whole[:, [19, 0, 7]].T)
