"""Memory of a training process: the largest micro-batch that fits a GPU, and blocks that the CPU's allocator keeps."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch

ROOM = 0.92
"""Share of a GPU's memory that a step may take; the rest is for other processes' buffers and fragmentation."""

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of <malloc.h>
_NEVER = 2**31 - 1


def largest_part(attempt: Callable[[int], float], share: int, multiple: int = 1) -> int:
    """The largest of ``share``, a half of it, a quarter ... for which a step fits.

    Args:
        attempt: runs a step in parts of so many images; returns the share of the memory that it took, or raises
            ``torch.OutOfMemoryError``.
        share: images of a process.
        multiple: images that must stay together; it divides ``share``.

    Raises:
        torch.OutOfMemoryError: not even ``multiple`` images fit.
    """
    part = share
    while True:
        smaller = max(multiple, part // 2 // multiple * multiple)
        try:
            if attempt(part) <= ROOM or smaller == part:
                return part
        except torch.OutOfMemoryError:
            if smaller == part:
                raise
        part = smaller


def keep_freed_memory(device: str | torch.device) -> bool:
    """On a CPU let glibc keep what training frees, instead of returning it to the system and clearing it at every step.

    Returns:
        Whether it does: it is a CPU, and this C library can be told so.
    """
    if torch.device(device).type != "cpu":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # blocks of their own (mmap) are always returned, and those of more than 32 MiB are given no other way than this
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, _NEVER))
