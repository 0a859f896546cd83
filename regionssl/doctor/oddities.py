"""Kinds of image files and pixels that are treated in a way that one should know of, or that teach little."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from regionssl.data.image_list import ImageList
from regionssl.data.scan_report import printable
from regionssl.doctor.finding import Finding, Level
from regionssl.doctor.looking import Look, Seen

_EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}
_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
_FLAT = 0.5  # standard deviation of grey levels
_DARK = 12.0  # mean, of 255
_LONG = 4.0  # to 1


@dataclass(frozen=True)
class Oddity:
    """A kind of image, told of if more than ``share`` of those looked at are of it.

    Attributes:
        found: completes "n of m images ...".
    """

    level: Level
    share: float
    holds: Callable[[Seen], bool]
    found: str
    mend: str


def _deep(seen: Seen) -> bool:
    mode = seen.details.header.mode
    return mode.startswith("I") or mode == "F"


def _flat(seen: Seen) -> bool:
    return float(seen.small.std()) < _FLAT


def _long(seen: Seen) -> bool:
    header = seen.details.header
    return max(header.width, header.height) > _LONG * min(header.width, header.height)


ODDITIES = (
    Oddity(
        "note",
        0.0,
        lambda seen: seen.details.orientation != 1,
        "are turned upright by their EXIF orientation; labels made on the stored pixels would not fit",
        "before labelling: mogrify -auto-orient (ImageMagick)",
    ),
    Oddity(
        "note",
        0.0,
        lambda seen: seen.details.pictures > 1,
        "hold several pictures, of which the first is taken",
        "split them beforehand if the others count",
    ),
    Oddity(
        "note",
        0.0,
        lambda seen: seen.details.header.mode == "CMYK",
        "are CMYK, turned into RGB without their colour profile",
        "if colours matter, convert them with their profile beforehand",
    ),
    Oddity(
        "note",
        0.0,
        lambda seen: seen.details.header.mode in _ALPHA,
        "have an alpha channel, blended over white",
        "if white is the wrong ground, flatten them beforehand",
    ),
    Oddity(
        "note",
        0.0,
        _deep,
        "have more than 8 bits a value: 16 are scaled by their full range, 32 from smallest to largest",
        "if the sensor fills a part of the range, stretch them to 8 bits beforehand",
    ),
    Oddity(
        "warning",
        0.05,
        lambda seen: seen.mean < _DARK and not _flat(seen),
        "are nearly black",
        "stretch their values beforehand: 12 or 14 bits may lie in files of 16",
    ),
    Oddity("warning", 0.02, _flat, "show a single colour and teach nothing", "take them out"),
    Oddity(
        "note",
        0.5,
        lambda seen: not seen.colourful,
        "are grey, so changes of hue and saturation do nothing to them",
        "nothing need be done",
    ),
    Oddity(
        "note",
        0.1,
        _long,
        f"are longer than {_LONG:g} to 1, so a crop sees little of them",
        "cut them into tiles beforehand",
    ),
)


def check_oddities(looks: Sequence[Look], images: ImageList) -> list[Finding]:
    """Each kind that is there often enough to be told of."""
    good = [(look, look.seen) for look in looks if look.seen is not None]
    findings = []
    for oddity in (*ODDITIES, _misnamed(good, images)):
        names = tuple(printable(images.names[look.position]) for look, seen in good if oddity.holds(seen))
        if names and len(names) > oddity.share * len(good):
            found = f"{len(names):,} of {len(good):,} looked at {oddity.found}"
            findings.append(Finding(oddity.level, "images", found, oddity.mend, names))
    return findings


def _misnamed(good: Sequence[tuple[Look, Seen]], images: ImageList) -> Oddity:
    wrong = {
        id(seen)
        for look, seen in good
        if os.path.splitext(images.names[look.position])[1].lower() not in _EXTENSIONS[seen.details.header.format]
    }
    found = "have the extension of another format; their content decides, here"
    return Oddity("note", 0.0, lambda seen: id(seen) in wrong, found, "rename them if other programs read them")
