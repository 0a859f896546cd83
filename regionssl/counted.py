"""Randomness that is counted, not carried: every draw is a pure function of (seed, stream, counters).

Nothing here has state, so the number of loader workers or processes, and a restart in the middle of an epoch, cannot
change what is drawn. Two generators serve two places: NumPy's Philox for the few scalars of one sample on the CPU, and
a 64-bit integer hash in torch for whole batches on any device (same bits everywhere).
"""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


class Stream(IntEnum):
    """What a draw is for. Draws of different streams are independent of each other."""

    ORDER = 1  # the permutation of an epoch
    VIEWS = 2  # crops and mirrors of a sample
    COLOURS = 3  # photometric parameters of a view
    REPLACEMENT = 4  # the image that stands in for an unreadable one
    BOXES = 5  # boxes in the overlap of two views
    SHUFFLE = 6  # the permutation of shuffled batch normalisation
    WEIGHTS = 7  # initial weights
    STEP = 8  # torch's own generator within a training step (dropout and the like)
    SCENES = 9  # generated scenes
    POINTS = 10  # points in the regions of two views
    CLUSTERS = 11  # first centres of a group
    PATCHES = 12  # neighbour, boxes and pair of a sample
    BOOTSTRAP = 40  # images and seeds of an interval
    SPLITS = 13  # which labelled images make a part


def generator(seed: int, stream: Stream, *counters: int) -> np.random.Generator:
    """A NumPy generator positioned at (seed, stream, counters); at most three counters, each below 2**64."""
    if len(counters) > 3:
        raise ValueError(f"at most three counters, got {counters}")
    words = np.array([0, *counters, *[0] * (3 - len(counters))], dtype=np.uint64)
    key = np.array([seed & _WORD, int(stream)], dtype=np.uint64)  # a list with a word above 2**63 would become float64
    return np.random.Generator(np.random.Philox(counter=words, key=key))


def integer(seed: int, stream: Stream, *counters: int) -> int:
    """One non-negative 63-bit integer at (seed, stream, counters), for seeding generators that want an integer."""
    return int(generator(seed, stream, *counters).integers(0, 1 << 63))


def permutation(size: int, seed: int, stream: Stream, *counters: int) -> np.ndarray:
    """A permutation of ``range(size)`` (int64) at (seed, stream, counters)."""
    return generator(seed, stream, *counters).permutation(size)


def uniform(shape: tuple[int, ...], seed: int, stream: Stream, epoch: int, index: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) for each sample of a batch, the same on every device.

    Args:
        shape: shape of the draws of one sample.
        index: (N,) int64, which samples.

    Returns:
        (N, *shape) float64 on the device of ``index``.
    """
    key = _mix_int(_mix_int(_mix_int(seed & _WORD) ^ int(stream)) ^ epoch)
    sample = _mix(index ^ _signed(key))
    count = math.prod(shape)
    steps = torch.arange(1, count + 1, device=index.device, dtype=torch.int64) * _signed(_GOLDEN)
    bits = _mix(sample[:, None] + steps)
    return (_shift_right(bits, 11).double() * 2.0**-53).reshape(len(index), *shape)


def uniform_at(places: np.ndarray, seed: int, stream: Stream, epoch: int, index: np.ndarray) -> np.ndarray:
    """Some of the numbers of :func:`uniform`, without making the others.

    Args:
        places: int64, positions within the flattened draws of a sample.
        index: int64, which samples; broadcast against ``places``.

    Returns:
        float64 of the broadcast shape.
    """
    key = _mix_int(_mix_int(_mix_int(seed & _WORD) ^ int(stream)) ^ epoch)
    sample = _mix_array(index.astype(np.uint64) ^ np.uint64(key))
    bits = _mix_array(sample + (places + 1).astype(np.uint64) * np.uint64(_GOLDEN))
    return (bits >> np.uint64(11)) * 2.0**-53


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


def _shift_right(x: Tensor, places: int) -> Tensor:
    """Logical shift of int64 (torch's own shift copies the sign)."""
    return (x >> places) & ((1 << (64 - places)) - 1)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 on int64, whose products wrap around."""
    x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift_right(x, 31)


def _mix_array(x: np.ndarray) -> np.ndarray:
    """:func:`_mix` on uint64, in place."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def _mix_int(x: int) -> int:
    """:func:`_mix` on a Python integer."""
    x = (x + _GOLDEN) & _WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _WORD
    return x ^ (x >> 31)
