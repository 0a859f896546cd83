"""How much of a plan fits a time."""

from __future__ import annotations

import math
import re

from regionssl.errors import InputError

_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def parse_time(text: str) -> float:
    """Seconds of ``90s``, ``30min``, ``2h``, ``1.5h``, ``1d`` or ``1h30m``.

    Raises:
        InputError: anything else.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.lower())
    rest = re.sub(r"(\d+(?:\.\d+)?)\s*([a-z]+)", "", text.lower()).strip()
    if not parts or rest or any(unit not in _SECONDS for _, unit in parts):
        raise InputError(f"--budget {text}: expected a time such as 90s, 30min, 2h, 1h30m or 1d")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not 0 < seconds < math.inf:
        raise InputError(f"--budget {text}: a time above 0 is needed")
    return seconds


def blocks_that_fit(blocks: int, spent: float, first: float, budget: float) -> int:
    """How many blocks fit, if every one takes as long as the first; always one.

    Args:
        spent: seconds until the end of the first block, that included.
        first: seconds of the first block.
    """
    return max(1, min(blocks, 1 + math.floor(max(0.0, budget - spent) / max(first, 1e-9))))
