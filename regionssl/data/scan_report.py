"""What the scan saw, for a person and for files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

_LISTED = 20


@dataclass(frozen=True)
class ScanReport:
    """What the scan saw. All but ``found`` and ``set_aside`` is about the images used.

    Attributes:
        found, used: numbers of images.
        ignored: number of files that are not images by name.
        set_aside: name and reason of each image that cannot be used.
        formats, modes: number of images by file format and by Pillow's mode, most frequent first.
        shortest_side: least, median and largest length of the shortest side, pixels.
        megapixels: median.
        total_bytes: size of the files.
        seconds: what the scan took.
        from_cache: whether an earlier scan of the same files was recalled.
    """

    found: int
    used: int
    ignored: int
    set_aside: tuple[tuple[str, str], ...]
    formats: dict[str, int]
    modes: dict[str, int]
    shortest_side: tuple[int, int, int]
    megapixels: float
    total_bytes: int
    seconds: float
    from_cache: bool

    def to_plain(self) -> dict[str, Any]:
        """The report as JSON values."""
        plain = asdict(self)
        return {**plain, "set_aside": [list(pair) for pair in self.set_aside], "shortest_side": [*self.shortest_side]}

    def lines(self) -> list[str]:
        """The report for a person."""
        least, median, most = self.shortest_side
        head = f"images: {self.used:,} used of {self.found:,} found"
        if self.ignored:
            head += f"; {self.ignored:,} other files ignored"
        lines = [
            head,
            f"  formats: {_counts(self.formats)}; modes: {_counts(self.modes)}",
            f"  shortest side: {least} to {most} pixels, median {median}; median {self.megapixels:.3g} megapixels; "
            f"{amount(self.total_bytes)}",
            f"  {'recalled an earlier scan' if self.from_cache else 'scanned'} in {self.seconds:.1f} s",
        ]
        if self.set_aside:
            lines += [f"  set aside: {len(self.set_aside):,}", *listed(self.set_aside, "    ")]
        return lines


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def amount(count: float) -> str:
    """Bytes for a person: ``1.2 GB``."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def listed(set_aside: tuple[tuple[str, str], ...], indent: str) -> list[str]:
    """One line for each of the first images set aside, and how many more there are."""
    lines = [f"{indent}{name}: {reason}" for name, reason in set_aside[:_LISTED]]
    more = len(set_aside) - _LISTED
    return [*lines, f"{indent}... and {more:,} more"] if more > 0 else lines


def printable(name: str) -> str:
    """A name that is not UTF-8 on disk, as text that can be shown and written."""
    return "".join(one if not "\ud800" <= one <= "\udfff" else "\ufffd" for one in name)
