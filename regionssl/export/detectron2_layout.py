"""A stand-in for detectron2's ResNet with a pyramid, and how detectron2 finds a file's tensors in it.

Same names, strides and arithmetic as the detector that ``MODEL.BACKBONE.NAME: build_resnet_fpn_backbone`` builds; so an
exported file can be checked where detectron2 is not installed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from regionssl.errors import InputError
from regionssl.export.resnets import Shape


class Conv(nn.Conv2d):
    """A convolution with its norm inside, or with a bias."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, norm: bool = True
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=not norm)
        self.norm = nn.BatchNorm2d(outputs) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(super().forward(x))
        return normed


class Block(nn.Module):
    """A residual block; ``stride_in_1x1`` is ``MODEL.RESNETS.STRIDE_IN_1X1``."""

    def __init__(
        self, inputs: int, outputs: int, width: int, shape: Shape, stride: int, stride_in_1x1: bool = False
    ) -> None:
        super().__init__()
        if shape.bottleneck:
            first, second = (stride, 1) if stride_in_1x1 else (1, stride)
            self.conv1 = Conv(inputs, width, 1, first)
            self.conv2 = Conv(width, width, 3, second, shape.groups)
            self.conv3: nn.Module | None = Conv(width, outputs, 1)
        else:
            self.conv1, self.conv2, self.conv3 = Conv(inputs, outputs, 3, stride), Conv(outputs, outputs, 3), None
        self.shortcut = Conv(inputs, outputs, 1, stride) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.conv1(x)))
        if self.conv3 is not None:
            out = self.conv3(F.relu(out))
        return F.relu(out + self.shortcut(x))


class Stem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = Conv(3, 64, 7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.conv1(x)), 3, 2, 1)


class ResNet(nn.Module):
    """Normalised images (N, 3, H, W) -> ``{"res2": (N, C, H/4, W/4), ..., "res5": ...}``."""

    def __init__(self, shape: Shape, stride_in_1x1: bool = False) -> None:
        super().__init__()
        self.stem, inputs = Stem(), 64
        for stage, (blocks, outputs) in enumerate(zip(shape.blocks, shape.channels, strict=True)):
            width, layers = shape.groups * shape.width_per_group * 2**stage, []
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                layers.append(Block(inputs, outputs, width, shape, stride, stride_in_1x1))
                inputs = outputs
            self.add_module(f"res{stage + 2}", nn.Sequential(*layers))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x, maps = self.stem(x), {}
        for name in ("res2", "res3", "res4", "res5"):
            maps[name] = x = self.get_submodule(name)(x)
        return maps


class Pyramid(nn.Module):
    """``bottom_up`` and the pyramid over it: images -> ``{"res2": ..., "res5": ..., "p2": ..., "p5": ...}``."""

    def __init__(self, shape: Shape, width: int = 256, norm: bool = False, stride_in_1x1: bool = False) -> None:
        super().__init__()
        self.bottom_up = ResNet(shape, stride_in_1x1)
        for level, channels in enumerate(shape.channels, start=2):
            self.add_module(f"fpn_lateral{level}", Conv(channels, width, 1, norm=norm))
            self.add_module(f"fpn_output{level}", Conv(width, width, 3, norm=norm))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps, outputs, above = self.bottom_up(x), {}, None
        for level in (5, 4, 3, 2):
            merged = self.get_submodule(f"fpn_lateral{level}")(maps[f"res{level}"])
            if above is not None:
                merged = merged + F.interpolate(above, scale_factor=2.0, mode="nearest")
            outputs[f"p{level}"], above = self.get_submodule(f"fpn_output{level}")(merged), merged
        return maps | outputs


class Detector(nn.Module):
    """``backbone`` of a detector that is fed pixels 0..255 (``MODEL.PIXEL_MEAN``, ``MODEL.PIXEL_STD``)."""

    def __init__(self, backbone: nn.Module, pixel_mean: list[float], pixel_std: list[float]) -> None:
        super().__init__()
        self.backbone, self.pixel_mean, self.pixel_std = backbone, pixel_mean, pixel_std

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (self.pixel_mean, self.pixel_std))
        maps: dict[str, Tensor] = self.backbone((pixels - mean) / std)
        return maps


def matched(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """For each key of the model, the file's key that detectron2 would load (ReSim 6.1).

    A file's key fits if it is the model's, or ends it behind a dot; the longest wins, and the shapes must agree.

    Raises:
        InputError: shapes disagree, or one tensor would go to two places.
    """
    found: dict[str, str] = {}
    for key, value in model.state_dict().items():
        fitting = [name for name in tensors if key == name or key.endswith(f".{name}")]
        if not fitting:
            continue
        name = max(fitting, key=len)
        if tensors[name].shape != value.shape:
            raise InputError(f"{name} has shape {tuple(tensors[name].shape)}, detectron2's {key} {tuple(value.shape)}")
        if name in found.values():
            raise InputError(f"{name} fits more than one tensor of detectron2's model, {key} among them")
        found[key] = name
    return found
