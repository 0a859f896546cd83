"""Object proposals without training: selective search and the filter that ORL puts over it (ORL, sections 3.2 and 3.3).

Boxes are (B, 4) integers: left, top, width and height in whole pixels of the upright image.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from regionssl import geometry
from regionssl.config import Config
from regionssl.errors import InputError

_SEED = 1


class ProposalFilter(Config):
    """Which proposals are kept, in one pass in their order; None switches a rule off. The release's values.

    Attributes:
        min_size: least width and height, pixels.
        max_aspect: largest ratio of the sides, either way.
        max_iou: largest intersection over union with a box that was kept before.
        top: at most so many boxes.
        fallback: what an image gets when no box passes: the "first" box before the filter (the release's rule; often
            tiny), the "largest" of them, or the whole "image". An image without proposals always gets the last.
    """

    min_size: int | None = Field(96, ge=1)
    max_aspect: float | None = Field(3.0, ge=1)
    max_iou: float | None = Field(0.5, ge=0, le=1)
    top: int | None = Field(100, ge=1)
    fallback: Literal["first", "largest", "image"] = "first"


def filter_proposals(boxes: np.ndarray, rules: ProposalFilter) -> np.ndarray:
    """The proposals that pass, in their order (ORL, section 3.3).

    Args:
        boxes: (B, 4) integers, in the order in which they were proposed, which matters.

    Returns:
        (K, 4) int32, 0 <= K <= ``top``; where it is empty, :func:`fallback` has a box.
    """
    boxes = np.asarray(boxes, np.int32).reshape(-1, 4)
    width, height = boxes[:, 2].astype(np.float64), boxes[:, 3].astype(np.float64)
    fits = np.ones(len(boxes), bool)
    if rules.min_size is not None:
        fits &= (width >= rules.min_size) & (height >= rules.min_size)
    if rules.max_aspect is not None:
        fits &= (width <= rules.max_aspect * height) & (height <= rules.max_aspect * width)
    candidates = boxes[fits]
    return candidates[_apart(candidates, rules.max_iou, rules.top)]


def fallback(boxes: np.ndarray, size: Callable[[], tuple[int, int]], rules: ProposalFilter) -> np.ndarray:
    """The box (1, 4) int32 of an image of which none passed (ORL, section 3.3 and quirk Q2).

    Args:
        boxes: (B, 4), all proposals.
        size: gives width and height of the image in pixels; asked only where the box is the whole image.
    """
    if rules.fallback == "image" or not len(boxes):
        return np.array([[0, 0, *size()]], np.int32)
    chosen = 0 if rules.fallback == "first" else int(boxes[:, 2:].astype(np.int64).prod(1).argmax())
    return boxes[chosen : chosen + 1].astype(np.int32)


def _apart(boxes: np.ndarray, max_iou: float | None, top: int | None) -> np.ndarray:
    """Positions of the first ``top`` boxes that overlap no chosen box before them by more than ``max_iou``."""
    limit = len(boxes) if top is None else top
    if max_iou is None:
        return np.arange(len(boxes))[:limit]
    corners = geometry.corners(torch.from_numpy(boxes).double())
    left = torch.arange(len(boxes))
    chosen: list[int] = []
    while len(left) and len(chosen) < limit:
        first, left = int(left[0]), left[1:]
        chosen.append(first)
        left = left[geometry.iou(corners[left], corners[first]) <= max_iou]
    return np.array(chosen, np.int64)


def selective_search(pixels: np.ndarray) -> np.ndarray:
    """OpenCV's selective search, fast mode, default settings (ORL, section 3.2); the same image gives the same boxes.

    It orders boxes by numbers of the C library's generator, which is set to the start of a fresh process first. The
    generator belongs to the whole process: run searches in processes, not threads.

    Args:
        pixels: (H, W, 3) uint8, RGB.

    Returns:
        (B, 4) int32, all proposals in their order.

    Raises:
        InputError: OpenCV's contrib modules are not installed.
    """
    cv2 = opencv()
    cv2.setNumThreads(1)
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(pixels[..., ::-1]))
    search.switchToSelectiveSearchFast()
    ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None).srand(_SEED)
    return np.asarray(search.process(), np.int32).reshape(-1, 4)


def opencv() -> Any:
    """OpenCV with its contrib modules.

    Raises:
        InputError: it is not installed.
    """
    try:
        import cv2

        cv2.ximgproc.segmentation.createSelectiveSearchSegmentation  # noqa: B018
    except (ImportError, AttributeError) as error:
        raise InputError(
            "selective search needs OpenCV with its contrib modules; install them with: pip install "
            "'regionssl[proposals]' (plain opencv-python must not be installed beside them; remove it first)"
        ) from error
    return cv2
