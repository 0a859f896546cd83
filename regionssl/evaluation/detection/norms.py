"""Norms of detectors: trained on the batch, frozen, or of groups of channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeVar, cast

from timm.utils.model import freeze_batch_norm_2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from regionssl.errors import InputError

NormLayer = Callable[[int], nn.Module]
Norm = Literal["batch", "frozen", "group"]
HeadNorm = Literal["none", "batch", "group"]

_GROUPS = 32

# What freeze_at counts, in ResNets: the stem, then the stages of c2, c3, c4, c5.
_STAGES = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))

M = TypeVar("M", bound=nn.Module)


def norm_layer(norm: HeadNorm) -> NormLayer | None:
    """What makes a norm for a number of channels, as torchvision's blocks take it."""
    makers: dict[HeadNorm, NormLayer | None] = {"none": None, "batch": nn.BatchNorm2d, "group": group_norm}
    return makers[norm]


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm of 32 groups, or as many as divide the channels."""
    return nn.GroupNorm(math.gcd(_GROUPS, channels), channels)


def renormed(module: M, norm: Norm) -> M:
    """``module`` with its batch norms as they are ("batch"), frozen, or replaced by group norms of equal weights.

    Frozen ones keep statistics and weights for ever. Modules without batch norm stay as they are.
    """
    if norm == "frozen":
        return cast(M, freeze_batch_norm_2d(module))
    return cast(M, _grouped(module)) if norm == "group" else module


def _grouped(module: nn.Module) -> nn.Module:
    if isinstance(module, _BatchNorm):
        replacement = group_norm(module.num_features)
        replacement.weight, replacement.bias = module.weight, module.bias
        act = getattr(module, "act", None)  # of timm's norms with an activation
        return replacement if act is None else nn.Sequential(replacement, act)
    for name, child in module.named_children():
        module.add_module(name, _grouped(child))
    return module


def freeze(body: nn.Module, name: str, freeze_at: int) -> None:
    """Freeze the first parts of a ResNet in place: 1 the stem, 2 also the stage of c2, and so on, with their norms.

    Raises:
        InputError: ``freeze_at`` is not 0 and the backbone is not a ResNet.
    """
    if freeze_at and not is_resnet(body):
        raise InputError(f"freeze_at={freeze_at} counts the stages of ResNets, and {name} is none; set freeze_at=0")
    for part in (part for parts in _STAGES[:freeze_at] for part in parts):
        if hasattr(body, part):
            stage = freeze_batch_norm_2d(getattr(body, part))
            body.add_module(part, stage.requires_grad_(False))


def is_resnet(body: nn.Module) -> bool:
    """Whether a timm model has the stem and stages of a ResNet."""
    return all(hasattr(body, part) for part in ("conv1", "bn1", "layer1", "layer2", "layer3"))
