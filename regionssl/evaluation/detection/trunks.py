"""What detectors stand on: a start's backbone with a pyramid over its maps, or its c4 map alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from regionssl.backbones.encoder import STRIDES, Encoder
from regionssl.config import Config
from regionssl.errors import InputError
from regionssl.evaluation.detection.norms import HeadNorm, Norm, freeze, norm_layer, renormed
from regionssl.evaluation.start import Start


class TrunkSettings(Config):
    """The backbone and the pyramid of a detector.

    Attributes:
        norm: of the backbone: "batch" trains its batch norms, "frozen" keeps their statistics and weights, "group"
            replaces them by group norms of the same weights.
        freeze_at: how many first parts of a ResNet do not train: 1 the stem, 2 also the stage of c2, and so on.
            A random start has nothing to keep: it freezes no part, and trains its batch norms where ``norm`` is
            "frozen".
        fpn_width: channels of the pyramid.
        fpn_norm: after each of its convolutions.
        fpn_start: take the pyramid's weights from a run that trained one.
    """

    norm: Norm = "batch"
    freeze_at: int = Field(0, ge=0, le=5)
    fpn_width: int = Field(256, ge=8)
    fpn_norm: HeadNorm = "batch"
    fpn_start: bool = True


class Trunk(nn.Module):
    """Images (N, 3, H, W) -> maps by name, all of ``out_channels`` channels.

    Args:
        extra: makes the levels above the coarsest map.
    """

    def __init__(
        self, encoder: Encoder, width: int, norm: HeadNorm = "none", extra: ExtraFPNBlock | None = None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.out_channels = width
        self.levels = sorted(encoder.maps, key=STRIDES.__getitem__)
        channels = [encoder.channels[level] for level in self.levels]
        self.fpn = FeaturePyramidNetwork(channels, width, extra, norm_layer(norm))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.encoder(x)
        pyramid: dict[str, Tensor] = self.fpn(OrderedDict((f"p{level[1:]}", maps[level]) for level in self.levels))
        return pyramid


class C4Trunk(nn.Module):
    """Images (N, 3, H, W) -> ``{"c4": (N, C, H/16, W/16)}``."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.out_channels = encoder.channels["c4"]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = self.encoder(x)
        return maps


def prepared(start: Start, maps: tuple[str, ...], settings: TrunkSettings, seed: int) -> Encoder:
    """A fresh backbone with its norms and its first parts as the settings say."""
    encoder = start.encoder(maps, seed)
    settle(encoder, start, settings)
    return encoder


def settle(encoder: Encoder, start: Start, settings: TrunkSettings) -> None:
    """Freeze and replace in place what the settings say; of a random start nothing is frozen.

    Raises:
        InputError: parts are to be frozen and the backbone is not a ResNet.
    """
    if start.pretrained:
        freeze(encoder.body, encoder.name, settings.freeze_at)
    if start.pretrained or settings.norm != "frozen":
        encoder.body = renormed(encoder.body, settings.norm)


def pyramid(start: Start, settings: TrunkSettings, seed: int, one_stage: bool = False) -> Trunk:
    """Backbone and pyramid: p2 to p5 and the pooled "pool" for R-CNNs; p3 to p7 for one-stage detectors.

    Raises:
        InputError: the backbone lacks the maps, or the run's pyramid is of another width.
    """
    width = settings.fpn_width
    maps = ("c3", "c4", "c5") if one_stage else ("c2", "c3", "c4", "c5")
    extra = LastLevelP6P7(width, width) if one_stage else LastLevelMaxPool()
    trunk = Trunk(prepared(start, maps, settings, seed), width, settings.fpn_norm, extra)
    tensors = start.fpn() if settings.fpn_start else {}
    if tensors:
        load_pyramid(trunk, tensors, start.name)
    return trunk


@torch.no_grad()
def load_pyramid(trunk: Trunk, tensors: Mapping[str, Tensor], name: str) -> list[str]:
    """Copy a run's pyramid (:class:`regionssl.backbones.fpn.FPN`) into the detector's, where both have the tensor.

    Where the detector's convolutions are followed by norms they have no biases, and the run's are dropped; the norms
    start fresh where the run had none (ReSim 6.1).

    Returns:
        Keys of the detector's pyramid that were set.

    Raises:
        InputError: the widths differ.
    """
    own = trunk.fpn.state_dict()
    loaded = []
    for key, tensor in tensors.items():
        blocks, level, rest = key.split(".", 2)
        place = trunk.levels.index(f"c{level[1:]}")
        target = own.get(f"{blocks}.{place}.{rest}")
        if rest == "0.weight" and target is not None and target.shape != tensor.shape:
            raise InputError(
                f"{name} trained a pyramid of {tensor.shape[0]} channels, and the detector's has "
                f"{trunk.out_channels}; set fpn_width={tensor.shape[0]}, or fpn_start=false to start it fresh"
            )
        if target is not None and target.shape == tensor.shape:
            target.copy_(tensor)
            loaded.append(f"{blocks}.{place}.{rest}")
    return loaded
