"""From what the user gives as DATA to a list of images (:func:`find_images`) known to be usable (:func:`scan`)."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np

from regionssl.data.archives import Kind, Members, archive_kind, read_index
from regionssl.data.cache import default_cache
from regionssl.data.image_list import ImageList
from regionssl.data.packs import is_pack, open_pack
from regionssl.data.scan import scan
from regionssl.data.scan_report import ScanReport
from regionssl.data.sources import EXTENSIONS, is_hidden, is_image, list_folder, read_coco, read_list
from regionssl.data.store import Files, Names
from regionssl.errors import InputError

__all__ = ["ImageList", "ScanReport", "default_cache", "find_images", "scan"]


def find_images(data: Path, image_root: Path | None = None) -> ImageList:
    """List the images of a folder, a pack, a text list of paths, a COCO json, a zip or an uncompressed tar; opens none.

    Args:
        image_root: the folder that the paths of a list or the file names of a COCO json are relative to.

    Raises:
        InputError: nothing there, not readable, broken, of another kind, or without images.
    """
    if image_root is not None and not image_root.is_dir():
        raise InputError(f"--image-root {image_root} is not a folder")
    try:
        return _find(data, image_root)
    except OSError as error:
        raise InputError(f"cannot read {error.filename or data}: {error.strerror or error}") from error


def _find(data: Path, image_root: Path | None) -> ImageList:
    kind = _kind(data)
    if kind == "coco":
        base, names = read_coco(data, image_root)
        return ImageList(str(data), Files(os.path.abspath(base), Names(names)))
    if kind == "list":
        base = image_root or data.parent
        return ImageList(str(data), Files(os.path.abspath(base), Names(read_list(data, base))))
    if image_root is not None:
        raise InputError(f"--image-root goes with a COCO json or a text list, and {data} is a {kind}; leave it out")
    if kind == "pack":
        return ImageList(str(data), open_pack(data))
    if kind == "folder":
        names, others = list_folder(data)
        _check_some(data, names, others)
        return ImageList(str(data), Files(os.path.abspath(data), Names(names)), others.total())
    return _find_in_archive(data, kind)


def _kind(data: Path) -> Literal["folder", "pack", "list", "coco"] | Kind:
    if data.is_dir():
        return "pack" if is_pack(data) else "folder"
    if data.is_file():
        return archive_kind(data) or ("coco" if data.suffix.lower() == ".json" else "list")
    raise InputError(f"there is no folder or file {data}; give a folder, pack, text list, COCO json, zip or tar")


def _find_in_archive(data: Path, kind: Kind) -> ImageList:
    """The images of an archive; of several members with one name the last counts, as it does when unpacking."""
    names, index = read_index(data, kind)
    rows: dict[str, int] = {}
    others: Counter[str] = Counter()
    for row, name in enumerate(names):
        if is_hidden(name):
            continue
        if is_image(name):
            rows[posixpath.normpath(name)] = row
        else:
            others[posixpath.splitext(name)[1].lower()] += 1
    ordered = sorted(rows)
    _check_some(data, ordered, others)
    chosen = index[np.array([rows[name] for name in ordered])]
    return ImageList(str(data), Members(os.path.abspath(data), Names(ordered), chosen), others.total())


def _check_some(data: Path, names: list[str], others: Counter[str]) -> None:
    if names:
        return
    most = ", ".join(f"{count} {extension or 'without extension'}" for extension, count in others.most_common(5))
    seen = f"{others.total()} other files ({most})" if others else "no files at all"
    raise InputError(f"no images in {data}: looked for {' '.join(EXTENSIONS)} at any depth, found {seen}")
