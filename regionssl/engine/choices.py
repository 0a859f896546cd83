"""The automatic choices of a run: what was set, why, and what the recipe says."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from regionssl.data.loader import EpochPlan
from regionssl.data.scan import usable_cores
from regionssl.engine.optim import OptimiserConfig, peak_learning_rate
from regionssl.engine.schedule import ScheduleConfig
from regionssl.engine.train import TrainingConfig
from regionssl.errors import InputError
from regionssl.methods.base import MethodConfig

QUEUE_FRACTION = 0.25


@dataclass(frozen=True)
class Choice:
    """One automatic choice: the setting, its value, the recipe's value, and the reason."""

    setting: str
    value: Any
    recipe: Any
    reason: str

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.setting} = {self.value} (recipe: {self.recipe}): {self.reason}"


def choose_device(device: str) -> torch.device:
    """The device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InputError: CUDA is asked for and absent.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no CUDA device is available to torch here; use --device cpu or auto")
    if device not in ("cpu", "cuda"):
        raise InputError(f"--device is one of auto, cpu, cuda; got {device!r}")
    return torch.device(device)


def choose_precision(training: TrainingConfig, device: torch.device) -> Choice:
    """The arithmetic for ``auto``."""
    if training.precision != "auto":
        return Choice("training.precision", training.precision, training.precision, "as given")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice("training.precision", "bf16", "auto", "the GPU computes in bfloat16")
        return Choice("training.precision", "fp16", "auto", "the GPU has no bfloat16 units")
    if torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.cpu._is_avx512_bf16_supported():
        return Choice("training.precision", "bf16", "auto", "the CPU has bfloat16 instructions, about twice as fast")
    return Choice("training.precision", "fp32", "auto", "the CPU has no bfloat16 instructions")


def choose_workers(training: TrainingConfig, device: torch.device, devices: int) -> Choice:
    """The number of loader processes per training process."""
    if training.workers is not None:
        return Choice("training.workers", training.workers, training.workers, "as given")
    if device.type == "cuda":
        cores = usable_cores()
        workers = max(1, min(16, cores // devices - 1))
        return Choice("training.workers", workers, None, f"{cores} cores for {devices} GPU(s)")
    return Choice("training.workers", 0, None, "on a CPU the training's own threads make the views between its steps")


def choose_batch(training: TrainingConfig, images: int, processes: int) -> None:
    """Check that the batch fits the data and the processes.

    Raises:
        InputError: the batch is larger than the data, or cannot be shared evenly.
    """
    if training.batch_size > images:
        raise InputError(
            f"a batch of {training.batch_size} is larger than the data ({images} images); "
            f"use --batch-size {max(1, images // 4)} or less, or add images"
        )
    if training.batch_size % processes:
        raise InputError(
            f"--batch-size {training.batch_size} cannot be shared evenly by {processes} processes; "
            f"the nearest size that can is {training.batch_size // processes * processes or processes}"
        )


def choose_group_size(wanted: int, share: int, setting: str = "group_size") -> Choice:
    """The largest group of at most ``wanted`` images that divides a process's share of the batch."""
    size = next(size for size in range(min(wanted, share), 0, -1) if share % size == 0)
    reason = "as in the recipe" if size == wanted else f"must divide the {share} images of a process"
    return Choice(f"method.{setting}", size, wanted, reason)


def choose_queue(wanted: int, images: int, batch_size: int) -> Choice:
    """A queue of at most a quarter of the data, a multiple of the batch."""
    limit = max(batch_size, int(QUEUE_FRACTION * images))
    length = max(batch_size, min(wanted, limit) // batch_size * batch_size)
    if length == wanted:
        return Choice("method.queue", length, wanted, "as in the recipe")
    if length < wanted // batch_size * batch_size:
        reason = (
            f"at most {QUEUE_FRACTION:.0%} of the {images} images, or an image would meet its own old key as a negative"
        )
    else:
        reason = f"a multiple of the batch of {batch_size}"
    return Choice("method.queue", length, wanted, reason)


def choose_micro_batch(
    training: TrainingConfig, method: MethodConfig, share: int
) -> tuple[TrainingConfig, MethodConfig, list[Choice]]:
    """Make micro-batches and batch statistics agree.

    A micro-batch is a multiple of the images that share statistics; where a method would take the statistics of the
    whole batch, they become those of the micro-batch, since the parts are never in memory together.
    """
    micro, group = training.micro_batch, getattr(method, "group_size", None)
    if micro is None or micro >= share:
        return training.model_copy(update={"micro_batch": None}), method, []
    if group is None:
        size = choose_group_size(micro, share).value
        choices = [
            Choice("training.micro_batch", size, micro, f"must divide the {share} images of a process"),
            Choice("method.group_size", size, None, "batch statistics of accumulated parts are those of each part"),
        ]
        method = method.model_copy(update={"group_size": size})
    else:
        size = max(group, micro // group * group)
        choices = [Choice("training.micro_batch", size, micro, f"a multiple of the {group} images of a group")]
    return training.model_copy(update={"micro_batch": size}), method, choices


def choose_warmup(schedule: ScheduleConfig, epochs: float) -> Choice:
    """A warm-up of at most a tenth of the run."""
    length = min(schedule.warmup_epochs, 0.1 * epochs)
    reason = "as in the recipe" if length == schedule.warmup_epochs else f"a tenth of the run's {epochs:.4g} epochs"
    return Choice("schedule.warmup_epochs", length, schedule.warmup_epochs, reason)


@dataclass(frozen=True)
class Resolved:
    """A run's settings with nothing left open.

    Attributes:
        choices: what was chosen, for the user and the record.
    """

    training: TrainingConfig
    method: MethodConfig
    schedule: ScheduleConfig
    epochs: EpochPlan
    total_steps: int
    peak_lr: float
    choices: list[Choice]


def resolve(
    training: TrainingConfig,
    method: MethodConfig,
    optimiser: OptimiserConfig,
    schedule: ScheduleConfig,
    images: int,
    device: torch.device,
    devices: int,
    nodes: int,
) -> Resolved:
    """Settle everything that a recipe leaves open or that does not fit these data and this machine.

    Raises:
        InputError: the batch does not fit the data or the processes.
    """
    processes = devices * nodes
    choose_batch(training, images, processes)
    share = training.batch_size // processes
    precision, workers = choose_precision(training, device), choose_workers(training, device, devices)
    choices = [precision, workers]
    training = training.model_copy(update={"precision": precision.value, "workers": workers.value})
    fitted: dict[str, Choice] = {}
    for setting in ("group_size", "cluster_group"):
        if (wanted := getattr(method, setting, None)) is not None:
            fitted[setting] = choose_group_size(wanted, share, setting)
    if (wanted := getattr(method, "queue", None)) is not None:
        fitted["queue"] = choose_queue(wanted, images, training.batch_size)
    method = method.model_copy(update={name: choice.value for name, choice in fitted.items()})
    choices += fitted.values()
    training, method, more = choose_micro_batch(training, method, share)
    choices += more
    group = math.lcm(getattr(method, "group_size", None) or 1, getattr(method, "cluster_group", 1))
    epochs = EpochPlan(images, training.batch_size, training.seed, training.drop_last, processes * group)
    total = training.steps or max(1, round(training.epochs * epochs.steps_per_epoch))
    if training.steps:
        choices.append(
            Choice(
                "training.epochs",
                round(total / epochs.steps_per_epoch, 3),
                training.epochs,
                f"{total} steps were asked for",
            )
        )
    if (curriculum := getattr(method, "curriculum", None)) is not None:
        length = total / epochs.steps_per_epoch
        choices.append(Choice("method.curriculum.length", length, curriculum.length, "the epochs of this run"))
        method = method.model_copy(update={"curriculum": curriculum.model_copy(update={"length": length})})
    save_every = training.save_every or min(max(epochs.steps_per_epoch, 50), 1000)
    if training.save_every is None:
        choices.append(
            Choice(
                "training.save_every", save_every, None, f"{epochs.steps_per_epoch} steps per epoch, within 50 to 1000"
            )
        )
    training = training.model_copy(update={"save_every": save_every})
    peak = peak_learning_rate(optimiser, training.batch_size)
    if peak != optimiser.lr:
        choices.append(
            Choice(
                "optimiser peak learning rate",
                round(peak, 8),
                optimiser.lr,
                f"scaled from batch {optimiser.reference_batch} to {training.batch_size}",
            )
        )
    warmup = choose_warmup(schedule, total / epochs.steps_per_epoch)
    if warmup.value != warmup.recipe:
        choices.append(warmup)
        schedule = schedule.model_copy(update={"warmup_epochs": warmup.value})
    return Resolved(training, method, schedule, epochs, total, peak, choices)
