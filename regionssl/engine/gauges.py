"""What the engine measures of a step for the run's health: the views, the gradient, and how the networks move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regionssl.engine.log import HEALTH
from regionssl.methods.base import Method, Terms

Parameters = list[Tensor]


@torch.no_grad()
def view_gauges(views: Sequence[Tensor]) -> Terms:
    """Mean and standard deviation of normalised views (N, 3, S, S) per channel, over all views, and their extremes."""
    variances, means = zip(*(torch.var_mean(view.float(), (0, 2, 3)) for view in views), strict=True)
    lows, highs = zip(*(torch.aminmax(view) for view in views), strict=True)
    mean = torch.stack(means).mean(0)
    # of all pixels together: within views and between them
    std = (torch.stack(variances).mean(0) + torch.stack(means).var(0, unbiased=False)).sqrt()
    gauges = {f"{HEALTH}view_mean_{name}": value for name, value in zip("rgb", mean.unbind(), strict=True)}
    gauges |= {f"{HEALTH}view_std_{name}": value for name, value in zip("rgb", std.unbind(), strict=True)}
    gauges[f"{HEALTH}view_min"] = torch.stack(lows).amin().float()
    gauges[f"{HEALTH}view_max"] = torch.stack(highs).amax().float()
    return gauges


class MotionGauge:
    """Watches one optimiser step: made after the last backward pass, read after the method's ``after_step``.

    It holds a copy of the parameters in between, when the memory of the activations is free again.

    Args:
        scale: that the gradients are multiplied by, of fp16 training.
    """

    @torch.no_grad()
    def __init__(self, method: Method, scale: float = 1.0) -> None:
        self.trained: Parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
        self.slow, self.followed = _paired_parameters(method.slow_pairs())
        self.trained_before: Parameters = [parameter.clone() for parameter in self.trained]
        self.slow_before = [parameter.clone() for parameter in self.slow]
        gradients = [parameter.grad for parameter in self.trained if parameter.grad is not None]
        self.gradient = _norm(gradients) / scale

    @torch.no_grad()
    def read(self) -> Terms:
        """Norms of the gradient and, relative to the weights, of the update; how the slow networks follow.

        ``slow_distance`` is their distance from the trained ones over the norm of those, ``slow_pull`` the share of the
        distance that this step closed: 1 - m for a moving average of momentum m.
        """
        weights = _norm(self.trained_before)
        update = _norm(torch._foreach_sub(self.trained, self.trained_before))
        gauges = {"gradient": self.gradient, "update": update / weights.clamp(min=1e-12)}
        if self.slow:
            distance = _norm(torch._foreach_sub(self.followed, self.slow))
            moved = _norm(torch._foreach_sub(self.slow, self.slow_before))
            gauges["slow_distance"] = distance / _norm(self.followed).clamp(min=1e-12)
            gauges["slow_pull"] = moved / (moved + distance).clamp(min=1e-30)
        return {f"{HEALTH}{name}": value for name, value in gauges.items()}


def gradient_scale(precision: Any) -> float:
    """What Fabric's precision plugin has multiplied the gradients by."""
    scaler = getattr(precision, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())


def _paired_parameters(pairs: Sequence[tuple[nn.Module, nn.Module]]) -> tuple[Parameters, Parameters]:
    """Parameters of the slow networks, and those that each follows."""
    slow: Parameters = []
    followed: Parameters = []
    for network, trained in pairs:
        names = dict(trained.named_parameters())
        for name, parameter in network.named_parameters():
            slow.append(parameter)
            followed.append(names[name])
    return slow, followed


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of all elements of tensors together; 0 of none."""
    return torch.stack(torch._foreach_norm(list(tensors))).norm() if tensors else torch.zeros(())
