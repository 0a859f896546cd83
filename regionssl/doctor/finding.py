"""What a check of the doctor says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "note", "warning", "fault"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "fault")
"""From good to bad: fine; worth knowing; will cost time or quality; a run will fail."""


@dataclass(frozen=True)
class Finding:
    """One outcome of a check.

    Attributes:
        about: what was looked at.
        found: one sentence.
        mend: the command or setting that mends it; empty where nothing need be done.
        details: names of images and the like, all of them.
    """

    level: Level
    about: str
    found: str
    mend: str = ""
    details: tuple[str, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """The finding as JSON values."""
        return {**asdict(self), "details": list(self.details)}


def worst(findings: Iterable[Finding]) -> Level:
    """The worst level; "ok" of nothing."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")
