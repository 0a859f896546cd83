"""Optimisers: SGD and AdamW from torch, LARS in the forms of SCRL and R2O, and which parameters are treated apart."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from regionssl.config import Config

_STEM_NORM = re.compile(r"(^|\.)body\.bn1\.weight$")
_BLOCK_NORM = re.compile(r"\.\d+\.bn\d+\.weight$")


class OptimiserConfig(Config):
    """Which optimiser, and with what.

    Attributes:
        lr: peak learning rate at ``reference_batch`` images per step.
        reference_batch: global batch that ``lr`` is for; None takes ``lr`` as given, whatever the batch.
        scale: how the rate grows with the global batch over ``reference_batch``.
        momentum: of SGD and LARS; neither Nesterov nor dampening.
        exclude: parameters without weight decay, for LARS without trust ratio too. "one_dimensional": norms and biases.
            "scrl_release": biases, and scales of the norms inside residual blocks (SCRL, section 5.2).
            "r2o_release": norms and biases but the scale of the stem's norm (R2O, section 6, quirk Q9).
        excluded_lr_power: LARS: the excluded parameters' effective rate is the rate to this power; 2 is SCRL's release
            (section 7, Q3), 1 is the textbook.
        trust, eps: LARS: trust coefficient, and what is added to its denominator.
        lr_inside_momentum: LARS: R2O's form instead of SCRL's, see :class:`Lars`.
        betas: of AdamW.
    """

    name: Literal["sgd", "lars", "adamw"] = "sgd"
    lr: float = Field(gt=0)
    reference_batch: int | None = Field(256, ge=1)
    scale: Literal["linear", "sqrt"] = "linear"
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    exclude: Literal["none", "one_dimensional", "scrl_release", "r2o_release"] = "none"
    excluded_lr_power: Literal[1, 2] = 1
    trust: float = Field(0.001, gt=0)
    eps: float = Field(1e-8, ge=0)
    lr_inside_momentum: bool = False
    betas: tuple[float, float] = (0.9, 0.999)

    @model_validator(mode="after")
    def _lars_only(self) -> OptimiserConfig:
        if self.name != "lars" and (self.excluded_lr_power != 1 or self.lr_inside_momentum):
            raise ValueError(f"excluded_lr_power and lr_inside_momentum belong to lars, but the name is {self.name}")
        return self


def peak_learning_rate(config: OptimiserConfig, batch_size: int) -> float:
    """The learning rate for ``batch_size`` images per step, over all processes."""
    if config.reference_batch is None:
        return config.lr
    growth = batch_size / config.reference_batch
    return config.lr * (growth if config.scale == "linear" else math.sqrt(growth))


def make_optimiser(
    config: OptimiserConfig, named_parameters: Iterable[tuple[str, nn.Parameter]], batch_size: int
) -> Optimizer:
    """The optimiser of the trained parameters, at its peak learning rate.

    The rate of a step is set as ``group["lr"]``, the same for all groups.

    Args:
        named_parameters: those that take no gradient are left out.
        batch_size: images per step, over all processes.
    """
    adapted: list[Tensor] = []
    excluded: list[Tensor] = []
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            (excluded if is_excluded(config.exclude, name, parameter) else adapted).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": adapted, "weight_decay": config.weight_decay},
        {"params": excluded, "weight_decay": 0.0},
    ]
    peak = peak_learning_rate(config, batch_size)
    if config.name == "sgd":
        return SGD([group for group in groups if group["params"]], lr=peak, momentum=config.momentum)
    if config.name == "adamw":
        return AdamW([group for group in groups if group["params"]], lr=peak, betas=config.betas)
    groups[1] |= {"adapt": False, "lr_power": config.excluded_lr_power}
    return Lars(
        [group for group in groups if group["params"]],
        lr=peak,
        momentum=config.momentum,
        trust=config.trust,
        eps=config.eps,
        lr_inside_momentum=config.lr_inside_momentum,
    )


def is_excluded(rule: str, name: str, parameter: Tensor) -> bool:
    """Whether ``OptimiserConfig.exclude`` sets a parameter apart.

    The release of SCRL goes by its own names, in which the norms of the stem, of the downsamplings and of the heads are
    not recognised as such; so they are not excluded here either (SCRL, section 7, Q4). The release of R2O numbers the
    layers of its encoder, and so fails to recognise the norm of a ResNet's stem alone.
    """
    if rule == "one_dimensional":
        return parameter.ndim <= 1
    if rule == "scrl_release":
        return name.endswith("bias") or _BLOCK_NORM.search(name) is not None
    if rule == "r2o_release":
        return parameter.ndim <= 1 and _STEM_NORM.search(name) is None
    return False


class Lars(Optimizer):
    """SGD with momentum whose step is rescaled per tensor (SCRL, section 5.2).

    For an adapted tensor p with gradient g, ``u = k (g + wd p)`` with ``k = trust |p| / (|g| + wd |p| + eps)``, or
    k = 1 when p or g is zero; for another one ``u = lr**(lr_power - 1) (g + wd p)``. Then ``buf = momentum buf + u``
    and ``p = p - lr buf``.

    With ``lr_inside_momentum`` (R2O, section 6) the rate enters the buffer, ``buf = momentum buf + lr u`` and
    ``p = p - buf``, and k = 1 only when p or the denominator is zero.

    With ``nesterov``, ``u + momentum buf`` takes the place of ``buf`` in the last line, as in torch's SGD.

    Per group: ``lr``, ``weight_decay``, ``adapt``, ``lr_power``. Nothing here waits for the device.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
        eps: float = 1e-8,
        lr_inside_momentum: bool = False,
        nesterov: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust": trust,
            "eps": eps,
            "lr_inside_momentum": lr_inside_momentum,
            "nesterov": nesterov,
            "adapt": True,
            "lr_power": 1,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(group, params, [p.grad for p in params])
        return loss

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        lr = group["lr"]
        updates = torch._foreach_add(grads, params, alpha=group["weight_decay"])
        if group["adapt"]:
            updates = torch._foreach_mul(updates, _trust_ratios(group, params, grads))
        elif group["lr_power"] != 1:
            torch._foreach_mul_(updates, lr ** (group["lr_power"] - 1))
        if group["lr_inside_momentum"]:
            torch._foreach_mul_(updates, lr)
        buffers = [self._buffer(p) for p in params]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, updates)
        steps = torch._foreach_add(updates, buffers, alpha=group["momentum"]) if group["nesterov"] else buffers
        torch._foreach_add_(params, steps, alpha=-1.0 if group["lr_inside_momentum"] else -lr)

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def _trust_ratios(group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    """The factor k of each tensor, a scalar on its device."""
    sizes = torch.stack(torch._foreach_norm(params))
    slopes = torch.stack(torch._foreach_norm(grads))
    denominators = slopes + group["weight_decay"] * sizes + group["eps"]
    needed = denominators if group["lr_inside_momentum"] else slopes
    ratios = torch.where((sizes > 0) & (needed > 0), group["trust"] * sizes / denominators, torch.ones_like(sizes))
    return list(ratios.unbind())
