"""Speed and memory of a training step of each method, per image, side by side in one run.

    python -m benchmarks.methods --device cpu --backbone resnet18 --size 128 --batch-size 32 --out FILE.json

Each method runs in a process of its own on generated scenes that are decoded and cut beforehand, so the figures are of
colours, networks, loss and optimiser: the step without its input. Ratios are to MoCo v2 and BYOL, image-level methods.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from regionssl.build import load_config
from regionssl.data.images import find_images, scan
from regionssl.data.scenes import write_scenes
from regionssl.engine.choices import choose_device
from regionssl.verbs.job import build_trainer, launch, make_job

RECIPES = {
    "moco_v2": "moco_v2_200",
    "resim_fpn": "resim_fpn_200",
    "resim_c4": "resim_c4_200",
    "byol": "byol_orl",
    "scrl": "scrl_200",
}
FAMILY = {"resim_fpn": "moco_v2", "resim_c4": "moco_v2", "scrl": "byol"}


def measure(name: str, options: argparse.Namespace, scenes: str) -> dict[str, Any]:
    """Median seconds per step and peak memory of one method."""
    device = choose_device(options.device)
    settings = {
        "backbone.name": options.backbone,
        "training.batch_size": options.batch_size,
        "training.steps": 10**6,
        "training.precision": options.precision,
    }
    config = load_config(RECIPES[name], settings, options.set, options.size)
    images, scanned = scan(find_images(Path(scenes)), cache=Path(scenes) / "cache")
    job = make_job(config, images, scanned, Path(scenes), device)
    trainer = build_trainer(job, launch(job))
    batches = list(trainer.loader(2))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = []
    for step in range(options.warm_up + options.steps):
        start = time.perf_counter()
        trainer.train_step(batches[step % len(batches)])
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    timed = seconds[options.warm_up :]
    peak = (
        torch.cuda.max_memory_allocated() / 2**20
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    )
    return {
        "method": name,
        "images_per_second": options.batch_size / statistics.median(timed),
        "spread": (max(timed) - min(timed)) / statistics.median(timed),
        "mib_per_image": peak / options.batch_size,
        "precision": job.config.training.precision,
    }


def child(name: str, options: argparse.Namespace, scenes: str, results: Any) -> None:
    results.put(measure(name, options, scenes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    rows = {}
    with tempfile.TemporaryDirectory() as scenes:
        write_scenes(Path(scenes), max(2 * options.batch_size, 64), size=256, labels=False)
        for name in RECIPES:
            results = spawn.Queue()
            process = spawn.Process(target=child, args=(name, options, scenes, results))
            process.start()
            rows[name] = results.get(timeout=1200)
            process.join()
    report(rows, options)


def report(rows: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    """Print the table and write the JSON."""
    for name, row in rows.items():
        base = FAMILY.get(name)
        row["time_over_image_level"] = rows[base]["images_per_second"] / row["images_per_second"] if base else 1.0
    machine = (
        torch.cuda.get_device_name()
        if choose_device(options.device).type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    table = Table(
        title=f"{options.backbone}, {options.size} px, batch {options.batch_size}, {machine}, torch {torch.__version__}"
    )
    for heading in ("method", "precision", "images/s", "spread", "MiB/image", "time over image-level"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for name, row in rows.items():
        table.add_row(
            name,
            row["precision"],
            f"{row['images_per_second']:.1f}",
            f"{row['spread']:.0%}",
            f"{row['mib_per_image']:.1f}",
            f"{row['time_over_image_level']:.2f}",
        )
    Console(width=110).print(table)
    if options.out:
        facts = {
            "machine": machine,
            "system": platform.platform(),
            "torch": torch.__version__,
            "options": {k: str(v) for k, v in vars(options).items()},
            "rows": rows,
        }
        options.out.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
