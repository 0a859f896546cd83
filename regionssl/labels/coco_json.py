"""The tables of a COCO json, checked: its images by file name, its categories, and the annotations of each image."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regionssl.errors import InputError
from regionssl.labels.findings import Findings

_SIDES = (("left", "right"), ("l", "r"))


@dataclass
class Entry:
    """One image of the json.

    Attributes:
        name: normalised file name.
        size: width and height that the json gives, or None.
        joined: whether the file name occurs more than once.
    """

    name: str
    size: tuple[int, int] | None
    joined: bool = False
    annotations: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Categories:
    """The classes in the order of their ids.

    Attributes:
        keypoints: names of the keypoints of the one category that has some, or none.
        skeleton: pairs of positions in ``keypoints`` that a line joins.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    keypoints: tuple[str, ...]
    skeleton: tuple[tuple[int, int], ...]


def read_tables(file: Path, findings: Findings) -> tuple[Categories, list[Entry]]:
    """Categories and images with their annotations; images in the order of their names.

    Raises:
        InputError: not a COCO json of objects, ids that contradict each other, or no annotation that belongs to an
            image and a category.
    """
    content = _content(file)
    categories = _categories(file, content["categories"], findings)
    images = _images(file, content["images"], findings)
    _assign(file, content["annotations"], images, set(categories.ids), findings)
    entries = {entry.name: entry for entry in images.values()}
    return categories, [entries[name] for name in sorted(entries)]


def _content(file: Path) -> dict[str, list[Any]]:
    expected = 'expected {"images": [...], "annotations": [...], "categories": [...]}'
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not a json file, or is cut short: {error}") from error
    except MemoryError as error:
        raise InputError(f"{file} does not fit into memory; split it, or take a larger machine") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} is not a COCO json: {expected}, found {type(content).__name__}")
    for table in ("images", "annotations", "categories"):
        rows = content.get(table)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError(f"{file} is not a COCO json of objects: {expected}, and {table!r} is not a list of these")
    if not content["images"] or not content["categories"]:
        raise InputError(f"{file} lists no {'images' if content['categories'] else 'categories'}: {expected}")
    return content


def _categories(file: Path, rows: list[dict[str, Any]], findings: Findings) -> Categories:
    known: dict[int, dict[str, Any]] = {}
    for row in rows:
        number, name = row.get("id"), row.get("name")
        if type(number) is not int or not isinstance(name, str) or not name:
            raise InputError(f"{file}: a category needs a whole number as id and a name, and one is {row!r:.200}")
        if number in known and known[number]["name"] != name:
            raise InputError(f"{file}: category {number} is both {known[number]['name']!r} and {name!r}")
        known.setdefault(number, row)
    ids = sorted(known)
    names = [str(known[number]["name"]) for number in ids]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        findings.count("category names that occur with several ids, and got the id added", min(twice), len(twice))
        names = [f"{name} ({number})" if name in twice else name for name, number in zip(names, ids, strict=True)]
    if ids[-1] - ids[0] >= len(ids):
        findings.say(f"category ids have gaps ({len(ids)} from {ids[0]} to {ids[-1]}); classes count in their order")
    return Categories(tuple(ids), tuple(names), *_keypoints(file, [known[number] for number in ids]))


def _keypoints(file: Path, rows: list[dict[str, Any]]) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    kinds = {tuple(map(str, row["keypoints"])): row.get("skeleton") for row in rows if row.get("keypoints")}
    if len(kinds) > 1:
        raise InputError(f"{file} has categories with different keypoints; keep those of one of them")
    if not kinds:
        return (), ()
    ((names, pairs),) = kinds.items()
    try:
        skeleton = tuple((int(a) - 1, int(b) - 1) for a, b in pairs or ())
    except (TypeError, ValueError):
        skeleton = ()
    return names, tuple(pair for pair in skeleton if all(0 <= end < len(names) for end in pair))


def flip_pairs(names: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Positions of names that differ by left and right (or l and r) in one of their parts, and so swap in a mirror."""
    split = [tuple(name.lower().replace("-", "_").replace(" ", "_").split("_")) for name in names]
    position = {parts: i for i, parts in enumerate(split)}
    pairs = []
    for i, parts in enumerate(split):
        for left, right in _SIDES:
            other = tuple(right if part == left else part for part in parts)
            if other != parts and other in position:
                pairs.append((i, position[other]))
                break
    return tuple(pairs)


def _images(file: Path, rows: list[dict[str, Any]], findings: Findings) -> dict[int | str, Entry]:
    by_id: dict[int | str, Entry] = {}
    by_name: dict[str, Entry] = {}
    for row in rows:
        number, name = row.get("id"), row.get("file_name")
        if not isinstance(number, int | str) or not isinstance(name, str) or not name or "\0" in name:
            raise InputError(f"{file}: an image needs an id and a file_name, and one is {row!r:.200}")
        name = os.path.normpath(name)
        if number in by_id:
            if by_id[number].name != name:
                raise InputError(f"{file}: image id {number!r} is both {by_id[number].name} and {name}")
            findings.count("images listed again with the same id, once counted", name)
            continue
        if name in by_name:
            findings.count("images listed again with another id; objects joined, equal ones once", name)
            by_name[name].joined = True
        by_id[number] = by_name.setdefault(name, Entry(name, _size(row, findings)))
    return by_id


def _size(row: dict[str, Any], findings: Findings) -> tuple[int, int] | None:
    width, height = row.get("width"), row.get("height")
    if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
        return width, height
    findings.count("images without a valid width and height in the json; the file's own taken", row["file_name"])
    return None


def _assign(
    file: Path, rows: list[dict[str, Any]], images: dict[int | str, Entry], classes: set[int], findings: Findings
) -> None:
    """Hand the annotations to their images."""
    seen: defaultdict[Any, int] = defaultdict(int)
    dropped = 0
    for row in rows:
        image, category, number = (_key(row.get(key)) for key in ("image_id", "category_id", "id"))
        seen[number] += number is not None
        if seen[number] == 2:
            findings.count("annotation ids that occur more than once; the objects kept", number)
        if image not in images:
            findings.count("annotations of unknown images, dropped", f"image_id {image!r}")
        elif category not in classes:
            findings.count("annotations of unknown categories, dropped", f"category_id {category!r}")
        else:
            images[image].annotations.append(row)
            continue
        dropped += 1
    if rows and dropped == len(rows):
        raise InputError(
            f"{file}: none of the {len(rows)} annotations belongs to a listed image and category, such as image_id "
            f"{rows[0].get('image_id')!r} and category_id {rows[0].get('category_id')!r}; do the ids have another type?"
        )


def _key(value: Any) -> Any:
    return value if isinstance(value, int | str) else None
