"""Denser maps from a strided backbone, with the same weights."""

from __future__ import annotations

from timm.models.resnet import ResNet
from torch import nn

from regionssl.backbones.encoder import Encoder
from regionssl.errors import InputError

_STAGES = {"layer3": 16, "layer4": 32}  # and the stride of their maps


def dilate(encoder: Encoder, output_stride: int) -> None:
    """Make a ResNet's last maps have ``output_stride`` (8, 16 or 32), in place: strides become dilations.

    The convolution that loses its stride keeps its own dilation, those after it take twice that (R2O, section 7.1:
    dilations 1, 1, 1, 2 with a contracted first block). So each map holds the values of the strided network at every
    second place, and the weights keep their meaning.

    Raises:
        InputError: the backbone is no ResNet, or shrinks its maps by something else than convolutions.
    """
    stages = [name for name, stride in _STAGES.items() if stride > output_stride]
    if not stages:
        return
    body = encoder.body
    if not isinstance(body, ResNet) or any(_pools(getattr(body, name)) for name in stages):
        raise InputError(
            f"maps of {encoder.name} cannot be brought to stride {output_stride}: only ResNets that shrink by "
            "convolutions can; set output_stride to 32, or choose a backbone such as resnet50"
        )
    before = 1
    for name in stages:
        for number, block in enumerate(getattr(body, name)):
            _dilate_block(block, before if number == 0 else 2 * before, 2 * before)
        before *= 2


def _pools(stage: nn.Module) -> bool:
    """Whether something that is no convolution has a stride."""
    leaves = [module for module in stage.modules() if not list(module.children()) and not isinstance(module, nn.Conv2d)]
    return any(getattr(leaf, "stride", 1) not in (1, (1, 1)) for leaf in leaves)


def _dilate_block(block: nn.Module, first: int, then: int) -> None:
    """Dilation ``first`` up to and with the convolution that has a stride, which it loses, and ``then`` after it."""
    dilation = first
    for name, module in block.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        shortcut, strided = name.startswith("downsample"), module.stride != (1, 1)
        chosen = first if shortcut else dilation
        module.stride = (1, 1)
        module.dilation = (chosen, chosen)
        module.padding = tuple(chosen * (extent // 2) for extent in module.kernel_size)
        if strided and not shortcut:
            dilation = then
