"""Labels of any known layout: found out, read, checked and split (:func:`open_labels`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import numpy as np

from regionssl.errors import InputError, UnknownLayout
from regionssl.labels.coco import read_coco_objects
from regionssl.labels.coco_folder import find_jsons, val_beside
from regionssl.labels.folders import class_folders, read_class_folders
from regionssl.labels.map_layouts import (
    VAL_NAMES,
    Maps,
    read_ade20k,
    read_cityscapes,
    read_coco_stuff,
    read_cub,
    read_plain,
    read_voc,
)
from regionssl.labels.overlap import without_shared
from regionssl.labels.sets import ClassSet, MapSet, ObjectSet, Split
from regionssl.labels.splits import train_val
from regionssl.labels.voc import read_voc_classes, read_voc_objects, voc_parts, voc_years

VAL_SHARE = 0.2
Task = Literal["objects", "maps", "classes"]
S = TypeVar("S", ObjectSet, MapSet, ClassSet)

_MAP_LAYOUTS: tuple[Callable[[Path], Maps | None], ...] = (
    read_voc,
    read_cityscapes,
    read_ade20k,
    read_coco_stuff,
    read_plain,
    read_cub,
)


@overload
def open_labels(
    path: Path, task: Literal["objects"], val_share: float | None = ..., seed: int = ...
) -> Split[ObjectSet]: ...
@overload
def open_labels(path: Path, task: Literal["maps"], val_share: float | None = ..., seed: int = ...) -> Split[MapSet]: ...
@overload
def open_labels(
    path: Path, task: Literal["classes"], val_share: float | None = ..., seed: int = ...
) -> Split[ClassSet]: ...
def open_labels(path: Path, task: Task, val_share: float | None = VAL_SHARE, seed: int = 0) -> Any:
    """Labels to train on and to score on, by the layouts and rules of docs/labels.md.

    Args:
        path: a folder, or a COCO json (one beside it that is called ``val`` instead of ``train`` is scored on).
        task: boxes and masks, class maps, or classes of images.
        val_share: share of the images to score on, where there is no validation split; None gives all of them, for
            tasks that train nothing.
        seed: of that split.

    Raises:
        UnknownLayout: no known layout.
        InputError: labels that cannot be used.
    """
    try:
        if not path.exists():
            raise InputError(f"there is no folder or file {path} with labels")
        if task == "objects":
            return _split(*_objects(path), val_share, seed)
        if path.is_file():
            raise UnknownLayout(f"{path} is a file; labels of {task} lie in a folder")
        if task == "maps":
            return _split(*_maps(path), val_share, seed)
        return _split(*_classes(path), val_share, seed)
    except OSError as error:
        raise InputError(f"cannot read {error.filename or path}: {error.strerror or error}") from error


def _objects(path: Path) -> tuple[ObjectSet, ObjectSet | None]:
    years = voc_years(path)
    if years:
        train_parts, val_parts = voc_parts(years, "Main")
        train, val = read_voc_objects(*train_parts), read_voc_objects(*val_parts) if val_parts else None
    else:
        file, other = (path, val_beside(path)) if path.is_file() else find_jsons(path)
        train, val = read_coco_objects(file), read_coco_objects(other) if other else None
    return (train, None) if val is None else _agreed(train, val)


def _agreed(train: ObjectSet, val: ObjectSet) -> tuple[ObjectSet, ObjectSet]:
    """Both with the classes of either, joined by name; in the order of the files' ids, or of the names without these.

    Raises:
        InputError: an id has two names, or a name two ids.
    """
    if (train.classes, train.category_ids) == (val.classes, val.category_ids):
        return train, val
    if train.category_ids and val.category_ids:
        pairs = sorted(
            {*zip(train.category_ids, train.classes, strict=True), *zip(val.category_ids, val.classes, strict=True)}
        )
        for numbers in zip(*pairs, strict=True):
            twice = [one for one in numbers if numbers.count(one) > 1]
            if twice:
                both = [pair for pair in pairs if twice[0] in pair]
                raise InputError(
                    f"training and validation labels disagree on a category's id and name: {both}; number alike"
                )
        ids, names = zip(*pairs, strict=True)
        return _renumbered(train, names, ids), _renumbered(val, names, ids)
    names = tuple(sorted({*train.classes, *val.classes}))
    return _renumbered(train, names, ()), _renumbered(val, names, ())


def _renumbered(labelled: ObjectSet, names: tuple[str, ...], ids: tuple[int, ...]) -> ObjectSet:
    place = np.array([names.index(name) for name in labelled.classes], np.int64)
    objects = tuple(replace(one, labels=place[one.labels]) for one in labelled.objects)
    return replace(labelled, objects=objects, classes=names, category_ids=ids)


def _maps(path: Path) -> Maps:
    for layout in _MAP_LAYOUTS:
        found = layout(path)
        if found is not None:
            return found
    raise UnknownLayout(
        f"no label maps in {path}; expected images/<split> and labels/<split> with classes.json, or the folders of VOC "
        "(SegmentationClass), Cityscapes (leftImg8bit, gtFine), ADE20K, COCO-Stuff or CUB (segmentations) "
        "(docs/labels.md)"
    )


def _classes(path: Path) -> tuple[ClassSet, ClassSet | None]:
    years = voc_years(path)
    if years:
        train_parts, val_parts = voc_parts(years, "Main")
        train, val = read_voc_classes(*train_parts), read_voc_classes(*val_parts) if val_parts else None
        if val is not None and train.classes != val.classes:
            raise InputError(f"training and validation images of {path} have other classes: name all in both")
    elif "train" in class_folders(path):
        train = read_class_folders(path / "train")
        name = next((name for name in VAL_NAMES if name in class_folders(path)), None)
        val = read_class_folders(path / name, train.classes) if name else None
    else:
        train, val = read_class_folders(path), None
    if len(train.classes) < 2:
        raise InputError(f"{path} has images of one class only, {train.classes[0]!r}; classification needs two or more")
    return train, val


def _split(train: S, val: S | None, share: float | None, seed: int) -> Split[S]:
    if val is not None:
        return Split(without_shared(train, val), val)
    if share is None:
        return Split(train, train)
    kept, scored = train_val(train, share, seed)
    note = (
        f"there is no validation split: {len(scored)} of the {len(train)} images were set apart for it, stratified by "
        f"class (seed {seed})"
    )
    noted = replace(train, findings=(*train.findings, note))
    parts = noted.subset(kept.tolist()), noted.subset(scored.tolist())
    return Split(without_shared(*parts), parts[1])
