"""What regions cost: a training step of each method over one of the image-level method of its family, in one run.

    python -m benchmarks.methods --device cpu --recipes small --out FILE.json

Each method runs in a process of its own on generated scenes that are decoded and cut beforehand, with regions from a
store and made-up correspondences: the step without its input. The image-level method is measured before and after its
family; ratios are over the mean of both, and ``drift`` is their difference.

Floating-point operations are those of convolutions and matrix products over the whole step, forward and backward.
``time_over_flops`` is the ratio of times over the ratio of operations: 1 if regions cost what their arithmetic costs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.results import facts, in_new_process, show, write_json
from benchmarks.training import trainer_of
from regionssl.build import load_config
from regionssl.data.images import find_images
from regionssl.data.scenes import write_scenes
from regionssl.engine.train import Trainer
from regionssl.methods.orl import OrlConfig
from regionssl.verbs.regions import find_regions

FAMILIES = {
    "moco_v2": ("resim_fpn", "resim_c4", "plrc"),
    "byol": ("scrl", "r2o", "orl"),
}
RECIPES = {
    "small": {name: f"{name}_small" for family, members in FAMILIES.items() for name in (family, *members)},
    "published": {
        "moco_v2": "moco_v2_200",
        "resim_fpn": "resim_fpn_200",
        "resim_c4": "resim_c4_200",
        "plrc": "plrc_100",
        "byol": "byol_orl",
        "scrl": "scrl_200",
        "r2o": "r2o_coco_800",
        "orl": "orl",
    },
}
SCENE = 256  # pixels


@dataclass(frozen=True)
class Setting:
    """What all methods are measured with.

    Attributes:
        recipes: a key of :data:`RECIPES`.
        clock: "wall", or "processor" for a machine that does other work too (CPU only).
    """

    device: str = "cpu"
    recipes: str = "small"
    backbone: str = "resnet18"
    batch_size: int = 32
    precision: str = "auto"
    steps: int = 6
    warm_up: int = 2
    clock: str = "wall"


@dataclass(frozen=True)
class Patches:
    """Correspondences between the scenes: boxes, neighbours and pairs from a generator."""

    boxes: list[np.ndarray]
    neighbours: np.ndarray
    pairs: list[list[np.ndarray]]


def made_up_patches(images: int, neighbours: int = 10) -> Patches:
    rng = np.random.default_rng(0)

    def rows(count: int) -> np.ndarray:
        sides = rng.integers(64, 161, (count, 2))
        return np.concatenate([rng.integers(0, SCENE - sides + 1), sides], 1).astype(np.int32)

    return Patches(
        boxes=[rows(20) for _ in range(images)],
        neighbours=(np.arange(images)[:, None] + 1 + np.arange(neighbours)) % images,
        pairs=[[np.concatenate([rows(5), rows(5)], 1) for _ in range(neighbours)] for _ in range(images)],
    )


def make_trainer(name: str, setting: Setting, folder: Path) -> Trainer:
    """The trainer of a method, on the scenes and regions of a folder."""
    given: dict[str, Any] = {
        "backbone.name": setting.backbone,
        "training.batch_size": setting.batch_size,
        "training.steps": 10**6,
        "training.precision": setting.precision,
        "training.workers": 0,
    }
    if name in ("plrc", "r2o"):
        given |= {"method.source.kind": "store", "method.source.store": str(folder / "regions")}
    config = load_config(RECIPES[setting.recipes][name], given)
    patches = made_up_patches(len(find_images(folder / "scenes"))) if isinstance(config.method, OrlConfig) else None
    return trainer_of(config, folder / "scenes", setting.device, patches)


def measure(name: str, setting: Setting, folder: Path) -> dict[str, Any]:
    """Seconds of each step, peak memory and floating-point operations of a method.

    Memory is exact: on a GPU the most that was allocated, on a CPU the most that a step's tensors take at one time,
    without the weights, the optimiser and the views as they were cut.
    """
    trainer = make_trainer(name, setting, folder)
    cuda = trainer.fabric.device.type == "cuda"
    batches = list(islice(trainer.loader(2), 2))
    now: Callable[[], float] = time.perf_counter if setting.clock == "wall" else time.process_time
    seconds = []
    for step in range(setting.warm_up + setting.steps):
        start = now()
        trainer.train_step(batches[step % 2])
        if cuda:
            torch.cuda.synchronize()
        seconds.append(now() - start)
    peak = torch.cuda.max_memory_allocated() if cuda else largest_allocation(lambda: trainer.train_step(batches[1]))
    with FlopCounterMode(display=False) as counter:
        trainer.train_step(batches[0])
    timed = seconds[setting.warm_up :]
    return {
        "method": name,
        "seconds": statistics.median(timed),
        "spread": (max(timed) - min(timed)) / statistics.median(timed),
        "gflop": counter.get_total_flops() / 1e9 / setting.batch_size,
        "mib": peak / 2**20 / setting.batch_size,
        "precision": trainer.config.precision,
    }


def largest_allocation(step: Callable[[], object]) -> int:
    """The most bytes that were allocated at one time since the start of a step on the CPU."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    return max(event["args"]["Total Allocated"] for event in events if event["name"] == "[memory]")


def compare(name: str, row: dict[str, Any], base: list[dict[str, Any]], setting: Setting) -> dict[str, Any]:
    """A row of the table, from a method's measures and those of the image-level method before and after its family."""
    level = {key: statistics.mean(measures[key] for measures in base) for key in ("seconds", "gflop", "mib")}
    times, operations = row["seconds"] / level["seconds"], row["gflop"] / level["gflop"]
    return {
        "method": name,
        "images_per_second": setting.batch_size / row["seconds"],
        "spread": row["spread"],
        "drift": abs(base[0]["seconds"] - base[-1]["seconds"]) / level["seconds"],
        "gflop_per_image": row["gflop"],
        "mib_per_image": row["mib"],
        "time_ratio": times,
        "flop_ratio": operations,
        "time_over_flops": times / operations,
        "memory_ratio": row["mib"] / level["mib"],
        "precision": row["precision"],
    }


def rows(setting: Setting, families: dict[str, tuple[str, ...]] | None = None) -> list[dict[str, Any]]:
    """The table: every method of the families, each in a process of its own."""
    table = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_scenes(folder / "scenes", max(2 * setting.batch_size, 64), size=SCENE, labels=False)
        find_regions(folder / "scenes", folder / "regions", kind="slic", set=["size=128", "segments=30"], devices=1)
        for level, members in (families or FAMILIES).items():
            found = [in_new_process(measure, name, setting, folder) for name in (level, *members, level)]
            base = [found[0], found[-1]]
            table += [compare(row["method"], row, base, setting) for row in found[:-1]]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in asdict(Setting()).items():
        kind = int if name in ("batch_size", "steps", "warm_up") else str
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value)
    parser.add_argument("--family", choices=list(FAMILIES), action="append", help="only this one")
    parser.add_argument("--out", type=Path)
    options = vars(parser.parse_args())
    out, wanted = options.pop("out"), options.pop("family")
    setting = Setting(**options)
    found = rows(setting, {name: FAMILIES[name] for name in wanted or FAMILIES})
    show(f"{setting.backbone}, batch {setting.batch_size}, {setting.recipes} recipes, {setting.clock} clock", found)
    write_json(out, facts(setting.device), {"setting": asdict(setting), "methods": found})


if __name__ == "__main__":
    main()
