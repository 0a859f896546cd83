"""From the annotations of one image to its objects, by the rules of docs/labels.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from regionssl.labels.coco_json import Categories, Entry
from regionssl.labels.findings import MOST_BAD, Findings
from regionssl.labels.masks import checked_segmentation, decode, is_number
from regionssl.labels.sets import Objects

_CLIPPED = 0.5  # pixels; writers round


def clipped_boxes(boxes: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (n, 4) x0 y0 x1 y1 cut to their image.

    Returns:
        (n, 4) boxes; (n,) bool, cut by more than half a pixel; (n,) bool, less than a pixel wide or high afterwards.
    """
    cut = np.clip(boxes, 0, [width, height, width, height])
    return cut, np.abs(cut - boxes).max(1, initial=0) > _CLIPPED, (cut[:, 2:] - cut[:, :2] < 1).any(1)


def build_objects(entry: Entry, width: int, height: int, categories: Categories, findings: Findings) -> Objects:
    """The objects of an image; ``masks`` holds None for those without a mask."""
    kept = [one for one in entry.annotations if _has_box(one, entry, findings)]
    corners = np.array([one["bbox"] for one in kept], np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    boxes, cut, empty = clipped_boxes(corners, width, height)
    _count(findings, "boxes that reached outside their image, cut", kept, cut & ~empty, entry)
    _count(findings, "boxes less than a pixel wide or high inside their image, dropped", kept, empty, entry)
    rows = [i for i in np.flatnonzero(~empty).tolist() if not (entry.joined and _is_repeated(kept, i))]
    kept, boxes = [kept[i] for i in rows], boxes[rows]
    masks = tuple(checked_segmentation(one.get("segmentation"), width, height, _name(one, entry)) for one in kept)
    position = {number: place for place, number in enumerate(categories.ids)}
    return Objects(
        boxes=boxes,
        labels=np.array([position[one["category_id"]] for one in kept], np.int64),
        crowd=np.array([bool(one.get("iscrowd")) for one in kept], bool),
        area=_areas(kept, boxes, masks, width, height, findings, entry),
        masks=masks,
        keypoints=_keypoints(kept, len(categories.keypoints), findings, entry) if categories.keypoints else None,
        dense=tuple(_dense(one) for one in kept),
    )


def _name(annotation: dict[str, Any], entry: Entry) -> str:
    return f"annotation {annotation.get('id')} of {entry.name}"


def _count(findings: Findings, what: str, kept: Sequence[dict[str, Any]], where: np.ndarray, entry: Entry) -> None:
    for i in np.flatnonzero(where).tolist():
        findings.count(what, _name(kept[i], entry))


def _has_box(annotation: dict[str, Any], entry: Entry, findings: Findings) -> bool:
    box = annotation.get("bbox")
    if isinstance(box, list) and len(box) == 4 and all(map(is_number, box)):
        return True
    findings.count("annotations without a box of four finite numbers, dropped", _name(annotation, entry))
    return False


def _is_repeated(kept: Sequence[dict[str, Any]], i: int) -> bool:
    one = kept[i]
    return any(other["bbox"] == one["bbox"] and other["category_id"] == one["category_id"] for other in kept[:i])


def _areas(
    kept: Sequence[dict[str, Any]],
    boxes: np.ndarray,
    masks: Sequence[Any],
    width: int,
    height: int,
    findings: Findings,
    entry: Entry,
) -> np.ndarray:
    """What the file says, up to the image's; else the area of the mask, or of the box.

    COCO's scores leave out areas above 1e10, and objects with them.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for i, one in enumerate(kept):
        if is_number(one.get("area"), width * height) and one["area"] > 0:
            areas[i] = one["area"]
            continue
        findings.count("objects without a valid area; that of their mask or box taken", _name(one, entry))
        if masks[i] is not None:
            areas[i] = decode(masks[i], width, height).sum()
    return areas


def _keypoints(kept: Sequence[dict[str, Any]], count: int, findings: Findings, entry: Entry) -> np.ndarray:
    """(n, count, 3) float64; zeros for objects without keypoints."""
    points = np.zeros((len(kept), count, 3))
    for i, one in enumerate(kept):
        found = one.get("keypoints")
        if found is None:
            continue
        if isinstance(found, list) and len(found) == 3 * count and all(map(is_number, found)):
            points[i] = np.array(found, np.float64).reshape(count, 3)
        else:
            findings.count(
                f"objects with other than {count} x 3 finite keypoint numbers; taken as without keypoints",
                _name(one, entry),
            )
    points[~np.isin(points[:, :, 2], (1, 2))] = 0
    return points


def _dense(annotation: dict[str, Any]) -> dict[str, Any] | None:
    found = {key: value for key, value in annotation.items() if key.startswith("dp_")}
    return found or None


def settle_masks(objects: Sequence[Objects], findings: Findings) -> tuple[Objects, ...]:
    """Let either every object have a mask, or none: a few without are dropped, and masks that are too few put aside."""
    total = sum(len(one.labels) for one in objects)
    without = sum(mask is None for one in objects for mask in one.masks)
    if without > MOST_BAD * total:
        if without < total:
            findings.say(f"{without} of {total} objects have no mask, so the masks of the others were put aside")
        return tuple(replace(one, masks=()) for one in objects)
    if without:
        findings.say(f"{without} of {total} objects have no valid mask and were dropped, as the others have one")
    return tuple(_with_masks(one) for one in objects)


def _with_masks(one: Objects) -> Objects:
    rows = [i for i, mask in enumerate(one.masks) if mask is not None]
    return one if len(rows) == len(one.masks) else take(one, rows)


def take(one: Objects, rows: Sequence[int]) -> Objects:
    """The objects of an image at these rows."""
    chosen = np.asarray(rows, np.int64)
    return Objects(
        boxes=one.boxes[chosen],
        labels=one.labels[chosen],
        crowd=one.crowd[chosen],
        area=one.area[chosen],
        masks=tuple(one.masks[i] for i in chosen) if one.masks else (),
        keypoints=None if one.keypoints is None else one.keypoints[chosen],
        dense=tuple(one.dense[i] for i in chosen) if one.dense else (),
    )
