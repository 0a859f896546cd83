"""The first pass over the images: their headers are read once, and what cannot be used is set aside and reported."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from errno import ENOENT
from pathlib import Path

import numpy as np
import PIL

from regionssl.data.cache import default_cache, keep
from regionssl.data.decode import UnreadableImage, probe
from regionssl.data.image_list import ImageList
from regionssl.data.scan_report import ScanReport, listed, printable
from regionssl.data.store import MISSING
from regionssl.errors import InputError

MOST_BAD = 0.05  # share of the images found
_CHUNK = 256
_WORTH_PROCESSES = 4096
_VERSION = 1


@dataclass(frozen=True)
class _Findings:
    """The outcome of reading headers: unusable positions with reasons, and statistics of the rest."""

    bad: list[tuple[int, str]]
    formats: dict[str, int]
    modes: dict[str, int]
    shortest_side: tuple[int, int, int]
    megapixels: float


def scan(
    images: ImageList,
    workers: int = 0,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[ImageList, ScanReport]:
    """Read the header of every image, and keep those that can be used: :func:`examine`, and a refusal of bad data.

    Raises:
        InputError: more than 5 % of the images found cannot be used, or there is none left.
    """
    used, report = examine(images, workers, cache, on_progress)
    _check_enough(images, report)
    return used, report


def examine(
    images: ImageList,
    workers: int = 0,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[ImageList, ScanReport]:
    """Read the header of every image, and keep those that can be used, however few.

    The outcome is kept in the cache until the name, size or time of change of any image changes.

    Args:
        workers: processes; 0 takes one per core.
        cache: folder; None takes :func:`regionssl.data.cache.default_cache`.
        on_progress: called with the number of images done and the number of all.
    """
    start = time.perf_counter()
    path = (cache or default_cache()) / _cache_name(images)
    stamp = _stamp(images)
    findings = _recall(path, stamp)
    from_cache = findings is not None
    if findings is None:
        findings, lasting = _read_headers(images, workers or usable_cores(), on_progress)
        if lasting:
            keep(path, json.dumps({"stamp": stamp, **asdict(findings)}).encode())
    used = _without(images, findings.bad)
    report = ScanReport(
        found=len(images),
        used=len(used),
        ignored=images.ignored,
        set_aside=tuple((printable(images.names[row]), reason) for row, reason in findings.bad),
        formats=findings.formats,
        modes=findings.modes,
        shortest_side=findings.shortest_side,
        megapixels=findings.megapixels,
        total_bytes=int(used.stat[0].sum()),
        seconds=round(time.perf_counter() - start, 3),
        from_cache=from_cache,
    )
    return used, report


def _check_enough(images: ImageList, report: ScanReport) -> None:
    bad = len(report.set_aside)
    if report.used and bad <= MOST_BAD * report.found:
        return
    names = "\n".join(listed(report.set_aside, "  "))
    raise InputError(
        f"{bad} of the {report.found} images in {images.root} cannot be used, and at most {MOST_BAD:.0%} may be set "
        f"aside; repair them or take them out:\n{names}"
    )


def _cache_name(images: ImageList) -> str:
    return f"scan-{hashlib.sha256(os.fsencode(os.path.abspath(images.root))).hexdigest()[:32]}.json"


def _stamp(images: ImageList) -> str:
    """What changes when an image does, or what reads it."""
    digest = hashlib.sha256(f"{_VERSION} {PIL.__version__} {images.fingerprint}".encode())
    digest.update(images.stat[1].astype("<i8").tobytes())
    return digest.hexdigest()


def _recall(path: Path, stamp: str) -> _Findings | None:
    try:
        kept = json.loads(path.read_bytes())
        if kept.pop("stamp") != stamp:
            return None
        kept["bad"] = [(int(row), str(reason)) for row, reason in kept["bad"]]
        least, median, most = kept["shortest_side"]
        return _Findings(**{**kept, "shortest_side": (least, median, most)})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _without(images: ImageList, bad: list[tuple[int, str]]) -> ImageList:
    if not bad:
        return images
    good = np.ones(len(images), bool)
    good[[row for row, _ in bad]] = False
    return images.subset(np.flatnonzero(good))


def _read_headers(
    images: ImageList, workers: int, on_progress: Callable[[int, int], None] | None
) -> tuple[_Findings, bool]:
    """The findings, and whether they will stay true while the files are unchanged."""
    bad: list[tuple[int, str]] = []
    formats: Counter[str] = Counter()
    modes: Counter[str] = Counter()
    sides = []
    lasting, done = True, 0
    for part in _parts(images, workers):
        bad += part.bad
        formats.update(part.formats)
        modes.update(part.modes)
        sides.append(part.sides)
        lasting &= part.lasting
        done += len(part.bad) + len(part.sides)
        if on_progress:
            on_progress(done, len(images))
    all_sides = np.concatenate([*sides, np.zeros((0, 2), np.int64)])
    shortest, pixels = all_sides.min(1), all_sides.prod(1)
    least, median, most = (int(f(shortest)) for f in (np.min, np.median, np.max)) if len(shortest) else (0, 0, 0)
    megapixels = float(np.median(pixels)) / 1e6 if len(pixels) else 0.0
    return _Findings(
        bad, dict(formats.most_common()), dict(modes.most_common()), (least, median, most), megapixels
    ), lasting


@dataclass(frozen=True)
class _Part:
    """Findings of a stretch of images; ``sides`` (K, 2) int64 are width and height of the usable ones."""

    bad: list[tuple[int, str]]
    formats: Counter[str]
    modes: Counter[str]
    sides: np.ndarray
    lasting: bool


_scanned: ImageList  # of a worker process, so that the list travels once and not with every stretch


def _start_worker(images: ImageList) -> None:
    global _scanned
    _scanned = images


def _read_stretch_of_worker(start: int) -> _Part:
    return _read_stretch(_scanned, start)


def _parts(images: ImageList, workers: int) -> Iterator[_Part]:
    starts = range(0, len(images), _CHUNK)
    if workers == 1 or len(images) < _WORTH_PROCESSES:
        yield from (_read_stretch(images, start) for start in starts)
        return
    with ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(images,)) as pool:
        yield from pool.map(_read_stretch_of_worker, starts)


def _read_stretch(images: ImageList, start: int) -> _Part:
    bad: list[tuple[int, str]] = []
    formats: Counter[str] = Counter()
    modes: Counter[str] = Counter()
    sides, lasting = [], True
    sizes = images.stat[0]
    for row in range(start, min(start + _CHUNK, len(images))):
        try:
            if sizes[row] == MISSING:
                raise UnreadableImage("is missing")
            with images.open(row) as file:
                header = probe(file)
        except UnreadableImage as error:
            bad.append((row, str(error)))
            lasting &= not _may_pass(error.__cause__)
            continue
        formats[header.format] += 1
        modes[header.mode] += 1
        sides.append((header.width, header.height))
    return _Part(bad, formats, modes, np.array(sides, np.int64).reshape(-1, 2), lasting)


def _may_pass(cause: BaseException | None) -> bool:
    """Whether the system failed rather than the image: permissions or a file server. Pillow's errors have no number."""
    return isinstance(cause, OSError) and cause.errno not in (None, ENOENT)


def usable_cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
