"""Pairs of images and class-id maps, checked, as a :class:`MapSet`; and what the values of a map stand for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regionssl.data.image_list import ImageList
from regionssl.errors import InputError
from regionssl.labels.checks import listed_files, read_headers
from regionssl.labels.findings import Findings
from regionssl.labels.sets import MapSet

IGNORED, UNKNOWN = -1, -2
_VALUES = 256
_LOOKED_AT = 50


@dataclass(frozen=True)
class Meaning:
    """What the stored values of label maps stand for.

    Attributes:
        ids: of each class, the value.
        names: of each class.
        ignored: values that are not labelled.
        notes: sentences for the findings.
        grey: as :attr:`MapSet.grey`; ids are those of none and all.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    ignored: tuple[int, ...] = (255,)
    notes: tuple[str, ...] = ()
    grey: bool = False

    def table(self) -> np.ndarray:
        """(256,) int64, as :attr:`MapSet.values`."""
        if self.grey:
            return (np.arange(_VALUES) >= _VALUES // 2).astype(np.int64)
        values = np.full(_VALUES, UNKNOWN, np.int64)
        values[list(self.ids)] = np.arange(len(self.ids))
        values[list(self.ignored)] = IGNORED
        return values


def read_classes(file: Path) -> Meaning:
    """A ``classes.json``: ``{"ignore_index": 255, "classes": [{"id": 0, "name": "sky"}, ...]}``.

    ``classes`` may also be a list of names (ids count from 0) or a mapping of ids to names; the outer mapping may be
    left out. ``ignore_index`` may be a list; 255 is ignored too unless a class has it.

    Raises:
        InputError: another content, ids outside 0..255 or that occur twice, or no classes.
    """
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {file}: {error}") from error
    outer = content if isinstance(content, dict) and "classes" in content else {"classes": content}
    try:
        pairs = _pairs(outer["classes"])
        given = outer.get("ignore_index", [])
        ignored = {int(value) for value in (given if isinstance(given, list) else [given]) if value is not None}
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f'{file} should hold {{"ignore_index": 255, "classes": [{{"id": 0, "name": "sky"}}, ...]}}: {error!r}'
        ) from error
    kept = sorted((number, name) for number, name in pairs if number not in ignored)
    ids, names = tuple(number for number, _ in kept), tuple(name for _, name in kept)
    if not kept or len(set(ids)) < len(ids) or ids[0] < 0 or ids[-1] >= _VALUES:
        raise InputError(f"{file} should name classes with ids from 0 to 255, each once; found the ids {[*ids][:20]}")
    if len(set(names)) < len(names):
        raise InputError(f"{file} gives two classes the same name; name them apart")
    usual = {255} - set(ids)
    gaps = (f"class ids have gaps ({len(ids)} from {ids[0]} to {ids[-1]}); classes count in their order",)
    return Meaning(
        ids,
        names,
        tuple(sorted({value for value in ignored if 0 <= value < _VALUES} | usual)),
        gaps if ids != tuple(range(len(ids))) else (),
    )


def _pairs(classes: Any) -> list[tuple[int, str]]:
    if isinstance(classes, Mapping):
        return [(int(number), str(name)) for number, name in classes.items()]
    if all(isinstance(one, str) for one in classes):
        return list(enumerate(classes))
    return [(int(one["id"]), str(one["name"])) for one in classes]


def values_found(maps: ImageList) -> Meaning:
    """Classes named by the values that occur, 255 ignored; for maps without a ``classes.json``. Reads all maps."""
    everything = Meaning(tuple(range(255)), tuple(map(str, range(255))))
    counts = MapSet(maps, maps, everything.names, everything.table()).class_counts()
    ids = tuple(np.flatnonzero(counts.sum(0)).tolist())
    note = f"there is no classes.json: the {len(ids)} values that occur are the classes, named by their numbers"
    return Meaning(ids, tuple(map(str, ids)), (255,), (f"{note}; 255 is ignored",))


def read_maps(
    pairs: Sequence[tuple[str, str]], images_folder: Path, maps_folder: Path, meaning: Meaning, root: Path
) -> MapSet:
    """A set of images and maps.

    Args:
        pairs: names of image and map below their folders.
        meaning: of the values.
        root: for messages.

    Raises:
        InputError: no pairs; more than 5 % unusable (missing, unreadable, a map of another size than its upright
            image); or fewer than two classes are labelled.
    """
    findings = Findings()
    if not pairs:
        raise InputError(f"{root}: no image below {images_folder} has a label map of the same name below {maps_folder}")
    pairs = sorted(pairs)
    images = listed_files(str(images_folder), [image for image, _ in pairs], root)
    maps = listed_files(str(maps_folder), [name for _, name in pairs], root)
    bad = _unusable(images, maps)
    findings.drop_images(root, [(pairs[i][1], bad[i]) for i in sorted(bad)], len(pairs))
    rows = [i for i in range(len(pairs)) if i not in bad]
    images, maps = images.subset(rows), maps.subset(rows)
    notes = (*meaning.notes, *findings.sentences())
    found = MapSet(images, maps, meaning.names, meaning.table(), notes, meaning.grey)
    _check_values(found, root)
    return found


def _unusable(images: ImageList, maps: ImageList) -> dict[int, str]:
    pictures, labels = read_headers(images), read_headers(maps)
    bad = {}
    for i in range(len(images)):
        if i in pictures.bad:
            bad[i] = f"has an image that {pictures.bad[i]}"
        elif i in labels.bad:
            bad[i] = labels.bad[i]
        elif (labels.sizes[i] != pictures.sizes[i]).any():
            (width, height), (w, h) = labels.sizes[i].tolist(), pictures.sizes[i].tolist()
            turned = " after it is turned by its EXIF orientation" if pictures.sideways[i] else ""
            bad[i] = f"is {width} x {height} pixels, and its image {w} x {h}{turned}"
    return bad


def _check_values(found: MapSet, root: Path) -> None:
    """Look at some maps spread over the set, and at all if these have fewer than two classes."""
    spread = np.unique(np.linspace(0, len(found) - 1, _LOOKED_AT).astype(int))
    counts = found.subset(spread.tolist()).class_counts().sum(0)
    if np.count_nonzero(counts) < 2:
        counts = found.class_counts().sum(0)
    if np.count_nonzero(counts) < 2:
        only = f"only {found.classes[int(counts.argmax())]!r} is" if counts.any() else "nothing is"
        why = f" ({'; '.join(found.findings)})" if found.findings else ""
        raise InputError(f"{only} labelled in the maps of {root}{why}; give maps of at least two classes")
