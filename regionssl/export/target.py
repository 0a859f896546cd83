"""What every target of an export is given, what it hands back, and how two networks are compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from regionssl.backbones.encoder import Encoder
from regionssl.backbones.fpn import FPN
from regionssl.errors import InputError
from regionssl.export.run_weights import load_backbone, part, read_card, read_tensors, save_tensors

MAPS = ("c2", "c3", "c4", "c5")

# Largest difference between two maps, as a part of the largest value: float32 rounding lies a factor of 10 below.
TOLERANCE = 1e-5

# side of square test images, pixels -> normalised images (N, 3, side, side) float32
TestImages = Callable[[int], Tensor]

# map -> {"max_abs_difference": ..., "max_abs_value": ...}
Comparison = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Trained:
    """What a run hands on.

    Attributes:
        card: the JSON beside the run's weights.
        encoder: the backbone with maps c2 to c5, in evaluation mode, float32, on the CPU.
        body: the tensors of the backbone, in timm's keys.
        fpn: the pyramid that was trained with it, in evaluation mode, if there is one.
        extras: further trained modules that no target takes, by name.
    """

    card: dict[str, Any]
    encoder: Encoder
    body: dict[str, Tensor]
    fpn: FPN | None
    extras: tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """What a user may choose where a target offers it.

    Attributes:
        colours: order of the colours that the exported backbone takes.
        fpn: whether a trained pyramid is exported too.
    """

    colours: Literal["RGB", "BGR"] = "RGB"
    fpn: bool = True


_ALL, NO_FPN = Options(), Options(fpn=False)


@dataclass(frozen=True)
class WeightFile:
    """One file of an export.

    Attributes:
        suffix: what its name has after the stem of the name that the user gave: "" or ".fpn".
        tensors: in the target's keys.
        facts: what its JSON says beyond what all exports say, or in place of it.
        verify: loads the written file into the target's own model, or into one of the same layout, and compares maps
            with the run's.
        write: the tensors, to a path.
    """

    suffix: str
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    verify: Callable[[Path, TestImages], Comparison]
    write: Callable[[Path, dict[str, Tensor]], None] = save_tensors


@dataclass(frozen=True)
class Target:
    """A library that weights are exported to.

    Attributes:
        files: makes the files of an export.
        endings: that a name may have, the first as the example; none for a folder.
        checked_in: what the written file was loaded into.
        options: names of the :class:`Options` that it offers.
    """

    files: Callable[[Trained, Options], list[WeightFile]]
    endings: tuple[str, ...]
    checked_in: str
    options: frozenset[str] = frozenset()


def read_trained(run: Path) -> Trained:
    """The weights of a run, as modules.

    Raises:
        InputError: ``run`` holds no weights, broken ones, or ones of another architecture than it says.
    """
    card, tensors = read_card(run), read_tensors(run)
    try:
        encoder = load_backbone(run, MAPS).float()
        fpn = _fpn(encoder.channels, part(tensors, "fpn"))
    except (RuntimeError, KeyError) as error:
        name = card["backbone"]["name"]
        raise InputError(f"the weights in {run} do not fit the {name} that it describes: {error}") from error
    extras = {key.partition(".")[0] for key in tensors} - {"backbone", "fpn"}
    return Trained(card, encoder, part(tensors, "backbone"), fpn, tuple(sorted(extras)))


def _fpn(channels: Mapping[str, int], tensors: dict[str, Tensor]) -> FPN | None:
    if not tensors:
        return None
    width = tensors["layer_blocks.p4.0.weight"].shape[0]
    fpn = FPN(channels, width, norm="layer_blocks.p4.1.weight" in tensors)
    fpn.load_state_dict(tensors)
    return fpn.eval()


def not_exported(trained: Trained, options: Options = _ALL) -> list[str]:
    """Trained modules that stay in the run."""
    fpn = [] if trained.fpn is None or options.fpn else ["fpn"]
    return [*fpn, *trained.extras]


def load_exactly(model: nn.Module, path: Path, absent: frozenset[str] = frozenset()) -> None:
    """Load a safetensors file into a model that has the file's keys and those in ``absent``, and no others.

    Raises:
        InputError: keys or shapes differ.
    """
    put_exactly(model, load_file(str(path)), absent)


def put_exactly(model: nn.Module, tensors: Mapping[str, Tensor], absent: frozenset[str] = frozenset()) -> None:
    """Load tensors into a model that has their keys and those in ``absent``, and no others.

    Raises:
        InputError: keys or shapes differ.
    """
    expected = set(model.state_dict()) - absent
    if tensors.keys() != expected:
        raise InputError(
            f"the exported keys are not the target's: missing {sorted(expected - set(tensors))}, "
            f"too many {sorted(set(tensors) - expected)}"
        )
    try:
        model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise InputError(f"the exported tensors do not fit the target's model: {error}") from error


def compare(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Comparison:
    """The largest differences between maps of equal names.

    Raises:
        InputError: a map differs by more than ``TOLERANCE`` of its largest value, in shape, or is not finite.
    """
    found = {}
    for name, expected in ours.items():
        actual = theirs[name]
        if actual.shape != expected.shape:
            raise InputError(f"the target's {name} has shape {tuple(actual.shape)}, the run's {tuple(expected.shape)}")
        largest, difference = expected.abs().max().item(), (actual - expected).abs().max().item()
        if not difference <= TOLERANCE * largest:
            raise InputError(
                f"the exported weights do not give the run's features: {name} differs by {difference:.3g} at values up "
                f"to {largest:.3g}; nothing was exported"
            )
        found[name] = {"max_abs_difference": difference, "max_abs_value": largest}
    return found


@torch.no_grad()
def features(model: nn.Module, inputs: Any) -> dict[str, Tensor]:
    """The maps that a network in evaluation mode gives."""
    maps: dict[str, Tensor] = model.eval()(inputs)
    return maps


def card_path(path: Path) -> Path:
    """The JSON beside an exported file, or in an exported folder."""
    return path.with_suffix(".json") if path.suffix else path / "export.json"


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, as ``sha256sum`` prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_export(path: Path, target: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An exported file and its JSON.

    Raises:
        InputError: one of them is missing or broken, they do not belong together, or the export is for another target.
    """
    try:
        card: dict[str, Any] = json.loads(card_path(path).read_text())
        tensors, digest = load_file(str(path)), file_digest(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read together with its JSON {card_path(path).name}: {error}") from error
    if card.get("target") != target:
        raise InputError(f"{path} is not an export --to {target}, its JSON says {card.get('target')!r}")
    if card["sha256"] != digest:
        raise InputError(
            f"{path} is not the file that {card_path(path).name} describes: the hashes differ; export again"
        )
    return tensors, card
