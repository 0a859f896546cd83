"""A step of training, in plain sight. It knows no method; a method knows nothing of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader

from regionssl import counted
from regionssl.config import Config
from regionssl.counted import Stream
from regionssl.data.batch import Batch, coloured
from regionssl.data.images import ImageList
from regionssl.data.loader import EpochPlan, StepSampler, make_loader
from regionssl.data.patches import PatchSource
from regionssl.data.samples import RegionSource
from regionssl.data.views import ViewPlan
from regionssl.engine.distributed import average_running_statistics
from regionssl.engine.gauges import MotionGauge, gradient_scale, view_gauges
from regionssl.engine.log import HEALTH
from regionssl.engine.schedule import ScheduleConfig, learning_rate
from regionssl.errors import InputError
from regionssl.methods.base import Method, Progress, Terms, World


class TrainingConfig(Config):
    """How to train, whatever the method.

    Attributes:
        batch_size: images per step, over all processes and accumulated parts.
        micro_batch: images per process that go through the network at once; None for the process's whole share.
        epochs: passes over the data; ``steps``, when given, ends the run (and its schedules) after so many steps.
        drop_last: leave out the rest of an epoch that does not fill a batch.
        precision: arithmetic of the networks; losses and pooling are always computed in float32.
        channels_last: memory format of the networks.
        compile: compile the networks with torch.compile.
        clip: largest norm of the gradient; None for no limit.
        workers: loader processes per training process; 0 makes the views on its own threads, between the steps.
        seed: of everything random.
        save_every: steps between checkpoints; None for about one per epoch. keep: how many stay.
        log_every: steps between log records.
        report: whether the run leaves its page, report.html, when it ends.
    """

    batch_size: int = Field(256, ge=1)
    micro_batch: int | None = Field(None, ge=1)
    epochs: float = Field(200, gt=0)
    steps: int | None = Field(None, ge=1)
    drop_last: bool = True
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    compile: bool = False
    clip: float | None = Field(None, gt=0)
    workers: int | None = Field(None, ge=0)
    seed: int = Field(0, ge=0)
    save_every: int | None = Field(None, ge=1)
    keep: int = Field(3, ge=1)
    log_every: int = Field(10, ge=1)
    report: bool = True


class NonFiniteLoss(InputError):
    """The loss became infinite or not a number."""


@dataclass
class Trainer:
    """Everything that a run consists of, and the step that it repeats.

    Attributes:
        method: the bare method; ``module`` and ``optimiser`` are Fabric's wrappers of it and of its optimiser.
        world: the processes of the run.
        regions: labels the images, if the method's views ask for labels.
        patches: correspondences between the images, if some of the method's views are patches.
        step: number of steps done.
        stopping: some process was asked to stop, as far as the settled steps know.
    """

    config: TrainingConfig
    plan: ViewPlan
    schedule: ScheduleConfig
    peak_lr: float
    images: ImageList
    epochs: EpochPlan
    total_steps: int
    method: Method
    module: Any
    optimiser: Any
    fabric: Fabric
    world: World
    regions: RegionSource | None = None
    patches: PatchSource | None = None
    step: int = 0
    stopping: bool = False
    pending: tuple[Tensor, Terms, Tensor, int] | None = None

    def loader(self, last: int) -> DataLoader[Batch]:
        """Batches of this process from the current step up to step ``last``."""
        sampler = StepSampler(self.epochs, self.step, last, self.world.rank, self.world.size)
        cuda = self.fabric.device.type == "cuda"
        seed, workers = self.config.seed, self.config.workers or 0
        return make_loader(
            self.images,
            self.plan,
            sampler,
            seed,
            workers,
            cuda,
            self.regions,
            self.patches,
            threads=torch.get_num_threads(),
            yielding=not cuda,
        )

    def logged(self, done: int) -> bool:
        """Whether the step that makes ``done`` steps is written to the log, and so watched."""
        return done % self.config.log_every == 0 or done in (1, self.total_steps)

    def learning_rate(self) -> float:
        """The learning rate of the current step."""
        per_epoch = self.epochs.steps_per_epoch
        rate = learning_rate(self.schedule, self.peak_lr, self.step, per_epoch, self.total_steps / per_epoch)
        return rate * self.method.lr_factor(self.step // per_epoch)

    def train_step(self, batch: Batch, stop: bool = False) -> Terms:
        """One step: colours, targets, the parts' losses, the optimiser, and what the method does afterwards.

        Args:
            stop: this process was asked to stop; ``stopping`` tells all of them, one step later.
        """
        torch.manual_seed(counted.integer(self.config.seed, Stream.STEP, self.step, self.world.rank))
        batch = coloured(batch.to(self.fabric.device), self.plan)
        self.method.watched = self.logged(self.step + 1)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        with self.fabric.autocast():
            targets = self.method.targets(batch)
        terms: Terms = {}
        parts = list(self.method.parts(batch, targets, self.config.micro_batch or len(batch)))
        for number, (part, of_part) in enumerate(parts, 1):
            with self.fabric.no_backward_sync(self.module, enabled=number < len(parts)):
                part_terms = self.module(part, of_part)
                self.fabric.backward(part_terms["loss"])
            for name, value in part_terms.items():
                terms[name] = terms.get(name, 0) + value.detach()
        gauge = None
        if self.method.watched:
            terms |= view_gauges(batch.views)
            gauge = MotionGauge(self.method, gradient_scale(self.fabric.strategy.precision))
        if self.config.clip is not None:
            self.fabric.clip_gradients(self.module, self.optimiser, max_norm=self.config.clip, error_if_nonfinite=False)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.method.after_step(Progress(self.step, self.total_steps))
        if gauge is not None:
            terms |= gauge.read()
        if not self.method.synchronised:
            average_running_statistics(self.method, self.world)
        self.settle()
        loss = terms["loss"]
        shared = self.world.mean(torch.stack([loss, torch.full_like(loss, float(stop))]))
        self.pending = (shared, terms, batch.index, self.step)
        self.step += 1
        return terms

    def settle(self) -> None:
        """Look at the last step's loss and stop requests: one step late, so that the device is not waited for.

        Raises:
            NonFiniteLoss: naming the step, the terms and the files.
        """
        if self.pending is None:
            return
        shared, terms, index, step = self.pending
        self.pending = None
        loss, stops = shared.tolist()
        self.stopping |= stops > 0
        if math.isfinite(loss):
            return
        names = [self.images.names[i] for i in index.tolist()]
        listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        told = {name: float(value) for name, value in terms.items() if not name.startswith(HEALTH)}
        values = ", ".join(f"{name} {value:.4g}" for name, value in told.items())
        raise NonFiniteLoss(
            f"the loss of step {step} is not finite ({values}); images of this process: {listed}. The last checkpoint "
            "is unharmed; a lower learning rate or --precision fp32 are the usual remedies"
        )

    def state(self, identity: dict[str, Any]) -> dict[str, Any]:
        """All that a resumed run needs: networks, averages, queue, optimiser, scaler, position; and who it is."""
        return {
            "step": self.step,
            "method": self.method.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "identity": identity,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.method.load_state_dict(state["method"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.step = state["step"]
