"""VOC folders: ``JPEGImages``, ``Annotations/*.xml``, ``ImageSets/Main``, ``SegmentationClass``; one or several years.

A *part* is a year's folder and the name of one of its lists, such as ``(VOC2007, "trainval")``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from regionssl.errors import InputError
from regionssl.labels.checks import listed_files, read_headers
from regionssl.labels.coco import object_set
from regionssl.labels.coco_json import Categories, Entry
from regionssl.labels.findings import Findings
from regionssl.labels.maps import Meaning, read_maps
from regionssl.labels.sets import ClassSet, MapSet, ObjectSet
from regionssl.labels.voc_xml import Annotation, read_annotation

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
Part = tuple[Path, str]


def listed_names(part: Part, kind: str = "Main") -> list[str]:
    """The names in ``ImageSets/<kind>/<list>.txt``, each once.

    Raises:
        InputError: the list is missing or empty.
    """
    file = part[0] / "ImageSets" / kind / f"{part[1]}.txt"
    try:
        names = [line.split()[0] for line in file.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file}: {error}") from error
    if not names:
        raise InputError(f"{file} lists no images")
    return list(dict.fromkeys(names))


def _base(parts: Sequence[Part]) -> Path:
    return Path(os.path.commonpath([os.path.abspath(folder) for folder, _ in parts]))


def _image(base: Path, folder: Path, name: str) -> str:
    return os.path.relpath(os.path.abspath(folder / "JPEGImages" / f"{name}.jpg"), base)


def _annotations(parts: Sequence[Part]) -> dict[str, Annotation]:
    """Annotations by the image's name below the common folder of the parts."""
    base = _base(parts)
    return {
        _image(base, part[0], name): read_annotation(part[0] / "Annotations" / f"{name}.xml")
        for part in parts
        for name in listed_names(part)
    }


def _classes(annotations: dict[str, Annotation]) -> tuple[str, ...]:
    """VOC's twenty if there are no others, else those that occur."""
    met = {one.name for annotation in annotations.values() for one in annotation.objects}
    return VOC_CLASSES if met <= {*VOC_CLASSES} else tuple(sorted(met))


def read_voc_objects(*parts: Part) -> ObjectSet:
    """The boxes of all parts; difficult objects become crowds, which neither train nor count.

    VOC's corners count pixels from 1 and are inside the box, so ``x0 = xmin - 1`` and ``x1 = xmax``.

    Raises:
        InputError: a list or annotation is missing or broken, or more than 5 % of the images cannot be used.
    """
    annotations = _annotations(parts)
    classes = _classes(annotations)
    entries = []
    for name in sorted(annotations):
        rows = [
            {
                "id": k,
                "bbox": one.box,
                "category_id": classes.index(one.name),
                "iscrowd": one.difficult,
                "area": one.area,
            }
            for k, one in enumerate(annotations[name].objects, 1)
        ]
        entries.append(Entry(name, annotations[name].size, annotations=rows))
    categories = Categories(tuple(range(len(classes))), classes, (), ())
    return replace(object_set(parts[0][0], _base(parts), entries, categories, Findings()), category_ids=())


def read_voc_maps(*parts: Part, folder: str = "SegmentationClass") -> MapSet:
    """Class maps of all parts: background and twenty classes; 255, the borders of objects, is ignored.

    Args:
        folder: where the PNGs lie below each year; ``SegmentationClassAug`` with the list ``trainaug``.

    Raises:
        InputError: as :func:`regionssl.labels.maps.read_maps`, or a list is missing.
    """
    base = _base(parts)
    pairs = [
        (_image(base, part[0], name), os.path.relpath(os.path.abspath(part[0] / folder / f"{name}.png"), base))
        for part in parts
        for name in listed_names(part, "Segmentation")
    ]
    return read_maps(pairs, base, base, Meaning(tuple(range(21)), ("background", *VOC_CLASSES)), parts[0][0])


def read_voc_classes(*parts: Part) -> ClassSet:
    """Classes of the images of all parts: VOC's 1 is present, -1 absent (0), and 0, difficult, unsure (-1).

    From ``ImageSets/Main/<class>_<list>.txt``; without these files from the annotations, where a class whose objects
    are all difficult is unsure (ORL, section 6.3).

    Raises:
        InputError: a list or annotation is missing or broken, or more than 5 % of the images cannot be used.
    """
    base, findings = _base(parts), Findings()
    if all((folder / "ImageSets" / "Main" / f"{VOC_CLASSES[0]}_{split}.txt").is_file() for folder, split in parts):
        classes: tuple[str, ...] = VOC_CLASSES
        rows = {name: row for part in parts for name, row in _listed_truth(base, part).items()}
    else:
        annotations = _annotations(parts)
        classes = _classes(annotations)
        rows = {name: _truth_of(annotation, classes) for name, annotation in annotations.items()}
    names = sorted(rows)
    images = listed_files(str(base), names, parts[0][0])
    bad = read_headers(images).bad
    findings.drop_images(parts[0][0], [(names[i], bad[i]) for i in sorted(bad)], len(names))
    kept = [i for i in range(len(names)) if i not in bad]
    truth = np.array([rows[names[i]] for i in kept], np.int8)
    return ClassSet(images.subset(kept), truth, classes, findings.sentences())


def _listed_truth(base: Path, part: Part) -> dict[str, np.ndarray]:
    meaning = {"1": 1, "-1": 0, "0": -1}
    rows = {name: np.zeros(len(VOC_CLASSES), np.int8) for name in listed_names(part)}
    for c, name in enumerate(VOC_CLASSES):
        file = part[0] / "ImageSets" / "Main" / f"{name}_{part[1]}.txt"
        try:
            for line in file.read_text().splitlines():
                if line.strip():
                    image, flag = line.split()
                    rows[image][c] = meaning[flag]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{file} should give each image of {part[1]}.txt and 1, 0 or -1 in a line: {error!r}"
            ) from error
    return {_image(base, part[0], name): row for name, row in rows.items()}


def _truth_of(annotation: Annotation, classes: Sequence[str]) -> np.ndarray:
    row = np.zeros(len(classes), np.int8)
    for one in annotation.objects:
        c = classes.index(one.name)
        row[c] = 1 if not one.difficult or row[c] == 1 else -1
    return row


def voc_years(path: Path) -> list[Path]:
    """The folders of years in what the user gave: itself, those in it, or those in its ``VOCdevkit``."""
    for place in ([path], _folders(path), _folders(path / "VOCdevkit")):
        years = [folder for folder in place if (folder / "JPEGImages").is_dir() and (folder / "ImageSets").is_dir()]
        if years:
            return years
    return []


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []


def voc_parts(years: Sequence[Path], kind: str) -> tuple[list[Part], list[Part]]:
    """Parts to train on and to score on, of the lists in ``ImageSets/<kind>``.

    With a ``test`` list whose labels are there: ``trainval`` of all years, and ``test``. Else ``train`` and ``val``.
    The latter are empty if there is but one list.

    Raises:
        InputError: no list of images to train on.
    """
    tests = [(year, "test") for year in years if _has_list(year, kind, "test") and _is_labelled((year, "test"), kind)]
    trainvals = [(year, "trainval") for year in years if _has_list(year, kind, "trainval")]
    if tests and trainvals:
        return trainvals, tests
    trains, vals = ([(year, name) for year in years if _has_list(year, kind, name)] for name in ("train", "val"))
    if not (trains or trainvals):
        raise InputError(f"{years[0]} has no list train.txt or trainval.txt in ImageSets/{kind}")
    return trains or trainvals, (vals if trains else []) or tests


def _has_list(year: Path, kind: str, name: str) -> bool:
    return (year / "ImageSets" / kind / f"{name}.txt").is_file()


def _is_labelled(part: Part, kind: str) -> bool:
    """Whether the first image's labels are there; VOC2012 publishes its test list without."""
    first = listed_names(part, kind)[0]
    labels: dict[str, Any] = {"Main": f"Annotations/{first}.xml", "Segmentation": f"SegmentationClass/{first}.png"}
    return (part[0] / labels[kind]).is_file()
