"""Near-copies between the images of pre-training, fine-tuning and validation, found before anything is trained.

Two tests: a hash (:mod:`regionssl.data.hashes`), and the features of a pre-trained start
(:mod:`regionssl.proof.likeness`). A validation image that is near a training or an unlabelled image by either is left
out of validation. A training image that is near an unlabelled one is only listed: to pre-train on the images that one
fine-tunes on is fair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regionssl.data.hashes import SHARE, Pairs, near_by_hash
from regionssl.data.image_list import ImageList
from regionssl.errors import InputError
from regionssl.labels.sets import Split

TESTS = {"hash": "share of bits that differ", "features": "cosine"}
Listed = tuple[str, str, str, str, str, float]
"""First split and image, second split and image, test, measure."""


@dataclass(frozen=True)
class Leakage:
    """What was found.

    Attributes:
        rows: each near pair.
        excluded: positions of the validation images that are left out, ascending.
        looked_at: number of images by split.
        remarks: sentences on what was looked at, left out, and not checked.
    """

    rows: tuple[Listed, ...]
    excluded: tuple[int, ...]
    looked_at: Mapping[str, int]
    remarks: tuple[str, ...]


def find_leaks(
    images: Mapping[str, ImageList],
    pictures: Mapping[str, np.ndarray],
    features: Mapping[str, np.ndarray] | None,
    cosine: float,
) -> Leakage:
    """Compare the unlabelled images with the others, and training with validation images.

    Args:
        images: of each split; "train" and "val" come last.
        pictures: of each split from :func:`regionssl.data.hashes.small_pictures`.
        features: of each split from :func:`regionssl.proof.likeness.standardised_features`; None leaves the test out.
        cosine: from which on features are near.
    """
    rows: list[Listed] = []
    excluded: set[int] = set()
    splits = list(images)
    for i, first in enumerate(splits):
        for second in splits[i + 1 :]:
            if second not in ("train", "val"):
                continue
            found = {"hash": near_by_hash(pictures[first], pictures[second])}
            if features is not None:
                found["features"] = near_by_features(features[first], features[second], cosine)
            for test, pairs in found.items():
                rows += _listed(first, second, test, pairs, images)
                if second == "val":
                    excluded |= set(pairs.right.tolist())
    counts = {split: len(one) for split, one in images.items()}
    left_out = tuple(sorted(excluded))
    return Leakage(tuple(rows), left_out, counts, _remarks(counts, rows, left_out, features is not None, cosine))


def near_by_features(left: np.ndarray, right: np.ndarray, cosine: float) -> Pairs:
    """Pairs of rows (N, D) and (M, D) of unit length whose product is at least ``cosine``."""
    parts = []
    for start in range(0, len(left), 2048):
        products = left[start : start + 2048] @ right.T
        rows, columns = np.nonzero(products >= cosine)
        parts.append((rows + start, columns, products[rows, columns]))
    return Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def without_leaks(data: Split[Any], leakage: Leakage) -> Split[Any]:
    """The labels without the validation images that leak.

    Raises:
        InputError: none would be left.
    """
    kept = np.setdiff1d(np.arange(len(data.val)), leakage.excluded)
    if not len(kept):
        raise InputError(
            f"all {len(data.val)} validation images are near-copies of training or unlabelled images (leakage.csv "
            "lists them), so nothing is left to score; take a validation split of other scenes"
        )
    if len(kept) == len(data.val):
        return data
    val = data.val.subset(kept.tolist())
    return Split(val if data.train is data.val else data.train, val)


def _listed(first: str, second: str, test: str, pairs: Pairs, images: Mapping[str, ImageList]) -> list[Listed]:
    columns = (pairs.left.tolist(), pairs.right.tolist(), pairs.measure.tolist())
    names = images[first].names, images[second].names
    return [(first, names[0][i], second, names[1][j], test, measure) for i, j, measure in zip(*columns, strict=True)]


def _remarks(
    counts: Mapping[str, int], rows: Sequence[Listed], excluded: Sequence[int], featured: bool, cosine: float
) -> tuple[str, ...]:
    total = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    tests = f"hash with at most {SHARE:.0%} of bits different" + (
        f", features of cosine {cosine:g} and more" if featured else ""
    )
    lines = [f"looked for near-copies among {total} images ({tests}): {len(rows):,} pairs between splits"]
    if excluded:
        lines.append(f"{len(excluded)} of {counts['val']} validation images are near-copies and were left out")
    return tuple(lines)
