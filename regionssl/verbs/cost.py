"""What a run would cost on this machine, from a short timing of its own steps."""

from __future__ import annotations

import time

from rich.console import Console
from rich.table import Table

from regionssl.engine.log import duration, memory_mib
from regionssl.engine.train import Trainer

SECONDS = 20.0
WARM_UP = 2


def explain_cost(trainer: Trainer, console: Console, seconds: float = SECONDS) -> float:
    """Time real steps for about ``seconds``, print hours for other amounts of data, and memory; keep nothing.

    Returns:
        Images per second over all processes.
    """
    begin = time.perf_counter()
    first, images, started = trainer.step, 0, begin
    for batch in trainer.loader(trainer.total_steps):
        trainer.train_step(batch)
        if trainer.step - first == min(WARM_UP, trainer.total_steps - 1):
            images, started = 0, time.perf_counter()
        elif trainer.step - first > WARM_UP or trainer.total_steps == 1:
            images += len(batch) * trainer.world.size
        if time.perf_counter() - begin > seconds and images:
            break
    trainer.settle()
    speed = images / (time.perf_counter() - started)
    if trainer.world.rank == 0:
        print_cost(trainer, speed, console)
    return speed


def print_cost(trainer: Trainer, speed: float, console: Console) -> None:
    """The cost table: this run, and other numbers of images and epochs at the same speed."""
    epochs = trainer.total_steps / trainer.epochs.steps_per_epoch
    table = Table(title=f"cost at {speed:.1f} images/s, measured here on these settings")
    table.add_column("images", justify="right")
    counts = sorted({epochs, 100.0, 200.0, 400.0, 800.0})
    for count in counts:
        table.add_column(f"{count:g} epochs", justify="right")
    for images in sorted({len(trainer.images), 2_000, 20_000, 118_287, 1_281_167}):
        table.add_row(f"{images:,}", *(duration(images * count / speed) for count in counts))
    console.print(table)
    peak = memory_mib(trainer.fabric.device)
    kind = "GPU memory" if trainer.fabric.device.type == "cuda" else "resident memory"
    console.print(f"peak {kind} per training process: {peak:,.0f} MiB (loader workers come on top)")
    console.print(f"this run: {trainer.total_steps} steps, about {duration(len(trainer.images) * epochs / speed)}")
