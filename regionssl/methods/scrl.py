"""SCRL: a box of the overlap must predict itself in the other view (Roh et al., CVPR 2021).

    boxes a_k, b_k: K random boxes of the overlap, in pixels of view 1 and of view 2
    Q = predictor(projector(RoIAlign(f(x1), a))),  and likewise for view 2;   Z the same with the target network
    L = 1/P sum over the P boxes of  d(Q1, Z2) + d(Q2, Z1),   d(a, b) = 2 - 2 cos(a, b)

Sections are those of the specification: boxes 2.3-2.6, pooling 3, loss 4.

Departures from the release:
- Box draws are counted by (seed, epoch, image) and made for the whole batch at once, on the device.
- ``normalise_over``: P counts the boxes of all processes by default, so that every box weighs the same; the release
  (preset ``official``) divides by the boxes of each process.
- The target starts as a copy of the online network; the release draws own weights (preset ``official``; quirk 8).
- A batch without any box gives a loss of 0 (the release crashes; quirk 13). No classification probe.
- The least box side is one cell of c5 (32 px), whatever the view size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from regionssl.backbones.encoder import Encoder
from regionssl.backbones.norm import grouped_forward
from regionssl.backbones.pooling import roi_align_pool
from regionssl.data.batch import Batch
from regionssl.data.photometric import SCRL_FIRST, SCRL_SECOND
from regionssl.data.views import ViewPlan, ViewSpec
from regionssl.methods.base import EncoderFactory, Matches, MethodConfig, Terms, no_share
from regionssl.methods.byol import Branch, Byol, ByolConfig
from regionssl.regions.boxes import BoxPairs, BoxSamplerConfig, draw_boxes

_STRIDE = 32


class ScrlConfig(ByolConfig):
    """Settings of SCRL; those of BYOL and the boxes.

    Attributes:
        boxes: the box sampler.
        normalise_over: whose boxes P counts.
    """

    name: Literal["scrl"] = "scrl"  # type: ignore[assignment]
    plan: ViewPlan = ViewPlan(
        views=(
            ViewSpec(colour=SCRL_FIRST, interpolation="bicubic"),
            ViewSpec(colour=SCRL_SECOND, interpolation="bicubic"),
        )
    )
    momentum: float = 0.97
    joint_views: bool = True
    boxes: BoxSamplerConfig = BoxSamplerConfig()
    normalise_over: Literal["all", "process"] = "all"


class BoxBranch(Branch):
    """Encoder, RoIAlign and heads: one row per box instead of one per image.

    Batch statistics of no rows do not exist, unless they are those of all processes.
    """

    def __init__(self, encoder: Encoder, config: ByolConfig, *, predicts: bool, synchronised: bool) -> None:
        super().__init__(encoder, config, predicts=predicts)
        self.width = config.dim
        self.synchronised = synchronised

    def forward(self, views: Tensor, boxes: Tensor, valid: Tensor) -> Tensor:  # type: ignore[override]
        """Views (n, V, 3, S, S), boxes (n, V, K, 4) in view pixels, valid (n,) -> (P, V, dim), P = K * valid images."""
        features = self.encoder(views.flatten(0, 1))["c5"]
        rows = roi_align_pool(features, boxes.flatten(0, 1), _STRIDE).unflatten(0, views.shape[:2])
        rows = rows[valid].transpose(1, 2).flatten(0, 1)
        if len(rows) == 0 and not self.synchronised:
            return rows.new_zeros(0, views.shape[1], self.width)
        return self.head(rows.flatten(0, 1)).unflatten(0, (-1, views.shape[1]))


@dataclass(frozen=True)
class BoxTargets:
    """For the whole local batch: the boxes and the projections of their rows.

    Attributes:
        boxes: the drawn pairs; boxes.valid (n,) tells the images that have boxes.
        rows: (P, 2, D) target projections, image by image, box by box.
        count: () P, averaged over processes or of this one.
    """

    boxes: BoxPairs
    rows: Tensor
    count: Tensor


class Scrl(Byol):
    """SCRL. ``online`` is trained; ``target`` follows it."""

    Config: ClassVar[type[MethodConfig]] = ScrlConfig
    config: ScrlConfig

    def make_branch(self, make_encoder: EncoderFactory, *, predicts: bool) -> Branch:
        synchronised = self.synchronised and self.world.size > 1
        return BoxBranch(make_encoder(self.maps), self.config, predicts=predicts, synchronised=synchronised)

    def draw_boxes(self, batch: Batch) -> BoxPairs:
        """The counted boxes of every image of the batch."""
        first, second = batch.crops[:2]
        return draw_boxes(self.config.boxes, first, second, batch.seed, batch.epoch, batch.index)

    def encode_boxes(self, branch: nn.Module, batch: Batch, boxes: BoxPairs) -> Tensor:
        """Rows (P, 2, D) of a branch for all boxes of both views."""
        views, both = torch.stack(batch.views, 1), torch.stack([boxes.first, boxes.second], 1)
        return grouped_forward(branch, (views, both.to(views.dtype), boxes.valid), self.groups(len(batch)))

    @torch.no_grad()
    def targets(self, batch: Batch) -> Any:
        boxes = self.draw_boxes(batch)
        count = boxes.valid.sum().double() * self.config.boxes.boxes
        if self.config.normalise_over == "all":
            count = self.world.mean(count)
        return BoxTargets(boxes, self.encode_boxes(self.target, batch, boxes), count)

    def loss(self, batch: Batch, targets: BoxTargets) -> Terms:  # type: ignore[override]
        part = slice(batch.first, batch.first + len(batch))
        pairs, per_image = targets.boxes, self.config.boxes.boxes
        boxes = BoxPairs(pairs.first[part], pairs.second[part], pairs.valid[part])
        start = int(pairs.valid[: batch.first].sum()) * per_image
        predictions = self.encode_boxes(self.online, batch, boxes)
        if len(predictions) == 0:
            # through the empty rows, so that a process without boxes still takes part in synchronised statistics
            zero = predictions.sum() + no_share(self.online)
            terms = {"loss": zero, "feature_std": zero.detach()}
        else:
            terms = self.terms(predictions, targets.rows[start:][: len(predictions)], batch, targets.count)
        terms["boxes"] = boxes.valid.sum() * per_image / batch.total
        if self.watched:
            shape = (len(predictions) // per_image, per_image, 2, predictions.shape[-1])
            rows = targets.rows[start:][: len(predictions)].reshape(shape).transpose(1, 2)
            terms |= self.measures("boxes", predictions.reshape(shape)[:, :, 0], rows, batch, {"loss": 4})
            terms["health/boxes_valid"] = boxes.valid.sum() / batch.total
        return terms

    def matches(self, batch: Batch) -> Matches:
        """The drawn boxes."""
        boxes = self.draw_boxes(batch)
        return Matches((0, 1), boxes.first, boxes.second, boxes.valid[:, None].expand(boxes.first.shape[:2]))
