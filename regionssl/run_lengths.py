"""COCO's run lengths: a mask column by column, as the lengths of alternating runs, from unset pixels on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def encode(mask: NDArray[np.bool_]) -> list[int]:
    """The run lengths of a mask (H, W)."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    starts = np.flatnonzero(flat[1:] != flat[:-1])
    return [int(length) for length in np.diff(np.concatenate([[0], starts, [mask.size]]))]


def unpack(counts: str | Sequence[int]) -> list[int]:
    """Run lengths, from COCO's compressed form if they are text: five bits a character, from the fourth number on as
    differences to the last but one.

    Raises:
        ValueError: characters that do not occur in it, an end within a number, or lengths that are not whole numbers.
        TypeError: neither text nor a sequence.
    """
    if not isinstance(counts, str):
        try:
            return [*map(int, counts)]
        except OverflowError as error:
            raise ValueError(f"a length is no number of pixels: {error}") from error
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"the character {character!r} does not occur in run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("they end within a number")
    return runs


def decode(runs: Sequence[int], width: int, height: int) -> NDArray[np.bool_]:
    """The mask (height, width) of run lengths.

    Raises:
        ValueError: they do not add up to its pixels, or one is negative.
    """
    if sum(runs) != width * height or min(runs, default=0) < 0:
        raise ValueError(f"they add up to {sum(runs)} pixels, and {height} x {width} are {width * height}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
