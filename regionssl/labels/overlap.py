"""Images that are in the training and in the validation split: taken out of the former."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np

from regionssl.data.contents import UNREADABLE, content_digests
from regionssl.data.image_list import ImageList
from regionssl.data.scan_report import printable
from regionssl.errors import InputError
from regionssl.labels.sets import ClassSet, MapSet, ObjectSet

S = TypeVar("S", ObjectSet, MapSet, ClassSet)


def shared_images(train: ImageList, val: ImageList) -> np.ndarray:
    """Positions in ``train`` of the files whose content is that of a file in ``val``; only equal sizes are read."""
    sizes = np.intersect1d(train.stat[0], val.stat[0])
    rows, others = (np.flatnonzero(np.isin(images.stat[0], sizes)) for images in (train, val))
    scored = set(content_digests(val.subset(others.tolist()))) - {UNREADABLE}
    digests = content_digests(train.subset(rows.tolist()))
    return rows[[digest in scored for digest in digests]] if len(rows) else rows


def without_shared(train: S, val: S) -> S:
    """``train`` without the images that ``val`` has too, which a finding counts.

    Raises:
        InputError: no image is left.
    """
    shared = shared_images(train.images, val.images)
    if not len(shared):
        return train
    if len(shared) == len(train):
        raise InputError(
            f"all {len(train)} training images of {train.images.root} are validation images too; give another "
            "validation split, or none and one is made"
        )
    first = printable(train.images.names[int(shared[0])])
    note = f"images of equal content in both splits, taken out of training: {len(shared):,}, such as {first}"
    kept = np.setdiff1d(np.arange(len(train)), shared)
    return replace(train.subset(kept.tolist()), findings=(*train.findings, note))
