"""``regionssl demo``: the whole way on generated scenes, in minutes on a CPU."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from regionssl.data.scenes import CLASSES, write_scenes
from regionssl.engine.log import duration
from regionssl.proof.comparison import Comparison
from regionssl.verbs.export import export
from regionssl.verbs.pretrain import pretrain
from regionssl.verbs.prove import prove
from regionssl.verbs.show import show

RECIPE = "resim_fpn_demo"
SIZE = 96
NAMES = ("background", *CLASSES)
PROBE = [f"short_side={SIZE}", "pixels=6000"]


def demo(
    out: Annotated[Path, typer.Option(help="folder for everything that the demo makes")] = Path("demo-out"),
    scenes: Annotated[int, typer.Option(help="unlabelled scenes to pre-train on")] = 800,
    steps: Annotated[int, typer.Option(help="pre-training steps")] = 160,
    labelled: Annotated[int, typer.Option(help="labelled scenes to train on; half as many to score")] = 60,
) -> Comparison:
    """Generate scenes, pre-train ReSim on them, and measure whether that helped.

    Returns:
        The comparison of the run with random weights, by a linear pixel probe.
    """
    console, started, out = Console(), time.perf_counter(), Path(out)
    run, images, labels, proof = out / "run", out / "scenes", out / "labelled", out / "proof"
    for old in (run, images, labels, proof):
        shutil.rmtree(old, ignore_errors=True)
    console.print(f"1/4  {scenes} generated scenes -> {images}")
    write_scenes(images, scenes, labels=False)
    console.print(f"2/4  pre-training: {RECIPE}, {steps} steps -> {run}")
    pretrain(images, run, recipe=RECIPE, steps=steps)
    console.print("3/4  export for torchvision, pictures")
    exported = export(run, "torchvision", out / "resnet18-torchvision.safetensors")
    show(run, out / "pictures")
    console.print(f"4/4  did it help? linear pixel probe of frozen features, {labelled} labelled scenes -> {proof}")
    write_labelled(labels, labelled)
    found = prove(
        [str(run)], "pixel_probe", labels, proof, ["random"], set=PROBE, fractions=[0.25, 1.0], seeds=3, draws=500
    )
    console.print(
        f"weights: {exported}   pictures: {out / 'pictures'}   time: {duration(time.perf_counter() - started)}"
    )
    return found


def write_labelled(folder: Path, count: int) -> None:
    """Scenes with class maps as pixel_probe reads them; of other seeds than those for pre-training."""
    for split, seed, scenes in (("train", 1, count), ("val", 2, max(1, count // 2))):
        write_scenes(folder / split, scenes, SIZE, seed)
        for kind in ("images", "labels"):
            (folder / kind).mkdir(exist_ok=True)
            (folder / split / kind).rename(folder / kind / split)
        shutil.rmtree(folder / split)
    (folder / "classes.json").write_text(json.dumps({"classes": list(NAMES)}))
