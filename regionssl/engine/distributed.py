"""Several processes as one: gathering, averaging, and keeping batch statistics equal."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from regionssl.methods.base import World


class Processes(World):
    """The processes of the default group of ``torch.distributed``."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    @torch.no_grad()
    def gather(self, tensor: Tensor) -> Tensor:
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor)
        return torch.cat(parts)

    @torch.no_grad()
    def exchange(self, tensor: Tensor, order: Tensor) -> Tensor:
        local = len(tensor)
        wanted = order.view(self.size, local)
        senders = wanted // local
        sent = [row[row // local == self.rank] - self.rank * local for row in wanted]
        counts = torch.bincount(senders[self.rank], minlength=self.size).tolist()
        outgoing = tensor[torch.cat(sent).to(tensor.device, non_blocking=True)].contiguous()
        received = torch.empty_like(outgoing)
        dist.all_to_all_single(received, outgoing, counts, [len(rows) for rows in sent])
        places = senders[self.rank].argsort(stable=True).argsort()
        return received[places.to(tensor.device, non_blocking=True)]

    @torch.no_grad()
    def mean(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total / self.size


def current_world() -> World:
    """The processes that were launched together, or the single process."""
    return Processes() if dist.is_initialized() and dist.get_world_size() > 1 else World()


@torch.no_grad()
def average_running_statistics(module: nn.Module, world: World) -> None:
    """Set the running mean and variance of every batch norm to their mean over processes.

    Grouped batch norm updates them by the mean over groups, so this makes any number of processes equal to one.
    """
    if world.size == 1:
        return
    buffers = [
        buffer
        for norm in module.modules()
        if isinstance(norm, _BatchNorm)
        for buffer in (norm.running_mean, norm.running_var)
        if buffer is not None
    ]
    if not buffers:
        return
    mean = world.mean(torch.cat([buffer.flatten() for buffer in buffers]))
    for buffer, part in zip(buffers, mean.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))


def process_rank() -> int:
    """The global rank that a launcher has given this process, before torch.distributed is up."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", os.environ.get("LOCAL_RANK", 0))))
