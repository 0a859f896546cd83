"""Images that are there more than once: the same file, or nearly the same picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from regionssl.data.contents import UNREADABLE, content_digest
from regionssl.data.hashes import near_by_hash
from regionssl.data.image_list import ImageList
from regionssl.data.scan_report import printable
from regionssl.doctor.finding import Finding, Level
from regionssl.doctor.looking import Look

MANY = 0.05
_SHOWN = 8  # names of a group
_HASHED = 20_000


def equal_files(images: ImageList, looked: Sequence[int]) -> tuple[list[list[int]], int]:
    """Groups of positions with the same content, and how many files were compared.

    Only files of equal size are read. If these are more than 20,000, as they are where files are not compressed, those
    among ``looked`` are compared.
    """
    sizes = images.stat[0]
    _, kinds, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    candidates = np.flatnonzero(counts[kinds] > 1)
    compared = len(images)
    if len(candidates) > _HASHED:
        candidates, compared = np.intersect1d(candidates, np.asarray(looked, np.int64)), len(looked)
    groups: dict[bytes, list[int]] = defaultdict(list)
    for position in candidates.tolist():
        groups[content_digest(images, position)].append(position)
    groups.pop(UNREADABLE, None)
    return sorted(group for group in groups.values() if len(group) > 1), compared


def alike(looks: Sequence[Look]) -> list[list[int]]:
    """Groups of positions whose pictures are near-copies, directly or through others."""
    good = [(look.position, look.seen.small) for look in looks if look.seen is not None]
    if len(good) < 2:
        return []
    pictures = np.stack([small for _, small in good])
    pairs = near_by_hash(pictures, pictures)
    upper = pairs.left < pairs.right
    left, right = pairs.left[upper].tolist(), pairs.right[upper].tolist()
    return joined((good[i][0], good[j][0]) for i, j in zip(left, right, strict=True))


def joined(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The groups that pairs connect, each in order."""
    group_of: dict[int, list[int]] = {}
    for pair in pairs:
        first, second = (group_of.setdefault(one, [one]) for one in pair)
        if first is not second:
            first += second
            group_of.update(dict.fromkeys(second, first))
    unique = {id(group): sorted(group) for group in group_of.values()}
    return sorted(unique.values())


def check_copies(
    images: ImageList, equal: list[list[int]], compared: int, near: list[list[int]], looked: int
) -> list[Finding]:
    """How many images are copies of others, by file and by picture."""
    lines = [
        (equal, compared, "the same file as another", "take out all but one of each group"),
        (near, looked, "a near-copy of another", "thin films out, and keep copies on one side of a split of labels"),
    ]
    findings = []
    for groups, of, what, mend in lines:
        extra = sum(len(group) - 1 for group in groups)
        if not extra:
            findings.append(Finding("ok", "copies", f"of {of:,} images none is {what}"))
            continue
        largest = max(map(len, groups))
        found = f"{extra:,} of {of:,} images: {what} ({len(groups):,} groups, the largest of {largest})"
        names = tuple(_named(group, images) for group in sorted(groups, key=len, reverse=True))
        level: Level = "warning" if extra > MANY * of else "note"
        findings.append(Finding(level, "copies", found, f"{mend}; --json lists the groups", names))
    return findings


def _named(group: list[int], images: ImageList) -> str:
    names = ", ".join(printable(images.names[i]) for i in group[:_SHOWN])
    return f"{names} and {len(group) - _SHOWN} more" if len(group) > _SHOWN else names
