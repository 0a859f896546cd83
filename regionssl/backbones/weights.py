"""The weights a backbone starts from: random, timm's ImageNet weights, or a file."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from regionssl.backbones.encoder import Encoder, timm_model
from regionssl.errors import InputError

RUN_WEIGHTS = "weights.safetensors"

# Parts of names by which momentum methods tell the slow copy of a network from the trained one.
_SLOW = {"key", "encoder_k", "target", "target_network", "teacher", "momentum_encoder", "ema"}


def initialise(encoder: Encoder, init: str) -> str:
    """Set the weights of ``encoder.body`` in place.

    Args:
        init: "random" leaves them; "imagenet" takes timm's published weights; anything else is a ``.safetensors`` or
            torch file, or a run folder. In a file, the state dict may be nested and its keys may have any prefix; the
            prefix under which most keys match is taken. Tensors of other modules (classifier, heads) are left out.

    Returns:
        One line for the log.

    Raises:
        InputError: the weights cannot be had, or are those of another architecture.
    """
    if init == "random":
        return f"{encoder.name}: random weights"
    if init == "imagenet":
        return _from_timm(encoder)
    path = Path(init)
    path = path / RUN_WEIGHTS if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"--init is random, imagenet, a weights file or a run folder; there is no file {path}")
    prefix, tensors = _backbone_part(_read(path), encoder)
    if not tensors:
        raise InputError(f"{path} holds no weights of {encoder.name}: no key matches, under any prefix")
    left_out = _load(encoder, tensors, str(path))
    note = f"; left out {', '.join(left_out)}" if left_out else ""
    return f"{encoder.name}: weights of {path}" + (f", under {prefix!r}" if prefix else "") + note


def _from_timm(encoder: Encoder) -> str:
    try:
        model = timm_model(encoder.config, pretrained=True)
    except Exception as error:  # the hub's client raises kinds of its own
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"--init imagenet: timm could not get weights for {encoder.name} ({reason}). Without a network, download "
            "them on another machine and give the file: --init FILE"
        ) from error
    source = model.pretrained_cfg
    _load(encoder, model.state_dict(), "timm's weights")
    name = f"{source.get('architecture', encoder.name)}.{source.get('tag', '')}".rstrip(".")
    return (
        f"{encoder.name}: timm's ImageNet weights {name} (licence {source.get('license') or 'not stated'}), made for "
        f"inputs normalised by mean {source.get('mean')} and std {source.get('std')}"
    )


def _read(path: Path) -> Any:
    """Whatever a weights file holds.

    Raises:
        InputError: it is broken, or a pickle that would run code.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(str(path))
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is refused: it is broken, or needs code to run when it is opened; save the state dict alone, as "
            f".safetensors or by torch.save(model.state_dict(), ...) ({_first_line(error)})"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read as weights: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _state_dicts(content: Any, depth: int = 3) -> Iterator[dict[str, Tensor]]:
    """Every mapping from names to tensors within ``content``."""
    if not isinstance(content, Mapping) or depth == 0:
        return
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield tensors
    for value in content.values():
        yield from _state_dicts(value, depth - 1)


def _backbone_part(content: Any, encoder: Encoder) -> tuple[str, dict[str, Tensor]]:
    """The prefix under which most of the encoder's keys are found, and the tensors below it, without the prefix."""
    wanted = encoder.body.state_dict().keys()
    best: tuple[int, bool] = (0, False)
    found: tuple[str, dict[str, Tensor]] = ("", {})
    for tensors in _state_dicts(content):
        for prefix, count in _prefix_counts(tensors, wanted).items():
            rank = (count, not _SLOW & set(prefix.split(".")))
            if rank > best:
                below = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
                best, found = rank, (prefix, below)
    return found


def _prefix_counts(tensors: Mapping[str, Tensor], wanted: Any) -> Counter[str]:
    """For each prefix, how many keys are the prefix and a wanted key."""
    counts: Counter[str] = Counter()
    for key in tensors:
        parts = key.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in wanted:
                counts["".join(f"{part}." for part in parts[:start])] += 1
    return counts


def _load(encoder: Encoder, tensors: Mapping[str, Tensor], source: str) -> list[str]:
    """Load what is the backbone's, and name the other modules in ``tensors``.

    Raises:
        InputError: keys are missing or unexpected, or shapes differ.
    """
    own: dict[str, Tensor] = encoder.body.state_dict()
    modules = {key.split(".")[0] for key in own}
    spare = {key for key in tensors if key in encoder.pruned or key.split(".")[0] not in modules}
    problems = {
        "missing": [key for key in own if key not in tensors and not key.endswith("num_batches_tracked")],
        "unexpected": [key for key in tensors if key not in own and key not in spare],
        "wrong shape": [
            f"{key} {tuple(tensors[key].shape)} for {tuple(value.shape)}"
            for key, value in own.items()
            if key in tensors and tensors[key].shape != value.shape
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in problems.items() if keys)
        raise InputError(f"{source} does not fit {encoder.name}: {listed}. Give weights of the same architecture")
    encoder.body.load_state_dict(own | {key: value for key, value in tensors.items() if key in own})
    return sorted({key.split(".")[0] for key in spare})


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:10]) + (", ..." if len(keys) > 10 else "")
