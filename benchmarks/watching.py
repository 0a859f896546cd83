"""What watching a run's health costs: processor time of steps that are logged, over that of steps that are not.

    python -m benchmarks.watching --recipes byol_small resim_fpn_small --pairs 4

Logged and other steps take turns on the same batches in one run; the cost of a run is that of a logged step over
``log_every`` (10 by default).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.training import trainer_of
from regionssl.build import load_config
from regionssl.data.scenes import write_scenes


def seconds_of_steps(recipe: str, scenes: Path, options: argparse.Namespace) -> tuple[float, float, int]:
    """Median seconds of steps that are logged and of those that are not, and the recipe's ``log_every``."""
    settings = {"training.batch_size": options.batch_size, "training.steps": 10**6, "training.workers": 0}
    config = load_config(recipe, settings, options.set, options.size)
    trainer = trainer_of(config, scenes, options.device)
    cuda = trainer.fabric.device.type == "cuda"
    batches = list(trainer.loader(2))
    # processor time where the processor computes, since other work may share it
    clock = time.perf_counter if cuda else time.process_time
    seconds: dict[bool, list[float]] = {True: [], False: []}
    trainer.train_step(batches[0])
    for number in range(2 * options.pairs):
        watched = bool(number % 2)
        trainer.config = trainer.config.model_copy(update={"log_every": 1 if watched else 10**6})
        start = clock()
        trainer.train_step(batches[number // 2 % 2])
        if cuda:
            torch.cuda.synchronize()
        seconds[watched].append(clock() - start)
    return statistics.median(seconds[True]), statistics.median(seconds[False]), config.training.log_every


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["byol_small", "resim_fpn_small", "scrl_small"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--set", nargs="*", default=None)
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder) / "images", 4 * options.batch_size, size=192, labels=False)
        for recipe in options.recipes:
            logged, other, every = seconds_of_steps(recipe, Path(folder) / "images", options)
            console.print(
                f"{recipe}: logged {logged:.3f} s, other {other:.3f} s, ratio {logged / other:.4f}; "
                f"over a run that logs every {every} steps: {(logged / other - 1) / every:+.2%}"
            )


if __name__ == "__main__":
    main()
