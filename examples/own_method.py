"""A method of your own in 40 lines: what one view shows of the overlap must be predicted from the other view.

    python examples/own_method.py IMAGES RUN

Data, colours, schedule, checkpoints, health, export, show and prove come from the package.
"""

import sys
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from regionssl import build, pretrain
from regionssl.backbones.pooling import roi_align_pool
from regionssl.data.batch import Batch
from regionssl.data.views import ViewPlan, ViewSpec
from regionssl.methods.base import EncoderFactory, Matches, Method, MethodConfig, Progress, Terms, World
from regionssl.methods.heads import mlp
from regionssl.methods.losses import feature_std, regression
from regionssl.methods.moco import overlap_match
from regionssl.methods.momentum import frozen_copy, moving_average


class OverlapConfig(MethodConfig):
    name: Literal["overlap"] = "overlap"
    plan: ViewPlan = ViewPlan(views=(ViewSpec(size=128), ViewSpec(size=128)))
    momentum: float = 0.99


class Overlap(Method):
    Config = OverlapConfig

    def __init__(self, config: OverlapConfig, make_encoder: EncoderFactory, world: World) -> None:
        super().__init__()
        self.config, self.backbone = config, make_encoder(("c5",))
        self.head = mlp(self.backbone.channels["c5"], 512, 128, norm=True)
        self.predictor = mlp(128, 512, 128, norm=True)
        self.slow = nn.ModuleList([frozen_copy(self.backbone), frozen_copy(self.head)])

    def rows(self, encoder: nn.Module, head: nn.Module, view: Tensor, boxes: Tensor) -> Tensor:
        return head(roi_align_pool(encoder(view)["c5"], boxes.to(view.dtype), stride=32)[:, 0])  # (n, 128)

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        return self.rows(*self.slow, batch.views[1], self.matches(batch).second)

    def loss(self, batch: Batch, targets: Tensor) -> Terms:
        match = self.matches(batch)
        predicted = self.predictor(self.rows(self.backbone, self.head, batch.views[0], match.first))
        distance = regression(predicted, targets[batch.first :][: len(batch)]) * match.valid[:, 0]
        spread = feature_std(targets) * (len(batch) / batch.total)
        return {"loss": distance.sum() / batch.total, "feature_std": spread}  # parts of a batch add up

    def after_step(self, progress: Progress) -> None:
        moving_average(self.slow[0], self.backbone, self.config.momentum)
        moving_average(self.slow[1], self.head, self.config.momentum)

    def matches(self, batch: Batch) -> Matches:
        return overlap_match(batch)


build.METHODS["overlap"] = Overlap

if __name__ == "__main__":
    pretrain(Path(sys.argv[1]), Path(sys.argv[2]), recipe=str(Path(__file__).with_suffix(".yaml")))
