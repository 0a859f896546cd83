"""The slow copy of a network that the MoCo and BYOL families learn from."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def frozen_copy(module: M) -> M:
    """A copy of ``module`` whose parameters take no gradient."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def moving_average(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """``target <- momentum * target + (1 - momentum) * online``, parameters only, never buffers.

    ``online`` may have further parameters (a predictor) that ``target`` lacks.
    """
    source = dict(online.named_parameters())
    names, slow = zip(*target.named_parameters(), strict=True)
    torch._foreach_lerp_(list(slow), [source[name] for name in names], 1 - momentum)


def rising_momentum(base: float, step: int, total_steps: int) -> float:
    """BYOL's momentum, a half cosine from ``base`` at step 0 towards 1 (SCRL section 4, ORL section 2.4)."""
    return 1 - (1 - base) * (1 + math.cos(math.pi * step / total_steps)) / 2
