"""Regions made in the loader worker against regions read from a store, per image, on one core in one run.

    python -m benchmarks.regions --images 100 --out FILE.json

Processor time, on generated scenes of 500 x 500 pixels; the image is decoded already, since views need it anyway.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from regionssl.data.images import find_images
from regionssl.data.photometric import IMAGENET_MEAN, IMAGENET_STD
from regionssl.data.scenes import write_scenes
from regionssl.regions.sources import SourceConfig, make_source
from regionssl.stores.store import open_store
from regionssl.verbs.regions import find_regions

KINDS: dict[str, dict[str, Any]] = {
    "slic, 224 px, 100 segments": {"kind": "slic", "size": 224, "segments": 100},
    "slic, 128 px, 30 segments": {"kind": "slic", "size": 128, "segments": 30},
    "felzenszwalb, 224 px": {"kind": "felzenszwalb", "size": 224},
}


def milliseconds(read: Callable[[int], object], images: int) -> tuple[float, float]:
    """Median and spread of the processor time per image."""
    taken = []
    for index in range(images):
        start = time.process_time()
        read(index)
        taken.append(1000 * (time.process_time() - start))
    low, middle, high = np.percentile(taken, [25, 50, 75])
    return float(statistics.median(taken)), float((high - low) / middle)


def measure(settings: dict[str, Any], scenes: Path, store: Path, count: int) -> dict[str, float]:
    images = find_images(scenes)
    pictures = [images.load(index) for index in range(count)]
    source = make_source(SourceConfig(**settings), images.names, IMAGENET_MEAN, IMAGENET_STD)
    assignments = [f"{key}={value}" for key, value in settings.items() if key != "kind"]
    find_regions(scenes, store, kind=settings["kind"], set=assignments, devices=1)
    stored = open_store(store, None)
    made, made_spread = milliseconds(lambda i: source(pictures[i], i), count)
    read, read_spread = milliseconds(stored.read, count)
    size = sum(path.stat().st_size for path in store.rglob("*.bin")) / len(images)
    return {
        "made_ms": made,
        "made_spread": made_spread,
        "read_ms": read,
        "read_spread": read_spread,
        "ratio": made / read,
        "bytes_per_image": size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        scenes = Path(folder) / "scenes"
        write_scenes(scenes, options.images, size=500, labels=False)
        rows = {
            name: measure(settings, scenes, Path(folder) / f"store{number}", options.images)
            for number, (name, settings) in enumerate(KINDS.items())
        }
    versions = {name: version(name) for name in ("torch", "scikit-image", "numpy")}
    table = Table(title=f"regions, {options.images} images, {versions}")
    for heading in ("kind", "made, ms", "read, ms", "made / read", "bytes an image"):
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    for name, row in rows.items():
        table.add_row(
            name,
            f"{row['made_ms']:.1f} ({row['made_spread']:.0%})",
            f"{row['read_ms']:.2f} ({row['read_spread']:.0%})",
            f"{row['ratio']:.0f}",
            f"{row['bytes_per_image']:,.0f}",
        )
    Console(width=110).print(table)
    if options.out:
        options.out.write_text(
            json.dumps({"system": platform.platform(), "versions": versions, "rows": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
