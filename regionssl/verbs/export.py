"""``regionssl export``: the weights of a run in the names and files that other libraries load."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
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
from regionssl.engine.checkpoint import write_atomically, write_json
from regionssl.errors import InputError, nearest
from regionssl.export import timm, torchvision
from regionssl.export.run_weights import save_tensors
from regionssl.export.target import (
    TOLERANCE,
    Comparison,
    TestImages,
    Trained,
    WeightFile,
    card_path,
    file_digest,
    read_trained,
)

TARGETS: dict[str, Callable[[Trained], list[WeightFile]]] = {
    "torchvision": torchvision.weight_files,
    "timm": timm.weight_files,
}
SUFFIX = ".safetensors"
TEST_IMAGES = 2
_OPTIONAL = (".fpn",)  # suffixes of files that one run has and another has not


def export(
    run: Annotated[Path, typer.Argument(help="run folder")],
    to: Annotated[str, typer.Option("--to", help="torchvision or timm")],
    out: Annotated[Path, typer.Option(help="file to write, ending in .safetensors; its JSON comes beside it")],
) -> Path:
    """Write the pre-trained backbone for another library, after a check in that library's own model.

    Returns:
        The file of the backbone. Beside it lie its JSON and, --to torchvision, the FPN if one was trained.

    Raises:
        InputError: something given cannot be used, or the check failed; files of an earlier export are then unchanged.
    """
    run, out = Path(run), Path(out)
    if to not in TARGETS:
        raise InputError(f"--to {to}: no such target{nearest(to, TARGETS)}")
    check_place(out)
    trained = read_trained(run)
    files = TARGETS[to](trained)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
            cards, written = {}, {}
            for file in files:
                written[file.suffix], checked = write_checked(file, trained, Path(folder))
                cards[file.suffix] = card(file, to, trained, written[file.suffix], checked)
            place(out, cards, written)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write {out}: {error}; what was there before is unchanged") from error
    announce(out, cards)
    return out


def check_place(out: Path) -> None:
    """Refuse names that cannot be written, and files that something else than an export has written.

    Raises:
        InputError: ``out`` is a folder, has another ending, or a JSON in the way is not that of an export.
    """
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; give the name of a file, such as {out / ('backbone' + SUFFIX)}")
    if out.suffix != SUFFIX:
        raise InputError(f"--out {out}: the file is in the format safetensors; give a name that ends in {SUFFIX}")
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
    return out.with_name(f"{out.name.removesuffix(SUFFIX)}{suffix}{SUFFIX}")


def write_checked(file: WeightFile, trained: Trained, folder: Path) -> tuple[Path, Comparison]:
    """Write a file into ``folder`` and check it there.

    Raises:
        InputError: the target's model does not take it, or gives other maps than the run's.
    """
    path = folder / f"weights{file.suffix}{SUFFIX}"
    save_tensors(path, file.tensors)
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
        **file.facts,
        **{key: trained.card[key] for key in inherited},
        "data_fingerprint": trained.card["data_fingerprint"],
        "licence": trained.card["licence"],
        "run_sha256": trained.card["sha256"],
        "sha256": file_digest(path),
        "versions": {name: version(name) for name in packages},
        "check": {
            "how": f"{to}'s own model was built anew, loaded with the written file, and its maps of {TEST_IMAGES} "
            "generated images compared with the run's, in float32 on the CPU in evaluation mode",
            "tolerance": f"{TOLERANCE:g} of a map's largest value",
            "maps": checked,
        },
    }


def place(out: Path, cards: dict[str, dict[str, Any]], written: dict[str, Path]) -> None:
    """Move the checked files to their names, each with its JSON; remove what an earlier export had beyond them."""
    for suffix in _OPTIONAL:
        cards[""][f"{suffix[1:]}_file"] = named(out, suffix).name if suffix in cards else None
    for suffix in sorted(written, reverse=True):
        write_atomically(named(out, suffix), lambda partial, path=written[suffix]: path.rename(partial))  # type: ignore[misc]
        write_json(card_path(named(out, suffix)), cards[suffix])
    for suffix in _OPTIONAL:
        if suffix not in cards and card_path(named(out, suffix)).exists():
            named(out, suffix).unlink(missing_ok=True)
            card_path(named(out, suffix)).unlink()


def announce(out: Path, cards: dict[str, dict[str, Any]]) -> None:
    """Print what was written, how it was checked, and what is not in it."""
    console = Console()
    for suffix, facts in cards.items():
        maps = facts["check"]["maps"]
        worst = max(found["max_abs_difference"] for found in maps.values())
        lines = [
            f"{named(out, suffix)}: {facts['architecture']}, step {facts['step']}, loads as {facts['keys']}",
            f"  checked: largest difference in {', '.join(maps)} is {worst:.3g}",
            *(f"  {note}" for note in facts.get("notes", [])),
        ]
        if facts.get("not_exported"):
            lines.append(f"  not exported: {', '.join(facts['not_exported'])}")
        console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
