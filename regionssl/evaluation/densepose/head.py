"""The dense-pose head on RoI features: body or not, which part, and where on the part's chart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regionssl.evaluation.densepose.surface import PARTS


@dataclass(frozen=True)
class DenseOutput:
    """Outputs for R regions on a grid of S x S over each box, float.

    Attributes:
        body: (R, B, S, S) scores of background and B - 1 coarse parts.
        part: (R, 25, S, S) scores of background and 24 parts.
        u, v: (R, 24, S, S) places on each part's chart.
    """

    body: Tensor
    part: Tensor
    u: Tensor
    v: Tensor

    def read_out(self) -> dict[str, Tensor]:
        """One estimate a cell: the likeliest part where the body is likeliest, else 0, and that part's u and v.

        Returns:
            dense_part, dense_u, dense_v: (R, S, S) uint8; u and v are 255 times the place.
        """
        part = self.part.argmax(1) * (self.body.argmax(1) > 0)
        own = (part - 1).clamp(min=0)[:, None]
        u, v = (torch.gather(chart, 1, own)[:, 0].float().clamp(0, 1) * (part > 0) for chart in (self.u, self.v))
        return {
            "dense_part": part.to(torch.uint8),
            "dense_u": (u * 255).round().to(torch.uint8),
            "dense_v": (v * 255).round().to(torch.uint8),
        }


class DensePoseHead(nn.Module):
    """RoI features (R, C, 14, 14) -> 3x3 convolutions, a deconvolution to 28 and bilinear enlargement to 56.

    Args:
        channels: of the features.
        convs, width: number and channels of the convolutions.
        coarse: 2 to tell the body from the background, 15 to tell its coarse parts too.
    """

    def __init__(self, channels: int, convs: int, width: int, coarse: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in [channels, *[width] * (convs - 1)]:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True)]
        self.stack = nn.Sequential(*layers)
        self.split = [coarse, PARTS + 1, PARTS, PARTS]
        self.predictor = nn.ConvTranspose2d(width, sum(self.split), 4, stride=2, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, features: Tensor) -> DenseOutput:
        scores = self.predictor(self.stack(features))
        scores = F.interpolate(scores, scale_factor=2, mode="bilinear", align_corners=False)
        return DenseOutput(*scores.split(self.split, 1))
