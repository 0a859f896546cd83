"""RoI heads with a branch against torchvision's Keypoint R-CNN with the same weights and draws."""

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.ops import MultiScaleRoIAlign

from regionssl.evaluation.keypoint_branch import KeypointBranch
from regionssl.evaluation.roi_branch import BranchedRoIHeads, box_losses

SIZES = [(64, 64), (64, 48)]


def pooling(size: int) -> MultiScaleRoIAlign:
    return MultiScaleRoIAlign(["p2", "p3"], size, sampling_ratio=2)


def heads() -> tuple[RoIHeads, BranchedRoIHeads]:
    """torchvision's heads with keypoints, and ours of the same modules."""
    torch.manual_seed(0)
    branch = KeypointBranch(pooling(14), 8, 2, 16, 3)
    makers = (TwoMLPHead(8 * 49, 16), FastRCNNPredictor(16, 2))
    numbers = (0.5, 0.5, 16, 0.5, None, 0.0, 0.5, 10)
    plain = RoIHeads(pooling(7), *makers, *numbers)
    theirs = RoIHeads(
        pooling(7),
        *makers,
        *numbers,
        keypoint_roi_pool=branch.pool,
        keypoint_head=branch.heatmaps[0],
        keypoint_predictor=branch.heatmaps[1],
    )
    return theirs, BranchedRoIHeads(plain, branch, beta=1 / 9)


def inputs() -> tuple[dict[str, Tensor], list[Tensor], list[dict[str, Tensor]]]:
    torch.manual_seed(1)
    features = {"p2": torch.randn(2, 8, 16, 16), "p3": torch.randn(2, 8, 8, 8)}
    corners = torch.rand(2, 20, 2) * 30
    proposals = list(torch.cat([corners, corners + 6 + torch.rand(2, 20, 2) * 20], -1).unbind())
    targets = []
    for boxes in (proposals[0][:2] + 1, proposals[1][:0]):
        points = boxes[:, None, :2] + torch.rand(len(boxes), 3, 2) * (boxes[:, None, 2:] - boxes[:, None, :2])
        visible = torch.tensor([2.0, 1.0, 0.0]).expand(len(boxes), 3)[..., None]
        targets.append(
            {
                "boxes": boxes,
                "labels": torch.ones(len(boxes), dtype=torch.int64),
                "keypoints": torch.cat([points, visible], -1),
            }
        )
    return features, proposals, targets


def test_losses_are_torchvisions() -> None:
    theirs, ours = heads()
    features, proposals, targets = inputs()
    torch.manual_seed(2)
    _, expected = theirs(features, list(proposals), SIZES, targets)
    torch.manual_seed(2)
    _, losses = ours(features, list(proposals), SIZES, targets)
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(expected[name].item(), rel=1e-6)
        assert loss.item() > 0


def test_detections_are_torchvisions() -> None:
    theirs, ours = (one.eval() for one in heads())
    features, proposals, _ = inputs()
    with torch.no_grad():
        expected, results = theirs(features, proposals, SIZES)[0], ours(features, proposals, SIZES)[0]
    for one, other in zip(results, expected, strict=True):
        assert one.keys() == other.keys()
        assert len(one["boxes"]) > 0
        for name, values in one.items():
            assert torch.equal(values, other[name])


def test_beta_moves_the_bend() -> None:
    torch.manual_seed(3)
    scores, offsets = torch.randn(9, 3), torch.randn(9, 12)
    labels, regression = torch.tensor([0, 1, 2, 1, 0, 2, 2, 1, 0]), torch.randn(9, 4)
    classes, boxes = fastrcnn_loss(scores, offsets, [labels], [regression])
    ours = box_losses(scores, offsets, labels, regression, beta=1 / 9)
    assert torch.equal(ours["loss_classifier"], classes)
    assert ours["loss_box_reg"].item() == pytest.approx(boxes.item(), rel=1e-6)
    own = offsets.view(9, 3, 4)[torch.arange(9), labels][labels > 0]
    error = (own - regression[labels > 0]).abs()
    expected = torch.where(error < 0.5, error**2, error - 0.25).sum() / 9  # beta 0.5: e^2 / (2 * 0.5) below it
    bent = box_losses(scores, offsets, labels, regression, beta=0.5)["loss_box_reg"]
    assert bent.item() == pytest.approx(expected.item(), rel=1e-6)
