"""Training on whole images with classes: linear layers on a frozen backbone, or all of it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader

from regionssl.counted import Stream, integer
from regionssl.engine.optim import Lars
from regionssl.errors import InputError
from regionssl.evaluation.classification.pictures import Batch, TrainingBatches, TrainingCut
from regionssl.evaluation.inputs import standardise
from regionssl.evaluation.saved import SavedTraining
from regionssl.evaluation.start import Start
from regionssl.labels.sets import ClassSet

_BETWEEN_CHECKS = 50  # iterations


class TrainingSettings(TrainingCut):
    """A fixed number of iterations of SGD or LARS.

    Attributes:
        optimiser: "lars" adapts the rate of weights and biases alike (SCRL 5.4).
        lr: peak learning rate at ``batch_size``.
        schedule: a half cosine to 0, or ``drop_factor`` at each of ``drops``.
        drops: shares of the run.
        warmup: iterations of linear warm-up; the cosine begins after it.
        precision: of forward passes; weights stay fp32.
    """

    optimiser: Literal["sgd", "lars"] = "sgd"
    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(1e-4, ge=0)
    batch_size: int = Field(256, ge=2)
    iterations: int = Field(1000, ge=1)
    schedule: Literal["steps", "cosine"] = "steps"
    drops: tuple[float, ...] = ()
    drop_factor: float = Field(0.1, gt=0, le=1)
    warmup: int = Field(0, ge=0)
    precision: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not all(0 < drop < 1 for drop in self.drops):
            raise ValueError(f"drops are shares of the run between 0 and 1, not iterations: {self.drops}")
        if self.drops and self.schedule == "cosine":
            raise ValueError("a cosine has no drops; leave them out or set schedule: steps")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum")
        return self

    def rate(self, step: int) -> float:
        """The learning rate of a step; ``step`` steps were done before it."""
        number = step + 1
        if number <= self.warmup:
            return self.lr * number / self.warmup
        if self.schedule == "cosine":
            share = (number - self.warmup) / (self.iterations - self.warmup)
            return self.lr * (1 + math.cos(math.pi * share)) / 2
        return self.lr * self.drop_factor ** sum(step >= round(drop * self.iterations) for drop in self.drops)

    def make_optimiser(self, groups: list[tuple[list[nn.Parameter], float]]) -> Optimizer:
        """The optimiser of groups of parameters, each with a factor of its learning rate."""
        named = [{"params": parameters, "factor": factor} for parameters, factor in groups]
        if self.optimiser == "lars":
            return Lars(named, self.lr, self.momentum, self.weight_decay, nesterov=self.nesterov)
        return SGD(named, self.lr, self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov)

    def train(
        self,
        network: nn.Module,
        optimiser: Optimizer,
        labelled: ClassSet,
        exclusive: bool,
        start: Start,
        seed: int,
        device: str,
        saved: SavedTraining | None = None,
    ) -> None:
        """Train the optimiser's parameters on the sum of the losses of all that ``network`` gives for images.

        Images, their order and what happens to them are functions of (seed, epoch, image).

        Args:
            saved: where its state is kept, and taken up if it was stopped before.

        Raises:
            InputError: an image that cannot be read, or a loss that is not finite.
        """
        targets = torch.from_numpy(labelled.truth).to(device)
        with torch.random.fork_rng(devices=[device] if torch.device(device).type == "cuda" else []):
            done, _ = saved.go_on(network, optimiser) if saved else (0, [])
            for step, batch in enumerate(self._batches(labelled, seed, done), done):
                torch.manual_seed(integer(seed, Stream.STEP, step))
                for group in optimiser.param_groups:
                    group["lr"] = self.rate(step) * group["factor"]
                inputs = standardise(self.colour(batch.to(device)), start.mean, start.std)
                truth = targets[batch.rows.to(device)]
                optimiser.zero_grad()
                loss = self._loss(network, inputs, truth, exclusive)
                loss.backward()
                optimiser.step()
                if (step % _BETWEEN_CHECKS == 0 or step == self.iterations - 1) and not bool(loss.isfinite()):
                    raise InputError(f"the loss is {loss.item()} at iteration {step} with lr {self.lr}; lower lr")
                if saved:
                    saved.keep(network, optimiser, step + 1, [], step + 1 == self.iterations)

    def _loss(self, network: nn.Module, inputs: Tensor, truth: Tensor, exclusive: bool) -> Tensor:
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            outputs = network(inputs)
        several = [outputs] if isinstance(outputs, Tensor) else outputs
        return torch.stack([class_loss(scores.float(), truth, exclusive) for scores in several]).sum()

    def _batches(self, labelled: ClassSet, seed: int, first: int) -> Iterator[Batch]:
        batches = TrainingBatches(labelled.images, self, self.batch_size, self.iterations, seed)
        loader = DataLoader(batches, batch_size=None, sampler=range(first, self.iterations), num_workers=self.workers)
        console = Console(stderr=True)
        for batch in track(loader, "training", self.iterations, console=console, disable=not sys.stderr.isatty()):
            if isinstance(batch, InputError):
                raise batch
            yield batch


def class_loss(scores: Tensor, truth: Tensor, exclusive: bool) -> Tensor:
    """Cross entropy where images have one class each, else the mean binary cross entropy of what is known.

    Args:
        scores: (B, C) logits.
        truth: (B, C) 1 present, 0 absent, -1 unsure.
    """
    if exclusive:
        return F.cross_entropy(scores, truth.argmax(1))
    known = truth >= 0
    losses = F.binary_cross_entropy_with_logits(scores, (truth == 1).to(scores), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)
