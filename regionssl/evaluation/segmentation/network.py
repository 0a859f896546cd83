"""A backbone with a segmentation head."""

from __future__ import annotations

from itertools import pairwise
from typing import Self

import torch
import torch.nn.functional as F
from timm.models.resnet import ResNet
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from regionssl.backbones.encoder import STRIDES, Encoder
from regionssl.counted import Stream, integer
from regionssl.evaluation.segmentation.config import SegmentationConfig
from regionssl.evaluation.segmentation.dilation import dilate
from regionssl.evaluation.start import Start

_CLASSES_AT_A_TIME = 32


def input_multiple(encoder: Encoder) -> int:
    """What the sides of images must be a multiple of, pixels: transformers and others cut them into whole patches."""
    return 1 if isinstance(encoder.body, ResNet) else 32


class FcnHead(nn.Module):
    """Convolutions, batch norms and ReLUs on one map, then a linear classifier: (N, D, h, w) -> (N, C, h, w).

    Args:
        convs: how many 3x3 convolutions, with ``dilation``.
        concat: join the map with their result by one more 3x3 convolution.
    """

    def __init__(
        self, features: int, classes: int, channels: int, convs: int, dilation: int, concat: bool, dropout: float
    ) -> None:
        super().__init__()
        widths = [features] + [channels] * convs
        self.convs = nn.Sequential(*(_conv(a, b, dilation) for a, b in pairwise(widths)))
        self.join = _conv(features + channels, channels, 1) if concat else None
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        x = self.convs(features)
        if self.join is not None:
            x = self.join(torch.cat([features, x], 1))
        return self.classifier(self.dropout(x))


def _conv(features: int, channels: int, dilation: int) -> nn.Sequential:
    conv = nn.Conv2d(features, channels, 3, padding=dilation, dilation=dilation, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class SegmentationNetwork(nn.Module):
    """Images (N, 3, H, W), standardised -> class scores (N, C, h, w) of the head, and of the auxiliary head if any.

    Attributes:
        multiple: of :func:`input_multiple`.
        frozen: the backbone stays in evaluation mode and takes no gradient.
    """

    def __init__(self, encoder: Encoder, config: SegmentationConfig, classes: int) -> None:
        super().__init__()
        self.encoder, self.frozen = encoder, config.frozen
        self.multiple = input_multiple(encoder)
        self.main, self.side = encoder.maps[-1], encoder.maps[0]
        self.head: nn.Module = (
            _fcn(config, encoder.channels[self.main], classes, config.concat)
            if config.head == "fcn"
            else DeepLabHead(encoder.channels[self.main], classes, config.rates)
        )
        self.auxiliary = _fcn(config, encoder.channels[self.side], classes, False) if config.auxiliary else None
        encoder.requires_grad_(not config.frozen)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.encoder(images)
        scores = self.head(maps[self.main])
        if self.auxiliary is None or not self.training:
            return (scores,)
        return scores, self.auxiliary(maps[self.side])


def build(start: Start, config: SegmentationConfig, classes: int, seed: int) -> SegmentationNetwork:
    """The network with the start's backbone and a head drawn from ``seed``, on the CPU.

    Raises:
        InputError: as :meth:`Start.encoder` and :func:`dilate`.
    """
    side = ("c4",) if config.auxiliary else ()
    encoder = start.encoder((*side, "c5"), seed)
    if not encoder.plain:
        dilate(encoder, config.output_stride)
    elif config.output_stride < STRIDES["c5"]:
        main = next(name for name, stride in STRIDES.items() if stride == config.output_stride)
        encoder = start.encoder(tuple(dict.fromkeys((*side, main))), seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(integer(seed, Stream.WEIGHTS))
        return SegmentationNetwork(encoder, config, classes)


def _fcn(config: SegmentationConfig, features: int, classes: int, concat: bool) -> FcnHead:
    return FcnHead(features, classes, config.channels, config.convs, config.dilation, concat, config.dropout)


def winners(scores: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """The best class of each pixel: scores (N, C, h, w), enlarged bilinearly to ``size`` (H, W) -> (N, H, W) int64.

    Few classes are enlarged at a time, so that large images of many classes fit into memory.
    """
    best = torch.full((len(scores), *size), -torch.inf, device=scores.device)
    winner = torch.zeros(best.shape, dtype=torch.int64, device=scores.device)
    for first in range(0, scores.shape[1], _CLASSES_AT_A_TIME):
        part = scores[:, first : first + _CLASSES_AT_A_TIME].float()
        high, place = F.interpolate(part, size, mode="bilinear", align_corners=align_corners).max(1)
        better = high > best
        winner[better], best[better] = place[better] + first, high[better]
    return winner
