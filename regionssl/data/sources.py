"""What the user's DATA names: the images of a folder, of a text list or of a COCO json, without opening any of them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from regionssl.errors import InputError

EXTENSIONS = (".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_SPLITS = tuple(f"{split}{year}" for year in (2017, 2014) for split in ("train", "val", "test", "unlabeled"))
_SHOWN = 3


def is_image(name: str) -> bool:
    """Whether the name, in any case, ends as an image's."""
    return name.lower().endswith(EXTENSIONS)


def is_hidden(name: str) -> bool:
    """Whether any part of a path with ``/`` begins with a dot, or is what macOS adds to zips."""
    return any(part == "__MACOSX" or (part.startswith(".") and part not in (".", "..")) for part in name.split("/"))


def list_folder(folder: Path) -> tuple[list[str], Counter[str]]:
    """Sorted names of the images at any depth below a folder, with ``/``, and a count of other files by extension.

    Links are followed; each folder is entered once, by its own path rather than a link's where it has both. A broken
    link named as an image counts as one, for the scan to report.

    Raises:
        OSError: a folder that cannot be read.
    """
    names: list[str] = []
    others: Counter[str] = Counter()
    entered: set[tuple[int, int]] = set()
    linked = [""]
    while linked:
        pending, links = sorted(linked, reverse=True), list[str]()
        while pending:
            inner = pending.pop()
            if not _enter(folder / inner, entered):
                continue
            for entry in _entries(folder / inner):
                name = f"{inner}/{entry.name}" if inner else entry.name
                if _is_folder(entry):
                    (links if entry.is_symlink() else pending).append(name)
                elif is_image(name) and (entry.is_symlink() or entry.is_file()):
                    names.append(name)
                else:
                    others[os.path.splitext(name)[1].lower()] += 1
        linked = links
    return sorted(names), others


def _enter(folder: Path, entered: set[tuple[int, int]]) -> bool:
    """Whether the folder is new; links may lead to it again, or round in a circle."""
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    new = identity not in entered
    entered.add(identity)
    return new


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not is_hidden(entry.name))


def read_list(file: Path, base: Path) -> list[str]:
    """Sorted, unique paths of a text list: one a line, relative to ``base`` or absolute; ``#`` begins a comment line.

    Raises:
        InputError: not a text file, no paths in it, or none of them exists.
        OSError: the list cannot be read.
    """
    try:
        lines = [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        lines = ["\0"]
    if any("\0" in line for line in lines):
        hint = "it looks like a single image: give its folder" if is_image(file.name) else "a file of another kind came"
        raise InputError(f"{file} should be a text list of image paths, a COCO json, a zip or a tar; {hint}")
    names = _tidy((line for line in lines if line and not line.startswith("#")), base)
    if not names:
        raise InputError(f"{file} lists no images; expected one path a line, relative to {base} or absolute")
    if not any(os.path.exists(base / name) for name in names):
        raise InputError(
            f"none of the {len(names)} files listed in {file} exists, such as {_some(names)}; paths are taken relative "
            f"to {base} (change that with --image-root), one a line and nothing else on it"
        )
    return names


def read_coco(file: Path, root: Path | None) -> tuple[Path, list[str]]:
    """The image folder of a COCO json and the sorted, unique file names in it.

    Args:
        root: the image folder; None looks for it next to the json.

    Raises:
        InputError: not a COCO json, or its images are not in the folder or in any of those tried.
        OSError: the json cannot be read.
    """
    names = _coco_names(file)
    best, tried = coco_folder(file, names, root)
    if best is not None:
        return best, _tidy(names, best)
    folders = "\n  ".join(map(str, tried))
    raise InputError(
        f"the images of {file} were not found, such as {_some(names)}; give their folder with --image-root. "
        f"Looked in:\n  {folders}"
    )


def coco_folder(file: Path, names: list[str], root: Path | None) -> tuple[Path | None, list[Path]]:
    """The folder below which most images of a COCO json lie, None if none is found, and the folders looked at."""
    tried = [root] if root else _coco_roots(file)
    sample = [names[i] for i in sorted({*np.linspace(0, len(names) - 1, 20).astype(int).tolist()})]
    found = [sum(os.path.isfile(folder / name) for name in sample) for folder in tried]
    best = tried[found.index(max(found))]
    there = max(found) or any(os.path.isfile(best / name) for name in names)
    return (best if there else None), tried


def _coco_names(file: Path) -> list[str]:
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not a json file: {error}") from error
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        raise InputError(f'{file} is not a COCO json: expected {{"images": [{{"file_name": ...}}, ...]}}')
    names = [image.get("file_name") if isinstance(image, dict) else None for image in images]
    valid = [name for name in names if isinstance(name, str) and name and "\0" not in name]
    if len(valid) < len(names):
        raise InputError(f"{len(names) - len(valid)} of the {len(names)} images in {file} have no file_name")
    return valid


def _coco_roots(file: Path) -> list[Path]:
    """Where the images of a COCO json usually are: beside it or one folder up, perhaps in ``images`` or a split."""
    here = file.absolute().parent
    splits = dict.fromkeys([file.stem, *reversed(file.stem.split("_")), *_SPLITS])
    tried = []
    for base in (here, here / "images", here.parent, here.parent / "images"):
        tried += [base, *(base / split for split in splits)]
    return [folder for folder in dict.fromkeys(tried) if folder.is_dir()]


def _tidy(paths: Iterable[str], base: Path) -> list[str]:
    """Sorted, unique, normalised paths, relative to ``base`` where they lie below it."""
    prefix = os.path.join(os.path.abspath(base), "")
    return sorted({os.path.normpath(path).removeprefix(prefix) for path in paths})


def _some(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names[:_SHOWN])
