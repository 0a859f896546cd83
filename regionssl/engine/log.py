"""What a run says while it trains: a JSON object per logged step always, and lines or a live bar for people."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

LOG = "log.jsonl"
HEALTH = "health/"
"""How the names of measures begin that the run's health is judged by."""


def memory_mib(device: torch.device) -> float:
    """Peak memory of this process: of the accelerator's allocator, or resident on the CPU, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


class Meter:
    """Images per second and the share of time spent waiting for data, since the last reading."""

    def __init__(self) -> None:
        self.images, self.waited, self.since = 0, 0.0, time.perf_counter()

    def add(self, images: int, waited: float) -> None:
        self.images += images
        self.waited += waited

    def read(self) -> tuple[float, float]:
        """(images per second, waiting share) since the last call."""
        elapsed = max(time.perf_counter() - self.since, 1e-9)
        speed, share = self.images / elapsed, self.waited / elapsed
        self.images, self.waited, self.since = 0, 0.0, time.perf_counter()
        return speed, share


class JsonLines:
    """A log with one JSON object per line. On opening, lines of steps from ``step`` on are cut off."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        if path.is_file():
            kept = [line for line in path.read_text().splitlines() if _step_of(line) < step]
            partial = path.with_name(f".{path.name}.partial")
            partial.write_text("".join(f"{line}\n" for line in kept))
            os.replace(partial, path)
        self.file = path.open("a", buffering=1)

    def write(self, record: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        self.file.close()


def _step_of(line: str) -> float:
    """The step of a log line; a line torn by a crash counts as beyond every step."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log, without events and torn lines."""
    records = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "loss" in record and isinstance(record.get("step"), int):
            records.append(record)
    return records


def append_event(path: Path, record: Mapping[str, Any]) -> None:
    """Add something that is not a training step to the log of a run that is over."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


class RunLog:
    """Writes records of a run to ``log.jsonl``, to TensorBoard when it is installed, and to the console.

    Args:
        folder: the run folder; None keeps everything off the disk.
        first_step: where the run goes on.
        quiet: no console output (processes other than the first).

    Attributes:
        earlier: records of the steps before ``first_step``.
        level: of the run's health, shown with every record.
    """

    def __init__(self, folder: Path | None, first_step: int, total_steps: int, quiet: bool = False) -> None:
        self.total_steps = total_steps
        self.lines = JsonLines(folder / LOG, first_step) if folder else None
        self.earlier = read_log(folder / LOG) if folder and first_step else []
        self.level = "green"
        self.board = _tensorboard(folder, first_step) if folder else None
        self.console = Console(quiet=quiet)
        self.first_step = first_step
        self.live: Live | None = None
        self.terms = Text(overflow="ellipsis", no_wrap=True)
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]:.2f}"),
            BarColumn(20),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[pace]}"),
            TextColumn("[{task.fields[level]}]●[/] health {task.fields[level]}"),
        )

    def __enter__(self) -> Self:
        if self.console.is_terminal and not self.console.quiet:
            self.bar.add_task(
                "steps", total=self.total_steps, completed=self.first_step, epoch=0.0, pace="", level="green"
            )
            self.live = Live(Group(self.bar, self.terms), console=self.console)
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()
        if self.lines:
            self.lines.close()
        if self.board:
            self.board.close()

    def step(self, record: dict[str, Any]) -> None:
        """Log a record with at least step, epoch, loss, images_per_second and data_wait."""
        if self.lines:
            self.lines.write(record)
        if self.board:
            for name, value in record.items():
                if isinstance(value, (int, float)) and name != "step":
                    self.board.add_scalar(name, value, record["step"])
        terms, pace = _terms(record), _pace(record)
        if self.live:
            self.terms.plain = terms
            (bar,) = self.bar.task_ids
            self.bar.update(bar, completed=record["step"] + 1, epoch=record["epoch"], pace=pace, level=self.level)
        else:
            eta = (self.total_steps - record["step"] - 1) * record["seconds_per_step"]
            self.console.print(
                f"step {record['step'] + 1}/{self.total_steps}  epoch {record['epoch']:.2f}  {terms}  {pace}  "
                f"left {duration(eta)}  health {self.level}",
                highlight=False,
                soft_wrap=True,
            )

    def event(self, record: dict[str, Any], message: str) -> None:
        """Log something that is not a training step, and tell the user."""
        if self.lines:
            self.lines.write(record)
        self.console.print(message, highlight=False, soft_wrap=True, markup=False)


MEASURES = {"step", "epoch", "images_per_second", "data_wait", "memory_mib", "lr", "seconds_per_step", "time"}


def loss_terms(record: Mapping[str, Any]) -> list[str]:
    """The names of a record's loss terms and of what a method logs beside them; not those of health."""
    return [name for name in record if name not in MEASURES and not name.startswith(HEALTH)]


def _terms(record: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {record[name]:.4g}" for name in loss_terms(record))


def _pace(record: Mapping[str, Any]) -> str:
    speed, waiting = record["images_per_second"], 100 * record["data_wait"]
    return f"{speed:.1f} img/s  waiting {waiting:.0f}%  {record['memory_mib']:.0f} MiB"


def duration(seconds: float) -> str:
    """Seconds as ``1 d 02 h``, ``3 h 05 min``, ``4 min 10 s`` or ``12 s``."""
    seconds = int(max(seconds, 0))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days} d {hours % 24:02d} h"
    if hours:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{minutes} min {seconds % 60:02d} s" if minutes else f"{seconds} s"


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step)
