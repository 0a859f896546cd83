"""Objects of a COCO json (:func:`read_coco_objects`), and any objects as one (:func:`coco`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from regionssl.data.sources import coco_folder
from regionssl.errors import InputError
from regionssl.labels.checks import Headers, listed_files, read_headers
from regionssl.labels.coco_json import Categories, Entry, flip_pairs, read_tables
from regionssl.labels.coco_objects import build_objects, settle_masks
from regionssl.labels.findings import Findings
from regionssl.labels.sets import Objects, ObjectSet


def read_coco_objects(file: Path, images_folder: Path | None = None) -> ObjectSet:
    """Boxes, masks, keypoints and dense-pose fields of a COCO json; images in the order of their names.

    Args:
        images_folder: what the file names are relative to; None looks where images usually lie (docs/data.md).

    Raises:
        InputError: not a COCO json, its images are not found, more than 5 % of them cannot be used, or a mask that
            does not fit its image; the rules are in docs/labels.md.
    """
    findings = Findings()
    categories, entries = read_tables(file, findings)
    folder = _folder(file, [entry.name for entry in entries], images_folder)
    return object_set(file, folder, entries, categories, findings)


def object_set(
    source: Path, folder: Path, entries: Sequence[Entry], categories: Categories, findings: Findings
) -> ObjectSet:
    """Entries, in the order of their names, as a set: files checked, annotations turned into objects.

    Raises:
        InputError: as :func:`read_coco_objects`.
    """
    images = listed_files(str(folder), [entry.name for entry in entries], source)
    headers = read_headers(images)
    bad = headers.bad | _contradictions(entries, headers, findings)
    findings.drop_images(source, [(entries[i].name, bad[i]) for i in sorted(bad)], len(entries))
    rows = [i for i in range(len(entries)) if i not in bad]
    sizes = headers.sizes[rows]
    objects = [
        build_objects(entries[i], width, height, categories, findings)
        for i, (width, height) in zip(rows, sizes.tolist(), strict=True)
    ]
    if not any(len(one.labels) for one in objects):
        why = "; ".join(findings.sentences()) or "no annotations"
        raise InputError(f"{source} has not one object that can be used ({why}); give labels with objects")
    return ObjectSet(
        images=images.subset(rows),
        sizes=sizes,
        objects=_settled(objects, findings),
        classes=categories.names,
        keypoint_names=categories.keypoints,
        keypoint_flips=flip_pairs(categories.keypoints),
        findings=findings.sentences(),
        keypoint_skeleton=categories.skeleton,
        category_ids=categories.ids,
    )


def _folder(file: Path, names: list[str], given: Path | None) -> Path:
    folder, tried = coco_folder(file, names, given)
    if folder is None:
        places = "\n  ".join(map(str, tried))
        raise InputError(
            f"the images of {file} were not found, such as {names[0]!r}; put them into one of these folders, or into "
            f"one named as a part of the file's name:\n  {places}"
        )
    return Path(os.path.abspath(folder))


def _contradictions(entries: Sequence[Entry], headers: Headers, findings: Findings) -> dict[int, str]:
    """Positions of images whose file has another size than the json says."""
    bad = {}
    for i, entry in enumerate(entries):
        width, height = headers.sizes[i].tolist()
        if i in headers.bad or entry.size is None or entry.size == (width, height):
            continue
        if headers.sideways[i] and entry.size == (height, width):
            findings.count(
                "images turned by their EXIF orientation, whose labels give the size before turning (coordinates count "
                "as those of the upright image: look at some)",
                entry.name,
            )
        else:
            bad[i] = f"is {width} x {height} pixels, and its labels are for {entry.size[0]} x {entry.size[1]}"
    return bad


def _settled(objects: list[Objects], findings: Findings) -> tuple[Objects, ...]:
    """Masks and dense-pose fields of all objects, or of none."""
    settled = settle_masks(objects, findings)
    if any(field is not None for one in settled for field in one.dense):
        return settled
    return tuple(replace(one, dense=()) for one in settled)


def coco(labelled: ObjectSet) -> dict[str, Any]:
    """The objects as the content of a COCO json, for pycocotools.

    Image ids are positions + 1, category ids classes + 1, annotation ids count from 1 in the order of images and
    objects.
    """
    annotations: list[dict[str, Any]] = []
    for i, one in enumerate(labelled.objects):
        annotations += [{"id": len(annotations) + k + 1, **_annotation(one, i, k)} for k in range(len(one.labels))]
    keypoints = {"keypoints": [*labelled.keypoint_names]} if labelled.keypoint_names else {}
    skeleton = {"skeleton": [[a + 1, b + 1] for a, b in labelled.keypoint_skeleton]} if keypoints else {}
    return {
        "info": {},
        "images": [
            {"id": i + 1, "file_name": name, "width": int(width), "height": int(height)}
            for i, (name, (width, height)) in enumerate(zip(labelled.images.names, labelled.sizes, strict=True))
        ],
        "annotations": annotations,
        "categories": [{"id": c + 1, "name": name, **keypoints, **skeleton} for c, name in enumerate(labelled.classes)],
    }


def _annotation(one: Objects, i: int, k: int) -> dict[str, Any]:
    x0, y0, x1, y1 = one.boxes[k].tolist()
    annotation: dict[str, Any] = {
        "image_id": i + 1,
        "category_id": int(one.labels[k]) + 1,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": float(one.area[k]),
        "iscrowd": int(one.crowd[k]),
    }
    if one.masks:
        annotation["segmentation"] = one.masks[k]
    if one.keypoints is not None:
        annotation["keypoints"] = one.keypoints[k].ravel().tolist()
        annotation["num_keypoints"] = int(np.count_nonzero(one.keypoints[k, :, 2]))
    if one.dense and one.dense[k] is not None:
        annotation |= one.dense[k] or {}
    return annotation
