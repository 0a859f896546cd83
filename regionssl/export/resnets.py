"""The ResNets that other libraries build too, and what their builders must be told."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from regionssl.errors import InputError
from regionssl.export.target import Trained


@dataclass(frozen=True)
class Shape:
    """A ResNet whose names and tensors are the same in timm and torchvision.

    Attributes:
        blocks: residual blocks of the four stages.
        groups, width_per_group: of the 3x3 convolutions; more than one group is a ResNeXt.
    """

    blocks: tuple[int, int, int, int]
    groups: int = 1
    width_per_group: int = 64
    bottleneck: bool = True

    @property
    def depth(self) -> int:
        return sum(self.blocks) * (3 if self.bottleneck else 2) + 2

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Of c2 to c5."""
        return (256, 512, 1024, 2048) if self.bottleneck else (64, 128, 256, 512)

    @property
    def plain(self) -> bool:
        """Whether it is a ResNet of the first paper, neither wide nor grouped."""
        return self.groups == 1 and self.width_per_group == 64


RESNETS: dict[str, Shape] = {
    "resnet18": Shape((2, 2, 2, 2), bottleneck=False),
    "resnet34": Shape((3, 4, 6, 3), bottleneck=False),
    "resnet50": Shape((3, 4, 6, 3)),
    "resnet101": Shape((3, 4, 23, 3)),
    "resnet152": Shape((3, 8, 36, 3)),
    "resnext50_32x4d": Shape((3, 4, 6, 3), 32, 4),
    "resnext101_32x8d": Shape((3, 4, 23, 3), 32, 8),
    "resnext101_64x4d": Shape((3, 4, 23, 3), 64, 4),
    "wide_resnet50_2": Shape((3, 4, 6, 3), 1, 128),
    "wide_resnet101_2": Shape((3, 4, 23, 3), 1, 128),
}
PLAIN = tuple(name for name, shape in RESNETS.items() if shape.plain)


def resnet_name(trained: Trained, target: str, known: Collection[str] = tuple(RESNETS)) -> str:
    """The backbone's name in torchvision.

    Raises:
        InputError: it is none of ``known``.
    """
    name = trained.encoder.name.partition(".")[0]
    if name not in known:
        raise InputError(
            f"--to {target} knows ResNets only ({', '.join(known)}); this run trained {name}: use --to timm"
        )
    return name


def stride_style(name: str) -> str:
    """Where a ResNet's stages halve the resolution; detectors must be built the same way."""
    if not RESNETS[name].bottleneck:
        return "stride in the first 3x3 convolution of a basic block"
    return "stride in the 3x3 convolution (v1.5)"


def for_colours(tensors: dict[str, Tensor], colours: str) -> dict[str, Tensor]:
    """The backbone for images in another order of colours: "BGR" turns round the first convolution's inputs."""
    if colours == "RGB":
        return dict(tensors)
    return tensors | {"conv1.weight": tensors["conv1.weight"].flip(1).contiguous()}


def pixel_facts(trained: Trained, colours: str) -> dict[str, Any]:
    """What the JSON says of the inputs: mean and std in the order of the colours, of values in 0..1 and in 0..255."""
    mean, std = list(trained.card["mean"]), list(trained.card["std"])
    if colours == "BGR":
        mean, std = mean[::-1], std[::-1]
    return {
        "colour_order": colours,
        "mean": mean,
        "std": std,
        "pixel_mean": [round(255 * value, 4) for value in mean],
        "pixel_std": [round(255 * value, 4) for value in std],
    }


def as_pixels(images: Tensor, trained: Trained, colours: str) -> Tensor:
    """Normalised RGB images as pixels 0..255 in the order of the colours, the way detectors are fed."""
    mean, std = (images.new_tensor(trained.card[key]).view(3, 1, 1) for key in ("mean", "std"))
    pixels = (images * std + mean) * 255
    return pixels if colours == "RGB" else pixels.flip(1)
