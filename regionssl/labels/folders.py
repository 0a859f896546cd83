"""Classes from folders: ``train/<class>/*.jpg`` and ``val/<class>/*.jpg``, or only ``<class>/*.jpg``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from regionssl.data.sources import list_folder
from regionssl.errors import InputError, UnknownLayout
from regionssl.labels.checks import listed_files, read_headers
from regionssl.labels.findings import Findings
from regionssl.labels.sets import ClassSet


def class_folders(folder: Path) -> list[str]:
    """Sorted names of the folders in a folder that do not begin with a dot."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def read_class_folders(folder: Path, classes: Sequence[str] | None = None) -> ClassSet:
    """One class for each folder in ``folder``; images at any depth below.

    Args:
        classes: names to number the classes by (those of the training split); None takes those found.

    Raises:
        InputError: no folders with images, a class that is not in ``classes``, or more than 5 % unusable images.
    """
    findings = Findings()
    found = list_folder(folder)[0]
    names = [name for name in found if "/" in name]
    if len(names) < len(found):
        outside = next(name for name in found if "/" not in name)
        findings.count("images that lie in no class's folder, left out", outside, len(found) - len(names))
    if not names:
        raise UnknownLayout(f"{folder} has no folders with images; expected {folder}/<class>/<image>, a folder a class")
    owners = [name.partition("/")[0] for name in names]
    for empty in sorted({*class_folders(folder)} - {*owners}):
        findings.count("class folders without images, left out", empty)
    order = tuple(sorted(set(owners))) if classes is None else tuple(classes)
    strange = sorted({*owners} - {*order})
    if strange:
        raise InputError(
            f"{folder} has the class {strange[0]!r}, which the training images do not have; add or move it"
        )
    images = listed_files(str(folder), names, folder)
    bad = read_headers(images).bad
    findings.drop_images(folder, [(names[i], bad[i]) for i in sorted(bad)], len(names))
    rows = [i for i in range(len(names)) if i not in bad]
    truth = np.zeros((len(rows), len(order)), np.int8)
    truth[np.arange(len(rows)), [order.index(owners[i]) for i in rows]] = 1
    return ClassSet(images.subset(rows), truth, order, findings.sentences())
