"""Whose batch statistics a batch norm uses: those of all processes, or those of groups within one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

M = TypeVar("M", bound=nn.Module)


class ProcessCount(Protocol):
    """Anything that knows the number of processes."""

    size: int


def sync_batch_norm(module: M, world: ProcessCount, device: torch.device | str) -> M:
    """Make every batch norm in ``module`` normalise over all processes; each may bring any number of rows, also none.

    Children are replaced in place; state-dict keys and parameters stay the same. On CUDA these are torch's own layers,
    which refuse the CPU; there :class:`SyncBatchNorm` takes their place. With one process nothing changes.

    Args:
        device: where the module will run.

    Returns:
        ``module``, or its replacement if it is a batch norm itself.
    """
    if world.size == 1:
        return module
    if torch.device(device).type == "cuda":
        return cast(M, convert_sync_batchnorm(module))
    return cast(M, _converted(module))


def _converted(module: nn.Module) -> nn.Module:
    if isinstance(module, _BatchNorm):
        return SyncBatchNorm(module)
    for name, child in module.named_children():
        module.add_module(name, _converted(child))
    return module


class SyncBatchNorm(_BatchNorm):
    """Batch norm over the rows of all processes of the default group, on any device.

    Takes over parameters, buffers and, from timm's layers, the activation of ``norm``. The gradient flows through the
    statistics of all processes; that of weight and bias is this process's share.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers(recurse=False):
            setattr(self, name, buffer)
        self.drop, self.act = getattr(norm, "drop", nn.Identity()), getattr(norm, "act", nn.Identity())
        self.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        """(n, C, ...) -> same shape and dtype; half precision is computed in float32."""
        self._check_input_dim(input)
        if self.training or self.running_mean is None or self.running_var is None:
            output = self._normalise(input)
        else:
            output = F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0, self.eps
            )
        return cast(Tensor, self.act(self.drop(output)))

    def _normalise(self, input: Tensor) -> Tensor:
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        axes = [0, *range(2, x.dim())]
        per_channel = (1, -1, *[1] * (x.dim() - 2))
        count = x.new_tensor(x.numel() // x.shape[1], dtype=torch.float64)
        dist.all_reduce(count)
        rows = count.clamp(min=1).to(x.dtype)
        mean = _total(x.sum(axes)) / rows
        centred = x - mean.view(per_channel)
        variance = _total(centred.square().sum(axes)) / rows
        if self.training and self.track_running_stats and count > 0:
            self._track(mean.detach(), variance.detach() * rows / (rows - 1).clamp(min=1))
        output = centred * (variance + self.eps).rsqrt().view(per_channel)
        if self.affine:
            output = output * self.weight.view(per_channel) + self.bias.view(per_channel)
        return output.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
        self.running_var.lerp_(variance.to(self.running_var.dtype), factor)


def _total(tensor: Tensor) -> Tensor:
    """Sum over processes, through which gradients flow."""
    return cast(Tensor, all_reduce(tensor))


def grouped_forward(
    module: nn.Module,
    x: Tensor | tuple[Tensor, ...],
    groups: int,
    forward: Callable[..., Any] | None = None,
    rowwise: bool = False,
) -> Any:
    """Run ``module`` on ``groups`` equal consecutive parts of a batch, each with batch statistics of its own.

    Emulates a process per group (ReSim specification, 4.5). Running statistics move once, by the mean over groups:
    ``running <- (1 - m) running + m mean_g statistics_g``, so G groups in one process equal two processes of G/2 groups
    whose running statistics are averaged. ``num_batches_tracked`` counts every group.

    Args:
        x: the input (N, ...), or a tuple of inputs with equal N.
        groups: a divisor of N.
        forward: what to call instead of ``module``, such as one of its methods.
        rowwise: nothing but the batch norms looks at more than one row of the batch, and each of them sees equally many
            rows of every image, image by image. Then the parts go through together, and apart in the batch norms only.

    Returns:
        The outputs of the parts, concatenated: a tensor, or a tuple or dict of tensors.
    """
    inputs = x if isinstance(x, tuple) else (x,)
    call = forward or module
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.training]
    if groups == 1 or not norms:
        return call(*inputs)
    if len(inputs[0]) % groups:
        raise ValueError(f"{len(inputs[0])} rows cannot be cut into {groups} equal groups")
    if rowwise:
        with _norms_in_groups(norms, groups):
            return call(*inputs)
    momenta = [norm.momentum for norm in norms]
    outputs = []
    try:
        for group, part in enumerate(zip(*(tensor.chunk(groups) for tensor in inputs), strict=True), start=1):
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = _group_momentum(momentum, group, groups)
            outputs.append(call(*part))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return _concatenated(outputs)


@contextmanager
def _norms_in_groups(norms: list[_BatchNorm], groups: int) -> Iterator[None]:
    """For a while, every norm runs once for each of ``groups`` equal consecutive parts of its rows."""
    try:
        for norm in norms:
            norm.forward = partial(grouped_forward, norm, groups=groups, forward=norm.forward)  # type: ignore[method-assign]
        yield
    finally:
        for norm in norms:
            norm.__dict__.pop("forward", None)


def _group_momentum(momentum: float | None, group: int, groups: int) -> float | None:
    """Momentum of the ``group``-th of ``groups`` updates, such that all of them together weigh the groups equally."""
    if momentum is None:  # a cumulative average weighs them equally by itself
        return None
    return (momentum / groups) / (1 - momentum + momentum * group / groups)


def _concatenated(outputs: list[Any]) -> Any:
    first = outputs[0]
    if isinstance(first, dict):
        return {name: torch.cat([output[name] for output in outputs]) for name in first}
    if isinstance(first, tuple):
        return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))
    return torch.cat(outputs)
