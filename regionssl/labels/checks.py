"""Whether the files that labels name can be used, and how large their upright images are; headers only."""

from __future__ import annotations

import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from regionssl.data.cache import default_cache, keep
from regionssl.data.contents import stamp
from regionssl.data.decode import UnreadableImage, probe
from regionssl.data.image_list import ImageList
from regionssl.data.store import Files, Names

_ORIENTATION = 274
_SIDEWAYS = (5, 6, 7, 8)
_CHUNK = 256


def listed_files(folder: str, names: list[str], root: object) -> ImageList:
    """Images by names, in this order, relative to ``folder``; ``root`` is what the user gave."""
    return ImageList(str(root), Files(os.path.abspath(folder), Names(names)))


@dataclass(frozen=True)
class Headers:
    """What the headers of images say.

    Attributes:
        sizes: (N, 2) int64, width and height of the upright images, pixels; 0 where unusable.
        sideways: (N,) bool, turned by a quarter by their EXIF orientation.
        bad: positions that cannot be used, and why.
    """

    sizes: np.ndarray
    sideways: np.ndarray
    bad: dict[int, str]


def read_headers(images: ImageList) -> Headers:
    """The headers of all images; recalled from the cache while names, sizes and times of change are the same."""
    digest = hashlib.sha256(f"{os.path.abspath(images.root)} {images.fingerprint} {stamp(images)}".encode())
    path = default_cache() / f"headers-{digest.hexdigest()[:32]}.npz"
    rows = _recall(path, len(images))
    bad: dict[int, str] = {}
    if rows is None:
        starts = range(0, len(images), _CHUNK)
        with ThreadPoolExecutor(8) as pool:
            parts = list(pool.map(lambda start: _read_stretch(images, start), starts))
        rows = np.array([row for part, _ in parts for row in part], np.int64).reshape(-1, 3)
        for _, reasons in parts:
            bad |= reasons
        if not bad:
            written = io.BytesIO()
            np.savez_compressed(written, rows=rows)
            keep(path, written.getvalue())
    return Headers(rows[:, :2], rows[:, 2] == 1, bad)


def _recall(path: os.PathLike[str], count: int) -> np.ndarray | None:
    try:
        with np.load(path, allow_pickle=False) as kept:
            rows = np.asarray(kept["rows"], np.int64)
        return rows if rows.shape == (count, 3) else None
    except (OSError, ValueError, KeyError, EOFError):
        return None


def _read_stretch(images: ImageList, start: int) -> tuple[list[tuple[int, int, int]], dict[int, str]]:
    rows, bad = [], {}
    for i in range(start, min(start + _CHUNK, len(images))):
        try:
            rows.append(_upright_size(images, i))
        except UnreadableImage as error:
            rows.append((0, 0, 0))
            bad[i] = str(error)
    return rows, bad


def _upright_size(images: ImageList, i: int) -> tuple[int, int, int]:
    """Width and height of the upright image, and whether it was turned by a quarter."""
    with images.open(i) as file:
        header = probe(file)
        file.seek(0)
        try:
            with Image.open(file) as picture:
                # PNG's own method would decode the pixels, to find EXIF data behind them
                sideways = Image.Image.getexif(picture).get(_ORIENTATION) in _SIDEWAYS
        except Exception:  # broken EXIF data count as none
            sideways = False
    width, height = (header.height, header.width) if sideways else (header.width, header.height)
    return width, height, int(sideways)
