"""One training loop for everything that is a torchvision detector: fixed iterations, equal to the last digit on a CPU.

One process trains on whole batches, several on equal parts of them with synchronised batch norms, which see the same.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from regionssl import counted
from regionssl.backbones.norm import sync_batch_norm
from regionssl.config import Config
from regionssl.counted import Stream
from regionssl.engine.distributed import current_world
from regionssl.engine.log import duration
from regionssl.engine.memory import keep_freed_memory
from regionssl.errors import InputError
from regionssl.evaluation.detection.batches import Batch, TrainingSet, batches
from regionssl.evaluation.saved import SavedTraining

_SECONDS_BETWEEN_LINES = 30.0


class TrainingSettings(Config):
    """How a detector is trained. The defaults are detectron2's for COCO, 1x (ReSim 6.3, SCRL 6.1, PLRC 6.2, ORL 6.5).

    Attributes:
        lr: learning rate at ``batch_size`` images.
        momentum: of SGD.
        weight_decay: of everything but the norms, which have none.
        batch_size: images per iteration.
        iterations: how long; fixed, there is no early stopping.
        warmup: iterations over which the rate grows linearly from ``warmup_start`` times itself.
        drops: when the rate falls to a tenth: iterations, or below 1 shares of ``iterations``.
        clip: largest norm of the gradient over all parameters; None leaves it.
        precise_norm: before scoring, batch norms take plain means of their statistics over this many batches; 0 keeps
            the moving averages.
        precision: "bf16" computes what is safe in bfloat16.
    """

    lr: float = Field(0.02, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    batch_size: int = Field(16, ge=1)
    iterations: int = Field(90_000, ge=1)
    warmup: int = Field(1000, ge=0)
    warmup_start: float = Field(0.001, ge=0, le=1)
    drops: tuple[Annotated[float, Field(gt=0)], ...] = (60_000, 80_000)
    clip: float | None = Field(None, gt=0)
    precise_norm: int = Field(0, ge=0)
    precision: Literal["fp32", "bf16"] = "fp32"


def learning_rate(settings: TrainingSettings, iteration: int) -> float:
    """The rate of an iteration, counted from 0."""
    marks = [drop * settings.iterations if drop < 1 else drop for drop in settings.drops]
    rate = settings.lr * 0.1 ** sum(iteration >= mark for mark in marks)
    if iteration >= settings.warmup:
        return rate
    return rate * (settings.warmup_start + (1 - settings.warmup_start) * iteration / settings.warmup)


def fit(
    model: nn.Module,
    dataset: TrainingSet,
    settings: TrainingSettings,
    seed: int = 0,
    device: torch.device | str = "cpu",
    saved: SavedTraining | None = None,
) -> list[float]:
    """Train a detector in place; it ends on ``device`` and in evaluation mode.

    Images come in permutations of the whole set, counted by (seed, epoch). Torch's generator, from which detectors draw
    their samples of boxes, is set at every iteration, and put back in the end. Every process of a distributed launch
    takes its share of each batch; they draw their boxes independently.

    Args:
        model: in training mode takes lists of images and of targets and returns a dict of losses, to be added.
        saved: where its state is kept, and taken up if it was stopped before.

    Returns:
        The loss of every iteration, the mean over processes.

    Raises:
        InputError: the loss is not finite; the message names the iteration and its images (of this process). Or
            processes cannot share a batch.
    """
    world, device = current_world(), torch.device(device)
    if settings.batch_size % world.size:
        raise InputError(
            f"a batch of {settings.batch_size} cannot be shared by {world.size} processes; change batch_size"
        )
    keep_freed_memory(device)
    sync_batch_norm(model.to(device).to(memory_format=torch.channels_last).train(), world, device)
    optimiser = make_optimiser(model, settings)
    done, losses = saved.go_on(model, optimiser) if saved else (0, [])
    module = DistributedDataParallel(model, broadcast_buffers=False) if world.size > 1 else model
    progress = _Progress(settings.iterations, done, silent=world.rank > 0)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        left = range(done, settings.iterations)
        for iteration, batch in zip(left, batches(dataset, settings.batch_size, left, seed, device), strict=True):
            torch.manual_seed(_draws(seed, iteration))
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(settings, iteration)
            losses.append(_step(module, optimiser, batch, settings, device))
            if not math.isfinite(losses[-1]):
                raise InputError(_not_finite(iteration, [dataset.name(i) for i in batch[0]]))
            progress.say(iteration + 1, losses[-1])
            if saved:
                saved.keep(model, optimiser, iteration + 1, losses, iteration + 1 == settings.iterations)
        if settings.precise_norm:
            _precise_statistics(model, dataset, settings, seed, device)
    model.eval()
    return losses


def _draws(seed: int, iteration: int) -> int:
    """A seed for an iteration's draws of boxes, which are others in each process."""
    rank = current_world().rank
    return counted.integer(seed, Stream.STEP, iteration, *([rank] if rank else []))


def make_optimiser(model: nn.Module, settings: TrainingSettings) -> torch.optim.SGD:
    """SGD over the parameters that train; norms without weight decay."""
    normed: set[nn.Parameter] = set()
    for module in model.modules():
        if isinstance(module, _BatchNorm | nn.GroupNorm | nn.LayerNorm):
            normed |= set(module.parameters(recurse=False))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [one for one in trained if one not in normed], "weight_decay": settings.weight_decay},
        {"params": [one for one in trained if one in normed], "weight_decay": 0.0},
    ]
    return torch.optim.SGD([group for group in groups if group["params"]], settings.lr, settings.momentum)


def _step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    settings: TrainingSettings,
    device: torch.device,
) -> float:
    """One update, unless the loss is not finite; returns the loss, the mean over processes."""
    loss = _loss(model, batch, settings, device)
    value = current_world().mean(loss.detach()).item()
    if math.isfinite(value):
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if settings.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimiser.step()
    return value


def _loss(model: nn.Module, batch: Batch, settings: TrainingSettings, device: torch.device) -> Tensor:
    _, images, targets = batch
    images = [image.to(device, non_blocking=True) for image in images]
    targets = [{key: value.to(device, non_blocking=True) for key, value in target.items()} for target in targets]
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        losses: dict[str, Tensor] = model(images, targets)
    return torch.stack([loss.float() for loss in losses.values()]).sum()


@torch.no_grad()
def _precise_statistics(
    model: nn.Module, dataset: TrainingSet, settings: TrainingSettings, seed: int, device: torch.device
) -> None:
    """Give trained batch norms the plain means of their statistics over batches (Precise-BN; ReSim 6.2)."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    first = range(settings.precise_norm)
    for iteration, batch in zip(first, batches(dataset, settings.batch_size, first, seed, device), strict=True):
        torch.manual_seed(_draws(seed, settings.iterations + iteration))
        _loss(model, batch, settings, device)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _not_finite(iteration: int, names: list[str]) -> str:
    return (
        f"the detector's loss is not finite at iteration {iteration} (images {', '.join(names)}); "
        "lower lr, lengthen warmup or set clip, such as clip=10"
    )


class _Progress:
    """A line now and then on how far training is, on the standard error."""

    def __init__(self, iterations: int, found: int, silent: bool) -> None:
        self.iterations, self.found, self.silent = iterations, found, silent
        self.began = self.said = time.perf_counter()

    def say(self, done: int, loss: float) -> None:
        now = time.perf_counter()
        if now - self.said > _SECONDS_BETWEEN_LINES and not self.silent:
            self.said = now
            left = duration((now - self.began) / (done - self.found) * (self.iterations - done))
            print(f"training: {done:,}/{self.iterations:,}  loss {loss:.3f}  left {left}", file=sys.stderr, flush=True)
