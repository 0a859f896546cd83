"""Correspondences as the JSON files of ORL's release (ORL, sections 3.1, 3.2 and 3.6): in both directions, in parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from regionssl.errors import InputError
from regionssl.regions.correspondence import CorrespondenceConfig, Correspondences, Ragged, RankedPairs

Tree = Mapping[str, Any]

_SLICED = ("bbox", "knn_bbox_pair")


def part_rows(images: int, parts: int, part: int) -> range:
    """The images of one part: ``floor(images / parts)`` each, the rest with the last (ORL, section 3.6)."""
    length = images // parts
    return range(part * length, images if part == parts - 1 else (part + 1) * length)


def to_release(
    found: Correspondences,
    file_names: Sequence[str],
    ids: Sequence[int],
    config: CorrespondenceConfig,
    rows: range | None = None,
) -> dict[str, Any]:
    """The release's file, or the part of it with ``rows``.

    Args:
        file_names, ids: of all images, by position.
    """
    rows = range(len(found.boxes)) if rows is None else rows
    rules = config.proposals
    return {
        "info": {
            "bbox_min_size": rules.min_size,
            "bbox_max_aspect_ratio": rules.max_aspect,
            "bbox_max_iou": rules.max_iou,
            "intra_bbox_num": rules.top,
            "knn_image_num": config.neighbours,
            "knn_bbox_pair_ratio": config.pair_ratio,
        },
        "images": {"file_name": list(file_names), "id": list(ids)},
        "pseudo_annotations": {
            "image_id": list(ids),
            "bbox": [found.boxes[i].tolist() for i in rows],
            "knn_image_id": found.neighbours.tolist(),
            "knn_bbox_pair": [[pairs.tolist() for pairs in found.pairs[i]] for i in rows],
        },
    }


def merge_parts(parts: Sequence[Tree]) -> dict[str, Any]:
    """The whole of a file's parts, given in their order.

    Raises:
        InputError: they are not all the parts of one file.
    """
    first = parts[0]
    images = len(first["images"]["file_name"])
    lists = {key: list(chain.from_iterable(part["pseudo_annotations"][key] for part in parts)) for key in _SLICED}
    if any(part["images"] != first["images"] for part in parts) or any(len(rows) != images for rows in lists.values()):
        held = [len(part["pseudo_annotations"]["bbox"]) for part in parts]
        raise InputError(
            f"the parts hold {' + '.join(map(str, held))} images of {images}, or are parts of different files; give "
            "all parts of one file, in order"
        )
    return {**first, "pseudo_annotations": {**first["pseudo_annotations"], **lists}}


def from_release(tree: Tree, fingerprint: str, names: Sequence[str] | None = None) -> Correspondences:
    """Correspondences of a complete file of the release.

    Args:
        fingerprint: of the images that positions will refer to.
        names: of those images; the file's images are brought into their order, by the last part of their names. None
            takes the file's own order.

    Raises:
        InputError: it is another file, or a part, or of other images.
    """
    try:
        found, files = tree["pseudo_annotations"], tree["images"]["file_name"]
        boxes, near, pairs = found["bbox"], np.array(found["knn_image_id"], np.int64), found["knn_bbox_pair"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"this is not a correspondence file of ORL's release: {error!r}") from error
    if not len(files) == len(boxes) == len(near) == len(pairs):
        raise InputError(f"a part of a file came, {len(boxes)} of {len(files)} images; merge all parts first")
    order = np.arange(len(files)) if names is None else _order(files, names)
    place = np.empty(len(files), np.int64)
    place[order] = np.arange(len(files))
    ranked = Ragged.of((rows for i in order for rows in pairs[i]), 8)
    made = Correspondences(
        fingerprint, Ragged.of((boxes[i] for i in order), 4), place[near[order]], RankedPairs(ranked, near.shape[1])
    )
    made.check("the file")
    return made


def _order(files: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """For each of ``names``, the position of its image in ``files``."""
    known = {PurePosixPath(file).name: i for i, file in enumerate(files)}
    wanted = [PurePosixPath(name).name for name in names]
    missing = [name for name in wanted if name not in known]
    if missing or len(set(wanted)) != len(files):
        some = f"; it lacks {', '.join(missing[:3])}" if missing else ""
        raise InputError(
            f"the file is of {len(files)} images, and {len(wanted)} are given{some}; give exactly its images"
        )
    return np.array([known[name] for name in wanted], np.int64)


def read_proposals(tree: Tree) -> list[np.ndarray]:
    """All proposals (B, 4) int32 of each image, of a proposal file of the release; a single box may be written flat."""
    return [np.array(boxes, np.int32).reshape(-1, 4) for boxes in tree["bbox"]]


def read_neighbours(tree: Tree) -> np.ndarray:
    """(N, K) int64 positions of the nearest images, of a KNN file of the release."""
    return np.array(tree["pseudo_annotations"]["knn_image_id"], np.int64)
