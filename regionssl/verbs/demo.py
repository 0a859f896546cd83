"""``regionssl demo``: the whole way on generated scenes, in minutes on a CPU."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from regionssl.backbones.encoder import Encoder
from regionssl.build import load_config, make_method
from regionssl.data.photometric import normalise
from regionssl.data.scenes import CLASSES, generate, write_scenes
from regionssl.engine.log import duration
from regionssl.evaluation.probes import Picture, ProbeResult, pixel_probe
from regionssl.export.run_weights import load_backbone
from regionssl.methods.base import World
from regionssl.verbs.export import export
from regionssl.verbs.pretrain import pretrain
from regionssl.verbs.show import show, take_statistics

RECIPE = "resim_fpn_demo"
SIZE = 128
NAMES = ("background", *CLASSES)


def demo(
    out: Annotated[Path, typer.Option(help="folder for everything that the demo makes")] = Path("demo-out"),
    scenes: Annotated[int, typer.Option(help="unlabelled scenes to pre-train on")] = 800,
    steps: Annotated[int, typer.Option(help="pre-training steps")] = 160,
    labelled: Annotated[int, typer.Option(help="labelled scenes for the probe; half as many to score it")] = 100,
) -> tuple[ProbeResult, ProbeResult]:
    """Generate scenes, pre-train ReSim on them, and measure whether that helped.

    Returns:
        The pixel probe of the backbone as it was at the start, and after pre-training.
    """
    console, started, out = Console(), time.perf_counter(), Path(out)
    run, images = out / "run", out / "scenes"
    for old in (run, images):
        shutil.rmtree(old, ignore_errors=True)
    console.print(f"1/4  {scenes} generated scenes -> {images}")
    write_scenes(images, scenes, labels=False)
    console.print(f"2/4  pre-training: {RECIPE}, {steps} steps -> {run}")
    pretrain(images, run, recipe=RECIPE, steps=steps)
    console.print("3/4  export for torchvision, pictures")
    exported = export(run, "torchvision", out / "resnet18-torchvision.safetensors")
    show(run, out / "pictures")
    console.print(f"4/4  linear pixel probe of frozen features, {labelled} labelled scenes")
    before, after = probe(start_of(run), labelled), probe(load_backbone(run, ("c3", "c4")), labelled)
    report(before, after, console)
    console.print(
        f"weights: {exported}   pictures: {out / 'pictures'}   time: {duration(time.perf_counter() - started)}"
    )
    return before, after


def start_of(run: Path) -> Encoder:
    """The backbone with which a run began, its batch statistics taken from scenes, so that both start fairly."""
    config = load_config(str(run / "config.yaml"), {})
    start = make_method(config, World(), config.training.seed, "random").backbone
    encoder = Encoder(config.backbone, size=SIZE, maps=("c3", "c4"))
    encoder.body.load_state_dict(start.body.state_dict(), strict=False)
    with torch.no_grad():
        take_statistics(encoder, normalise(torch.stack([picture(i)[0] for i in range(100)]).float() / 255))
    return encoder


def picture(index: int) -> Picture:
    """A labelled scene; another seed than that of the pre-training scenes."""
    scene = generate(index, SIZE, seed=1)
    return torch.from_numpy(scene.image).permute(2, 0, 1), torch.from_numpy(scene.class_map).long()


def probe(encoder: Encoder, labelled: int) -> ProbeResult:
    """The pixel probe on c3 and c4."""

    def extract(views: Tensor) -> Tensor:
        maps = encoder(views)
        finest = maps["c3"].shape[-2:]
        coarse = torch.nn.functional.interpolate(maps["c4"], finest, mode="bilinear", align_corners=False)
        return torch.cat([maps["c3"], coarse], 1)

    train = [picture(i) for i in range(labelled)]
    val = [picture(labelled + i) for i in range(labelled // 2)]
    return pixel_probe(extract, train, val, NAMES)


def report(before: ProbeResult, after: ProbeResult, console: Console) -> None:
    """The table, and one sentence that says whether pre-training helped."""
    table = Table(title="intersection over union of a linear pixel probe on frozen features")
    for heading in ("class", "random start", "pre-trained"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for name in NAMES:
        table.add_row(name, f"{before.per_class[name]:.3f}", f"{after.per_class[name]:.3f}")
    old, new = objects(before), objects(after)
    table.add_row("mean of the objects", f"{old:.3f}", f"{new:.3f}", style="bold")
    console.print(table)
    gain = 100 * (new - old)
    verdict = "helped" if gain > 1 else "hurt" if gain < -1 else "made no difference worth the name"
    console.print(
        f"On these scenes pre-training {verdict}: mean IoU of the objects {100 * old:.1f} % at the random start, "
        f"{100 * new:.1f} % after it ({gain:+.1f} points; one run, one seed)."
    )


def objects(result: ProbeResult) -> float:
    """The mean over the object classes, without the background, which every probe finds."""
    return sum(result.per_class[name] for name in CLASSES) / len(CLASSES)
