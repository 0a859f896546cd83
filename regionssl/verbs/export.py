"""``regionssl export``: the weights of a run in the names and files that other libraries load."""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from safetensors import SafetensorError
from torch import Tensor

from regionssl.data.scenes import generate
from regionssl.engine.checkpoint import write_atomically, write_json, write_text
from regionssl.errors import InputError, nearest
from regionssl.export import detectron2, huggingface, mmdetection, onnx, timm, torchvision, ultralytics
from regionssl.export.target import (
    TOLERANCE,
    Comparison,
    Options,
    Target,
    TestImages,
    Trained,
    WeightFile,
    card_path,
    file_digest,
    read_trained,
)
from regionssl.verbs.export_configs import check_configs, write_configs

TARGETS: dict[str, Target] = {
    "torchvision": torchvision.TARGET,
    "timm": timm.TARGET,
    "detectron2": detectron2.TARGET,
    "mmdetection": mmdetection.TARGET,
    "ultralytics": ultralytics.TARGET,
    "huggingface": huggingface.TARGET,
    "onnx": onnx.TARGET,
}
TEST_IMAGES = 2
_OPTIONAL = (".fpn",)  # suffixes of files that one run has and another has not
_OPTIONS = {"colours": "--bgr", "fpn": "--no-fpn"}


def export(
    run: Annotated[Path, typer.Argument(help="run folder")],
    to: Annotated[str, typer.Option("--to", help=", ".join(TARGETS))],
    out: Annotated[Path, typer.Option(help="file to write, or for huggingface a folder; its JSON comes beside it")],
    bgr: Annotated[bool, typer.Option("--bgr", help="detectron2, mmdetection: for images in BGR order")] = False,
    no_fpn: Annotated[bool, typer.Option("--no-fpn", help="leave a trained pyramid out")] = False,
    config: Annotated[
        list[str] | None, typer.Option(help="detectron2, mmdetection: protocol to write a config for, or all")
    ] = None,
) -> Path:
    """Write the pre-trained backbone for another library, after a check in a model of that library's layout.

    Returns:
        The file of the backbone, or the folder. Beside it lie its JSON, the FPN in a file of its own (--to torchvision,
        if one was trained), and configs (--config).

    Raises:
        InputError: something given cannot be used, or the check failed; files of an earlier export are then unchanged.
    """
    run, out = Path(run), Path(out)
    if to not in TARGETS:
        raise InputError(f"--to {to}: no such target{nearest(to, TARGETS)}")
    target, options = TARGETS[to], Options("BGR" if bgr else "RGB", not no_fpn)
    check_options(to, target, options)
    configs = check_configs(to, config or [])
    check_place(out, target)
    trained = read_trained(run)
    files = target.files(trained, options)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
            cards, written = {}, {}
            for file in files:
                written[file.suffix], checked = write_checked(file, trained, Path(folder), out.suffix)
                cards[file.suffix] = card(file, to, trained, written[file.suffix], checked)
            texts = write_configs(to, configs, out, cards[""])
            place(out, cards, written)
            for path, text in texts.items():
                write_text(path, text)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write {out}: {error}; what was there before is unchanged") from error
    announce(out, cards, list(texts))
    return out


def check_options(to: str, target: Target, options: Options) -> None:
    """Refuse options that the target does not offer.

    Raises:
        InputError: one was given.
    """
    for name, flag in _OPTIONS.items():
        if getattr(options, name) != getattr(Options(), name) and name not in target.options:
            offering = [known for known, one in TARGETS.items() if name in one.options]
            raise InputError(f"{flag} goes with {', '.join(offering)}, and this is --to {to}; leave it out")


def check_place(out: Path, target: Target) -> None:
    """Refuse names that cannot be written, and files that something else than an export has written.

    Raises:
        InputError: ``out`` has another ending than the target's files, is a folder where a file is written or the other
            way round, or what is in the way is not of an export.
    """
    if not target.endings:
        if out.suffix:
            raise InputError(f"--out {out}: this target is a folder; give a name without the ending {out.suffix}")
        if out.exists() and not is_export(card_path(out)):
            raise InputError(f"--out {out} exists, and no export has written it; choose another name")
        return
    ending = target.endings[0]
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; give the name of a file, such as {out / ('backbone' + ending)}")
    if out.suffix not in target.endings:
        raise InputError(f"--out {out}: give a name that ends in {' or '.join(target.endings)}, as this target's do")
    for suffix in ("", *_OPTIONAL):
        beside = card_path(named(out, suffix))
        if beside.exists() and not is_export(beside):
            raise InputError(f"--out {out} would replace {beside}, which no export has written; choose another name")


def is_export(path: Path) -> bool:
    """Whether a JSON is one that this verb writes."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("target") in TARGETS


def named(out: Path, suffix: str) -> Path:
    """``folder/name.safetensors`` -> ``folder/name<suffix>.safetensors``."""
    return out.with_name(f"{out.name.removesuffix(out.suffix)}{suffix}{out.suffix}")


def write_checked(file: WeightFile, trained: Trained, folder: Path, ending: str) -> tuple[Path, Comparison]:
    """Write a file into ``folder`` and check it there.

    Raises:
        InputError: the target's model does not take it, or gives other maps than the run's.
    """
    path = folder / f"weights{file.suffix}{ending}"
    file.write(path, file.tensors)
    return path, file.verify(path, images_of(trained.card["mean"], trained.card["std"]))


def images_of(mean: list[float], std: list[float]) -> TestImages:
    """Generated scenes, normalised as in training."""

    def images(size: int) -> Tensor:
        pixels = np.stack([generate(index, size).image for index in range(TEST_IMAGES)])
        values = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        return (values - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    return images


def card(file: WeightFile, to: str, trained: Trained, path: Path, checked: Comparison) -> dict[str, Any]:
    """The JSON beside a file."""
    inherited = ("mean", "std", "value_range", "colour_order", "size", "method", "step", "init")
    packages = ("regionssl", "torch", "torchvision", "timm", "safetensors")
    return {
        "format": "safetensors",
        "target": to,
        **{key: trained.card[key] for key in inherited},
        **file.facts,
        "data_fingerprint": trained.card["data_fingerprint"],
        "licence": trained.card["licence"],
        "run_sha256": trained.card["sha256"],
        "sha256": content_digest(path),
        "versions": {name: version(name) for name in packages},
        "check": {
            "how": f"the written file was loaded into {TARGETS[to].checked_in}, built anew, and its maps of "
            f"{TEST_IMAGES} generated images compared with the run's, in float32 on the CPU in evaluation mode",
            "tolerance": f"{TOLERANCE:g} of a map's largest value",
            "maps": checked,
        },
    }


def content_digest(path: Path) -> str | dict[str, str]:
    """sha256 of a file, or of each file in a folder by its name."""
    return {one.name: file_digest(one) for one in sorted(path.iterdir())} if path.is_dir() else file_digest(path)


def place(out: Path, cards: dict[str, dict[str, Any]], written: dict[str, Path]) -> None:
    """Move the checked files to their names, each with its JSON; remove what an earlier export had beyond them."""
    if written[""].is_dir():
        write_json(card_path(written[""]), cards[""])
        if out.exists():
            out.rename(written[""].with_name("earlier"))
        written[""].rename(out)
        return
    for suffix in _OPTIONAL:
        cards[""][f"{suffix[1:]}_file"] = named(out, suffix).name if suffix in cards else None
    for suffix in sorted(written, reverse=True):
        write_atomically(named(out, suffix), lambda partial, path=written[suffix]: path.rename(partial))  # type: ignore[misc]
        write_json(card_path(named(out, suffix)), cards[suffix])
    for suffix in _OPTIONAL:
        if suffix not in cards and card_path(named(out, suffix)).exists():
            named(out, suffix).unlink(missing_ok=True)
            card_path(named(out, suffix)).unlink()


def announce(out: Path, cards: dict[str, dict[str, Any]], configs: list[Path]) -> None:
    """Print what was written, how it was checked, and what is not in it."""
    console = Console()
    for suffix, facts in cards.items():
        maps = facts["check"]["maps"]
        worst = max(found["max_abs_difference"] for found in maps.values())
        lines = [
            f"{named(out, suffix)}: {facts['architecture']}, step {facts['step']}, loads as {facts['keys']}",
            f"  checked: largest difference in {', '.join(maps)} is {worst:.3g}",
            f"  takes {facts['colour_order']} images",
            *(f"  {note}" for note in facts.get("notes", [])),
        ]
        if facts.get("not_exported"):
            lines.append(f"  not exported: {', '.join(facts['not_exported'])}")
        console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    for path in configs:
        console.print(f"{path}: beside it", highlight=False, markup=False, soft_wrap=True)
