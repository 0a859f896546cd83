"""The training loop: steps, the log, the lamp, checkpoints, and a stop on request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from regionssl.data.batch import Batch
from regionssl.engine.checkpoint import save_checkpoint
from regionssl.engine.health import HealthMonitor, Lamp
from regionssl.engine.log import HEALTH, Meter, RunLog, memory_mib
from regionssl.engine.lost import lost_loader, lost_process
from regionssl.engine.signals import StopRequest
from regionssl.engine.train import NonFiniteLoss, Trainer
from regionssl.errors import InputError
from regionssl.methods.base import Terms


def run(
    trainer: Trainer, folder: Path, identity: dict[str, Any], failed: dict[int, str], on_save: Callable[[], None]
) -> tuple[bool, int]:
    """Train to the end or to a stop signal, logging and saving on the way.

    Args:
        folder: the run folder.
        identity: resolved config and data fingerprint, stored in checkpoints.
        failed: images found unreadable, by position; added to.
        on_save: called before every checkpoint, so that what it writes is never behind the checkpoints.

    Returns:
        Whether the run is complete, and the signal that stopped it, or 0.

    Raises:
        InputError: images cannot be read, a checkpoint cannot be written, or another process of the run is gone.
        NonFiniteLoss: the loss is no number.
    """
    world = trainer.world

    def save() -> None:
        trainer.settle()
        state = trainer.state(identity | {"failed": list(failed)})
        if world.rank == 0:
            on_save()
            save_checkpoint(folder / "checkpoints", trainer.step, state, trainer.config.keep)
        trainer.fabric.barrier()

    log_folder = folder if world.rank == 0 else None
    with RunLog(log_folder, trainer.step, trainer.total_steps, quiet=world.rank != 0) as log, StopRequest() as stop:
        monitor = HealthMonitor()
        for record in log.earlier:
            monitor.observe(record)
        log.level = monitor.lamp.level
        try:
            _steps(trainer, failed, save, log, stop, monitor)
            trainer.settle()
        except NonFiniteLoss:
            tell(monitor.fail(trainer.step), log)
            raise
        except RuntimeError as error:
            loader = lost_loader(error)
            if (said := loader or lost_process(error, world.size)) is None:
                raise
            fewer = " and fewer --workers" if loader else ""
            raise InputError(f"{said}; the last checkpoint is whole: go on with --resume{fewer}") from error
    return trainer.step >= trainer.total_steps, stop.requested


def _steps(
    trainer: Trainer,
    failed: dict[int, str],
    save: Callable[[], None],
    log: RunLog,
    stop: StopRequest,
    monitor: HealthMonitor,
) -> None:
    """The steps of :func:`run`."""
    config, world, meter = trainer.config, trainer.world, Meter()
    asked = time.perf_counter()
    started, started_step = asked, trainer.step
    for batch in _batches(trainer, save):
        waited = time.perf_counter() - asked
        note_failures(batch, trainer, failed, log)
        terms = trainer.train_step(batch, bool(stop.requested))
        meter.add(len(batch) * world.size, waited)
        done = trainer.step
        if trainer.logged(done):
            seconds = (time.perf_counter() - started) / (done - started_step)
            record = record_of(trainer, terms, meter, seconds)
            log.step(record)
            if (lamp := monitor.observe(record)) is not None:
                tell(lamp, log)
        stopping = bool(stop.requested) if world.size == 1 else trainer.stopping
        if done % (config.save_every or trainer.total_steps) == 0 or stopping or done == trainer.total_steps:
            save()
        if stopping:
            break
        asked = time.perf_counter()


def _batches(trainer: Trainer, save: Callable[[], None]) -> Iterator[Batch]:
    """The batches that are left. If a loader process is gone, the steps done are saved before the run ends.

    Several processes would have to save together, and the others know nothing of it: they leave it at the last
    checkpoint.
    """
    batches = iter(trainer.loader(trainer.total_steps))
    while True:
        try:
            batch = _next(batches, trainer.config.workers or 0)
        except RuntimeError as error:
            if lost_loader(error) is not None and trainer.world.size == 1:
                save()
            raise
        if batch is None:
            return
        yield batch


def _next(batches: Iterator[Batch], workers: int) -> Batch | None:
    """The next batch, or None after the last one.

    A loader process that is killed while it hands a batch over is first seen as a broken connection. Torch tells of the
    loss when the process has ended, from a signal handler, which cuts the wait short.
    """
    try:
        return next(batches, None)
    except (OSError, EOFError):
        if workers:
            time.sleep(10)
        raise


def tell(lamp: Lamp, log: RunLog) -> None:
    """Write a change of the lamp to the log and tell the user."""
    log.level = lamp.level
    log.event({"event": "health", **lamp.to_plain()}, str(lamp))


def record_of(trainer: Trainer, terms: Terms, meter: Meter, seconds_per_step: float) -> dict[str, Any]:
    """The log record of the step just done."""
    means = trainer.world.mean(torch.stack([value.double() for value in terms.values()])).tolist()
    values = dict(zip(terms, means, strict=True))
    if trainer.method.past_negatives:
        values[f"{HEALTH}queue_share"] = trainer.method.past_negatives / len(trainer.images)
    speed, waiting = meter.read()
    step = trainer.step - 1
    return {
        "step": step,
        "epoch": round(trainer.step / trainer.epochs.steps_per_epoch, 4),
        "loss": values.pop("loss"),
        **values,
        "lr": trainer.optimiser.param_groups[0]["lr"],
        "images_per_second": round(speed, 2),
        "data_wait": round(waiting, 4),
        "seconds_per_step": round(seconds_per_step, 5),
        "memory_mib": round(memory_mib(trainer.fabric.device), 1),
        "time": round(time.time(), 2),
    }


def note_failures(batch: Batch, trainer: Trainer, failed: dict[int, str], log: RunLog) -> None:
    """Count and log the images of a batch that could not be read.

    Raises:
        InputError: more than 5 % of the images have failed, or all replacements of an image.
    """
    for index, reason in batch.failures:
        if index not in failed:
            failed[index] = reason
            name = trainer.images.names[index]
            log.event(
                {"event": "set_aside", "step": trainer.step, "image": name, "reason": reason},
                f"set aside {name}: {reason}; another image takes its place",
            )
    if len(failed) > 0.05 * len(trainer.images) or not batch.views:
        names = "\n  ".join(f"{trainer.images.names[i]}: {reason}" for i, reason in list(failed.items())[:20])
        raise InputError(
            f"{len(failed)} of {len(trainer.images)} images could not be read during training, which is too many "
            f"(the limit is 5 %):\n  {names}"
        )
