"""Colours: drawn per sample on the CPU, applied to whole batches on any device.

The draws are counted (see :mod:`regionssl.counted`), so a batch looks the same wherever it is coloured. An operator
touches the images alone that it was drawn for; which those are is known on the CPU, so the device is never waited for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from regionssl.config import Config
from regionssl.data import colour_operators as ops
from regionssl.errors import InputError

Operation = Literal["jitter", "grey", "blur", "solarise"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

REDUCTIONS = (1.1, 1.2, 1.5)
"""By how much SCRL's resize blur reduces the sides (SCRL section 2.1); drawn uniformly."""


class ColourPolicy(Config):
    """What may happen to the colours of a view, and in which order.

    Attributes:
        order: the operations in the order of application; one that is not listed never happens.
        jitter: probability of the four jitters (brightness, contrast, saturation, hue), applied in random order.
        brightness, contrast, saturation: factors are drawn from U[1 - x, 1 + x].
        hue: the shift is drawn from U[-x, x], in turns.
        grey: probability of losing the colours.
        blur: probability of blurring.
        blur_kind: "gaussian", or "resize" (SCRL: bicubic down to size / 1.1, 1.2 or 1.5 and up again).
        sigma: range of the standard deviation of the Gaussian, pixels; above 0.
        solarise: probability of inverting the values at or above one half.
    """

    order: tuple[Operation, ...] = ("jitter", "grey", "blur", "solarise")
    jitter: float = Field(0.8, ge=0, le=1)
    brightness: float = Field(0.4, ge=0, le=1)
    contrast: float = Field(0.4, ge=0, le=1)
    saturation: float = Field(0.4, ge=0, le=1)
    hue: float = Field(0.1, ge=0, le=0.5)
    grey: float = Field(0.2, ge=0, le=1)
    blur: float = Field(0.5, ge=0, le=1)
    blur_kind: Literal["gaussian", "resize"] = "gaussian"
    sigma: tuple[float, float] = (0.1, 2.0)
    solarise: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if len(set(self.order)) < len(self.order):
            raise ValueError(f"each operation happens at most once, but the order is {', '.join(self.order)}")
        if not 0 < self.sigma[0] <= self.sigma[1] < math.inf:
            raise ValueError(f"sigma must be a range of positive pixels, low then high, got {self.sigma}")
        return self


MOCO_V2 = ColourPolicy()
"""MoCo v2, both views; PLRC section 2.1 states the same. The defaults."""

RESIM = ColourPolicy(order=("blur", "jitter", "grey"))
"""ReSim section 2.1: MoCo v2 with the blur first."""

BYOL_FIRST = ColourPolicy(saturation=0.2, blur=1.0)
"""BYOL, first view: ORL section 2.1, R2O section 2.2."""

BYOL_SECOND = ColourPolicy(saturation=0.2, blur=0.1, solarise=0.2)
"""BYOL, second view: ORL section 2.1, R2O section 2.2."""

SCRL_FIRST = ColourPolicy(saturation=0.2, blur=1.0, blur_kind="resize")
"""SCRL section 2.1, first view: BYOL with the resize blur."""

SCRL_SECOND = ColourPolicy(saturation=0.2, blur=0.1, blur_kind="resize", solarise=0.2)
"""SCRL section 2.1, second view: BYOL with the resize blur."""


@dataclass(frozen=True)
class ColourDraws:
    """The photometric parameters of one view of N images, on the CPU.

    Attributes:
        jitter: (N,) bool, whether to jitter.
        factors: (N, 4) float32, brightness, contrast and saturation factors and hue shift (turns).
        order: (N, 4) int64, permutation of the four jitters: order[n, 0] is applied first.
        grey: (N,) bool.
        blur: (N,) float32; 0 means none. Gaussian: standard deviation, pixels. Resize: the reduction, 1.1, 1.2 or 1.5.
        solarise: (N,) bool.
    """

    jitter: Tensor
    factors: Tensor
    order: Tensor
    grey: Tensor
    blur: Tensor
    solarise: Tensor

    def __len__(self) -> int:
        return len(self.jitter)

    def __getitem__(self, rows: slice) -> ColourDraws:
        return ColourDraws(
            self.jitter[rows],
            self.factors[rows],
            self.order[rows],
            self.grey[rows],
            self.blur[rows],
            self.solarise[rows],
        )


def draw(policy: ColourPolicy, rng: np.random.Generator) -> ColourDraws:
    """The draws of one image (N = 1); consumes thirteen uniform numbers whatever the policy says."""
    uniform = rng.random(13).tolist()
    jitter, factors, order, (grey, blur, amount, solarise) = uniform[0], uniform[1:5], uniform[5:9], uniform[9:]
    spread = (policy.brightness, policy.contrast, policy.saturation, policy.hue)
    centre = (1.0, 1.0, 1.0, 0.0)
    if policy.blur_kind == "gaussian":
        strength = policy.sigma[0] + (policy.sigma[1] - policy.sigma[0]) * amount
    else:
        strength = REDUCTIONS[int(amount * len(REDUCTIONS))]
    levels = [c + x * (2 * u - 1) for c, x, u in zip(centre, spread, factors, strict=True)]
    # from_numpy: torch.tensor takes twice the time, and this runs for every view in the loader's workers.
    return ColourDraws(
        jitter=torch.from_numpy(np.array([jitter < policy.jitter])),
        factors=torch.from_numpy(np.array([levels], np.float32)),
        order=torch.from_numpy(np.array([sorted(range(4), key=order.__getitem__)], np.int64)),
        grey=torch.from_numpy(np.array([grey < policy.grey])),
        blur=torch.from_numpy(np.array([strength if blur < policy.blur else 0.0], np.float32)),
        solarise=torch.from_numpy(np.array([solarise < policy.solarise])),
    )


def stack(draws: list[ColourDraws]) -> ColourDraws:
    """The draws of several images as one batch."""
    return ColourDraws(
        torch.cat([one.jitter for one in draws]),
        torch.cat([one.factors for one in draws]),
        torch.cat([one.order for one in draws]),
        torch.cat([one.grey for one in draws]),
        torch.cat([one.blur for one in draws]),
        torch.cat([one.solarise for one in draws]),
    )


def apply(images: Tensor, draws: ColourDraws, policy: ColourPolicy) -> Tensor:
    """Colour and normalise one view of a batch of images, on the device of ``images``.

    Args:
        images, draws: as :func:`recolour` takes them.

    Returns:
        (N, 3, H, W) float32, normalised by the ImageNet mean and standard deviation, in the memory format of
        ``images``.

    Raises:
        InputError: as :func:`recolour`.
    """
    return normalise(recolour(images, draws, policy))


def recolour(images: Tensor, draws: ColourDraws, policy: ColourPolicy) -> Tensor:
    """Colour one view of a batch of images, on the device of ``images``.

    Args:
        images: (N, 3, H, W) uint8, sides of at least 8 pixels.
        draws: what to do to each of the N images; stays on the CPU.

    Returns:
        (N, 3, H, W) float32, values in 0..1, in the memory format of ``images``.

    Raises:
        InputError: the images are not uint8 (N, 3, H, W), or not as many as the draws.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or len(images) != len(draws):
        raise InputError(
            f"colours need uint8 images of shape ({len(draws)}, 3, H, W), one for each draw; "
            f"got {images.dtype} of shape {tuple(images.shape)}"
        )
    pixels = images.float().div_(255)
    for operation in policy.order:
        if operation == "jitter":
            _jitter(pixels, draws)
        elif operation == "grey":
            _replace(pixels, draws.grey, ops.grey)
        elif operation == "blur":
            _blur(pixels, draws.blur, policy)
        else:
            _replace(pixels, draws.solarise, ops.solarise)
    return pixels


def normalise(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) with values in 0..1, minus the ImageNet mean, divided by the standard deviation."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device, dtype=images.dtype).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=images.device, dtype=images.dtype).view(3, 1, 1)
    return (images - mean).div_(std)


_JITTERS = (ops.brightness, ops.contrast, ops.saturation, ops.hue)


def _jitter(pixels: Tensor, draws: ColourDraws) -> None:
    """The four jitters in place: for each of the four turns, the images are grouped by the operator that comes then."""
    jittered = draws.jitter.nonzero().flatten()
    order = draws.order[jittered]
    counts = [torch.bincount(turn, minlength=4).tolist() for turn in order.T]
    rows = jittered[order.T.argsort(dim=1)].to(pixels.device, non_blocking=True)
    factors = draws.factors.to(pixels.device, non_blocking=True)
    for turn in range(4):
        for k, (operator, chosen) in enumerate(zip(_JITTERS, rows[turn].split_with_sizes(counts[turn]), strict=True)):
            if len(chosen):
                pixels.index_copy_(0, chosen, operator(pixels[chosen], factors[chosen, k]))


def _blur(pixels: Tensor, strength: Tensor, policy: ColourPolicy) -> None:
    """The blur of the policy in place. The Gaussian's kernel is cut off at four times the policy's largest sigma."""
    if policy.blur_kind == "gaussian":
        radius = math.ceil(4 * policy.sigma[1])
        sigma = strength[strength > 0].to(pixels.device, non_blocking=True)
        _replace(pixels, strength > 0, lambda images: ops.gaussian_blur(images, sigma, radius))
    else:
        for reduction in REDUCTIONS:
            _replace(pixels, strength == reduction, partial(ops.resize_blur, reduction=reduction))


def _replace(pixels: Tensor, chosen: Tensor, operator: Callable[[Tensor], Tensor]) -> None:
    """Apply an operator in place to the images chosen by a mask (N,) on the CPU."""
    rows = chosen.nonzero().flatten()
    if len(rows):
        rows = rows.to(pixels.device, non_blocking=True)
        pixels.index_copy_(0, rows, operator(pixels[rows]))
