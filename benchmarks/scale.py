"""What processes tell each other at a step, by method, and how far a run would scale by it.

    python -m benchmarks.scale --out FILE.json

Volume is counted, not measured: one process of eight takes a real step on its share, in a world that records what is
gathered and averaged; gradients and synchronised batch norms are added from the networks' sizes. The efficiency is on
paper: its assumptions are the constants below, and no such machine was at hand. Throughput of one and two processes is
measured, each with one thread, so that two have twice the cores.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.results import command_line, facts, in_new_process, show, write_json
from benchmarks.training import trainer_of
from regionssl.build import load_config
from regionssl.data.scenes import write_scenes
from regionssl.engine.log import read_log
from regionssl.methods.base import World
from regionssl.verbs.stages import stand_in

RECIPES = (
    "moco_v2_200",
    "byol_orl",
    "resim_fpn_200",
    "resim_c4_200",
    "scrl_200",
    "plrc_100",
    "r2o_imagenet_300",
    "orl",
)
COUNTED, SHARE, TAKEN = 8, 32, 8  # processes, images of each, images that the counted step takes

# Assumptions of the prediction.
FLOPS = 80e12  # of a ResNet-50 on such a GPU: some 3,000 images a second of supervised training
NVLINK, NETWORK = 300e9, 40e9  # bytes a second of a ring, for each GPU, within a node of 8 and between nodes
LATENCY = 7e-6  # seconds of a collective and doubling of the processes
HIDDEN = 0.5  # share of a step behind whose backward pass the gradients' reduction can hide


class Recorder(World):
    """The first of some processes, all of which hold what it holds; it notes what it would send."""

    def __init__(self, size: int) -> None:
        self.rank, self.size = 0, size
        self.gathered: list[int] = []
        self.exchanged: list[int] = []
        self.averaged: list[int] = []

    def gather(self, tensor: Tensor) -> Tensor:
        self.gathered.append(tensor.numel() * tensor.element_size())
        return tensor.detach().repeat(self.size, *[1] * (tensor.ndim - 1))

    def exchange(self, tensor: Tensor, order: Tensor) -> Tensor:
        self.exchanged.append(tensor.numel() * tensor.element_size())
        return tensor.detach()

    def mean(self, tensor: Tensor) -> Tensor:
        self.averaged.append(tensor.numel() * tensor.element_size())
        return tensor.detach().clone()


@dataclass(frozen=True)
class Volume:
    """What one process sends at a step, bytes, and the collectives that are waited for."""

    gradients: int
    gathered: int
    exchanged: int
    averaged: int
    batch_norm: int
    collectives: int
    flops: float


def count(recipe: str, pictures: Path) -> Volume:
    """The volume of a recipe's step with ResNet-50 as published, for one of eight processes of 32 images.

    The step takes 8 images; what is gathered and computed grows with them.
    """
    size = {} if recipe != "r2o_imagenet_300" else {"method.source.kind": "grid"}
    config = load_config(recipe, {"training.batch_size": COUNTED * TAKEN, "training.workers": 0, **size})
    trainer = trainer_of(config, pictures, patches=stand_in(COUNTED * TAKEN), processes=COUNTED)
    world = Recorder(COUNTED)
    trainer.world = trainer.method.world = world
    (batch,) = islice(trainer.loader(1), 1)
    norms, passes = _watch_norms(trainer.method)
    with FlopCounterMode(display=False) as counter:
        trainer.train_step(batch)
    trained = sum(4 * one.numel() for one in trainer.method.parameters() if one.requires_grad)
    synchronised = trainer.method.synchronised
    return Volume(
        gradients=trained,
        gathered=sum(world.gathered) * SHARE // TAKEN,
        exchanged=sum(world.exchanged) * SHARE // TAKEN,
        averaged=sum(world.averaged),
        batch_norm=sum(norms) if synchronised else 0,
        collectives=len(world.gathered)
        + len(world.exchanged)
        + len(world.averaged)
        + (len(passes) if synchronised else 0),
        flops=counter.get_total_flops() * SHARE / TAKEN,
    )


def _watch_norms(method: torch.nn.Module) -> tuple[list[int], list[int]]:
    """Bytes that synchronised batch norms would send: sum, square sum and count forward, two sums backward."""
    sent: list[int] = []
    passes: list[int] = []

    def forward(norm: torch.nn.Module, inputs: Any, output: Tensor) -> None:
        width = norm.num_features
        sent.append(4 * (2 * width + 1))  # type: ignore[operator]
        passes.append(1)
        if output.requires_grad:
            sent.append(4 * 2 * width)  # type: ignore[operator]
            passes.append(1)

    for norm in method.modules():
        if isinstance(norm, _BatchNorm):
            norm.register_forward_hook(forward)
    return sent, passes


def efficiency(volume: Volume, processes: int) -> float:
    """Time of a step alone over its time among ``processes``, by the assumptions above."""
    rate = NVLINK if processes <= 8 else NETWORK
    ring = (processes - 1) / processes
    compute = volume.flops / FLOPS
    exposed = max(0.0, 2 * ring * volume.gradients / rate - HIDDEN * compute)
    moved = (processes - 1) * volume.gathered + ring * volume.exchanged
    others = (moved + 2 * ring * (volume.averaged + volume.batch_norm)) / rate
    waits = volume.collectives * LATENCY * math.log2(processes)
    return compute / (compute + exposed + others + waits)


def volumes() -> list[dict[str, Any]]:
    """One row a recipe."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder), COUNTED * TAKEN, size=256, labels=False)
        for recipe in RECIPES:
            volume = in_new_process(count, recipe, Path(folder))
            found.append(
                {
                    "recipe": recipe,
                    "gradients_MB": volume.gradients / 1e6,
                    "gathered_MB": volume.gathered / 1e6,
                    "exchanged_MB": volume.exchanged / 1e6,
                    "averaged_MB": volume.averaged / 1e6,
                    "batch_norm_MB": volume.batch_norm / 1e6,
                    "collectives": volume.collectives,
                    "TFLOP": volume.flops / 1e12,
                    **{f"efficiency_{n}": efficiency(volume, n) for n in (8, 64, 512)},
                }
            )
    return found


def throughput(steps: int = 6) -> list[dict[str, Any]]:
    """MoCo v2, ResNet-18, 128 px, 16 images a process: images per second of one and of two processes."""
    speeds = []
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder) / "pictures", 64, size=256, labels=False)
        for processes in (1, 2, 1):
            run = Path(folder) / f"run{len(speeds)}"
            command = [sys.executable, "-m", "regionssl", "pretrain", str(Path(folder) / "pictures"), "--out", str(run)]
            command += ["--recipe", "moco_v2_small", "--size", "128", "--batch-size", str(16 * processes)]
            command += ["--devices", str(processes), "--device", "cpu", "--steps", str(steps), "--workers", "0"]
            command += ["--set", "training.log_every=1"]
            subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
            records = read_log(run / "log.jsonl")[1:]
            speeds.append(sum(record["images_per_second"] for record in records) / len(records))
    one = (speeds[0] + speeds[2]) / 2
    return [
        {
            "case": "moco_v2_small, resnet18, 128 px, 16 images and 1 thread a process",
            "one_process": one,
            "two_processes": speeds[1],
            "efficiency": speeds[1] / (2 * one),
            "drift": abs(speeds[0] - speeds[2]) / one,
        }
    ]


def main() -> None:
    options = command_line(__doc__).parse_args()
    measured, counted = throughput(), volumes()
    show("one and two processes, measured, images per second", measured)
    show(f"sent by one of {COUNTED} processes at a step of {SHARE} images each, counted; efficiency on paper", counted)
    write_json(options.out, facts("cpu"), {"throughput": measured, "volume": counted})


if __name__ == "__main__":
    main()
