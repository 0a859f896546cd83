"""Two-stage detectors with a branch beyond boxes, on a start."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torchvision.ops import MultiScaleRoIAlign

from regionssl import counted
from regionssl.counted import Stream
from regionssl.evaluation.detection.detectors import DetectorSettings, fpn_heads, rcnn, roi_align
from regionssl.evaluation.detection.trunks import pyramid
from regionssl.evaluation.roi_branch import Branch, BranchedRoIHeads
from regionssl.evaluation.start import Start

BRANCH_CELLS = 14


def build_with_branch(
    start: Start,
    classes: int,
    settings: DetectorSettings,
    beta: float,
    branch: Callable[[MultiScaleRoIAlign, int], Branch],
    seed: int = 0,
) -> nn.Module:
    """Faster R-CNN with FPN and a branch on RoI features of 14 x 14.

    New layers are drawn from ``seed``, the same for every start with a backbone of the same channels.

    Args:
        classes: without background.
        beta: where the smooth-L1 loss of boxes turns linear.
        branch: makes the branch from its pooling and the pyramid's channels.

    Raises:
        InputError: the backbone does not fit the detector, or the run's pyramid is of another width.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(counted.integer(seed, Stream.WEIGHTS))
        trunk = pyramid(start, settings, seed)
        boxes = fpn_heads(trunk, classes, False, settings)
        heads = BranchedRoIHeads(boxes, branch(roi_align(BRANCH_CELLS, settings), trunk.out_channels), beta)
        return rcnn(trunk, heads, settings, start)
