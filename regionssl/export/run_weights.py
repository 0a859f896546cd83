"""The weights that a run hands on: backbone and further trained modules, with a JSON beside them that explains them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field
from safetensors.torch import load_file, save
from torch import Tensor, nn

from regionssl.backbones.encoder import Encoder, EncoderConfig
from regionssl.errors import InputError

WEIGHTS, CARD = "weights.safetensors", "weights.json"


class _Card(BaseModel):
    """What of the JSON is relied on."""

    backbone: EncoderConfig
    size: int = Field(ge=8)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    sha256: str


def named_tensors(backbone: Encoder, extras: dict[str, nn.Module]) -> dict[str, Tensor]:
    """``backbone.<timm key>`` and ``<extra>.<key>`` -> tensor on the CPU, contiguous."""
    modules: dict[str, nn.Module] = {"backbone": backbone.body, **extras}
    return {
        f"{prefix}.{key}": tensor.detach().cpu().contiguous()
        for prefix, module in modules.items()
        for key, tensor in module.state_dict().items()
    }


def digest(tensors: dict[str, Tensor]) -> str:
    """sha256 over names and bytes of tensors, in the order of their names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write safetensors (the writer of ``write_atomically``), readable by whom the umask says."""
    path.write_bytes(save(tensors))


def read_card(run: Path) -> dict[str, Any]:
    """The JSON beside a run's weights.

    Raises:
        InputError: ``run`` is not a run folder, or it has no weights yet.
    """
    path = run / CARD
    if not path.is_file():
        if (run / "config.yaml").is_file():
            raise InputError(f"{run} has no weights yet: its first checkpoint is still to come; go on with --resume")
        raise InputError(f"{run} is not a run folder: it holds no {CARD}")
    try:
        card = json.loads(path.read_text())
        if not isinstance(card, dict):
            raise ValueError("it holds no object")
        _Card.model_validate(card)
    except (ValueError, RecursionError, OSError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"{path} is broken: {said}; resume the run to write it anew") from error
    return card


def read_tensors(run: Path) -> dict[str, Tensor]:
    """The tensors of a run.

    Raises:
        InputError: they are missing, broken, or not those that the JSON describes.
    """
    card = read_card(run)
    try:
        tensors = load_file(str(run / WEIGHTS))
    except Exception as error:  # safetensors raises its own kinds
        raise InputError(f"{run / WEIGHTS} cannot be read: {error}") from error
    if digest(tensors) != card["sha256"]:
        raise InputError(f"{run / WEIGHTS} is not the file that {CARD} describes: the hashes differ")
    return tensors


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below ``prefix.``, without it."""
    return {key.removeprefix(f"{prefix}."): value for key, value in tensors.items() if key.startswith(f"{prefix}.")}


def load_backbone(run: str | Path, maps: tuple[str, ...] = ("c2", "c3", "c4", "c5")) -> Encoder:
    """The pre-trained backbone of a run, in evaluation mode.

    Args:
        run: the run folder.
        maps: which feature maps its ``forward`` returns, as ``{"c2": (N, C, S/4, S/4), ...}``.

    Raises:
        InputError: ``run`` holds no weights, or broken ones, or its method trained too few stages for these maps.
    """
    run = Path(run)
    card, tensors = read_card(run), read_tensors(run)
    encoder = Encoder(EncoderConfig.model_validate(card["backbone"]), size=card["size"], maps=maps)
    kept = {key: tensor for key, tensor in part(tensors, "backbone").items() if key not in encoder.pruned}
    wanted, given = ({key.split(".")[0] for key in keys} for keys in (encoder.body.state_dict(), kept))
    if absent := sorted(wanted - given):
        raise InputError(
            f"{run} has no weights for {', '.join(absent)}: its method trained fewer stages than {', '.join(maps)} "
            "need; ask for fewer, such as maps=('c2', 'c3', 'c4')"
        )
    encoder.body.load_state_dict(kept)
    return encoder.eval()
