"""The feature pyramid that ReSim pre-trains together with its backbone (ReSim specification, 3.1 and 3.2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn


class FPN(nn.Module):
    """Top-down pyramid with sum fusion: c3, c4, c5 -> p4, p3.

        L5 = lat(c5);  M4 = lat(c4) + up(L5);  P4 = out(M4);  M3 = lat(c3) + up(M4);  P3 = out(M3)

    lat is a 1x1, out a 3x3 convolution, up is nearest-neighbour; no activation. With ``norm`` every convolution loses
    its bias and is followed by batch norm. Modules are named as in torchvision's ``FeaturePyramidNetwork``, with levels
    for positions: ``inner_blocks.c4.0`` is the lateral and ``layer_blocks.p4.0`` the output convolution at stride 16.

    Args:
        channels: of the maps c3, c4, c5; further ones are not used.
        width: channels of p4 and p3.
    """

    def __init__(self, channels: Mapping[str, int], width: int = 256, norm: bool = False) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleDict(
            {level: _block(channels[level], width, 1, norm) for level in ("c5", "c4", "c3")}
        )
        self.layer_blocks = nn.ModuleDict({level: _block(width, width, 3, norm) for level in ("p4", "p3")})

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """c3, c4, c5 (N, C, h, w) -> ``{"p4": (N, width, h4, w4), "p3": (N, width, h3, w3)}``."""
        m5 = self.inner_blocks["c5"](maps["c5"])
        m4 = _fuse(self.inner_blocks["c4"](maps["c4"]), m5)
        m3 = _fuse(self.inner_blocks["c3"](maps["c3"]), m4)
        return {"p4": self.layer_blocks["p4"](m4), "p3": self.layer_blocks["p3"](m3)}


def _block(inputs: int, outputs: int, kernel: int, norm: bool) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not norm)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs)) if norm else nn.Sequential(convolution)


def _fuse(lateral: Tensor, coarser: Tensor) -> Tensor:
    """The lateral map plus the coarser map enlarged to its size (x2, or one cell less where the size is odd)."""
    return lateral + F.interpolate(coarser, size=lateral.shape[-2:], mode="nearest")
