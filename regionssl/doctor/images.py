"""Can the images of DATA be used, and how fast: by the scan of all and the look at some."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from regionssl.data.image_list import ImageList
from regionssl.data.scan import MOST_BAD
from regionssl.data.scan_report import ScanReport, amount, printable
from regionssl.doctor.finding import Finding, Level
from regionssl.doctor.looking import Look, Seen

_SLOW_READ = 0.02  # seconds
_LARGE = 3.0  # megapixels
_PACK = "regionssl pack DATA --out PACK, and give PACK in place of DATA"
_REPAIR = "copy these files again, or take them out"


def check_scan(report: ScanReport) -> list[Finding]:
    """Images that cannot be used, by their headers."""
    aside = tuple(f"{name}: {reason}" for name, reason in report.set_aside)
    summary = f"{report.used:,} used of {report.found:,} found, {amount(report.total_bytes)}"
    if report.ignored:
        summary += f"; {report.ignored:,} other files ignored"
    if not aside:
        return [Finding("ok", "images", summary)]
    level: Level = "fault" if len(aside) > MOST_BAD * report.found or not report.used else "warning"
    found = f"{summary}; {len(aside):,} cannot be used (at most {MOST_BAD:.0%} may be set aside)"
    return [Finding(level, "images", found, _REPAIR, aside)]


def check_damage(looks: Sequence[Look], images: ImageList) -> list[Finding]:
    """Damage within the pixels, which the scan does not see."""
    broken = [look for look in looks if look.problem]
    if not broken:
        return [Finding("ok", "decoding", f"all {len(looks):,} images looked at decode")]
    names = tuple(f"{printable(images.names[look.position])}: {look.problem}" for look in broken)
    level: Level = "fault" if len(broken) > MOST_BAD * len(looks) else "warning"
    found = f"{len(broken):,} of {len(looks):,} looked at do not decode"
    return [Finding(level, "decoding", found, _REPAIR, names)]


def check_speed(looks: Sequence[Look], images: int, at_once: int) -> list[Finding]:
    """What reading, decoding and cutting cost, and how many images can thus be had at most.

    Args:
        images: of all of DATA.
        at_once: images that are loaded at the same time on this machine.
    """
    seen = [look.seen for look in looks if look.seen is not None]
    if not seen:
        return []
    read, decoded, cut = (float(np.mean([getattr(one, name) for one in seen])) for name in ("read", "decoded", "cut"))
    megapixels = float(np.median([_pixels(one) for one in seen])) / 1e6
    speed = at_once / (read + decoded + cut)
    summary = (
        f"one core reads an image in {1e3 * read:.1f} ms, decodes it in {1e3 * decoded:.1f} and cuts its views in "
        f"{1e3 * cut:.1f}; with {at_once} at a time at most {speed:,.0f} images a second can be had, {images:,} in "
        f"{images / speed / 60:,.1f} min"
    )
    if read > max(_SLOW_READ, decoded + cut):
        found = f"reading takes longest, as from a file server or a slow disk: {summary}"
        return [Finding("warning", "speed", found, f"copy the images to a local disk; or {_PACK}")]
    if decoded > 3 * cut > 0 and megapixels > _LARGE:
        found = f"images of {megapixels:.1f} megapixels are decoded to be cut to views: {summary}"
        return [Finding("warning", "speed", found, _PACK)]
    return [Finding("note", "speed", summary, "in a run's log, `waiting` says whether that is enough")]


def largest_image(looks: Sequence[Look]) -> int:
    """Bytes of the pixels of the largest image looked at."""
    return max((3 * _pixels(look.seen) for look in looks if look.seen is not None), default=0)


def _pixels(seen: Seen) -> int:
    header = seen.details.header
    return header.width * header.height
