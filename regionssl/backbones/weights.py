"""The weights a backbone starts from: random, timm's ImageNet weights, or a file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from regionssl.backbones.encoder import Encoder, timm_model
from regionssl.backbones.layouts import BACKBONES, branch_keys
from regionssl.backbones.weight_files import read_weights, state_dicts
from regionssl.errors import InputError

RUN_WEIGHTS = "weights.safetensors"

# Parts of names by which momentum methods tell the slow copy of a network from the trained one.
_SLOW = {"key", "encoder_k", "target", "target_network", "target_net", "teacher", "momentum_encoder", "ema", "previous"}
_TRAINED = {"query", "encoder_q", "online", "online_network", "online_net", "student", "backbone"}

# A network's other modules stand under the backbone's prefix or under at most two that it lies in.
_PLACES = 3


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
    path = weights_path(init)
    found = find_backbone(path, encoder)
    left_out = _load(encoder, found.backbone, str(path))
    note = f"; left out {', '.join(left_out)}" if left_out else ""
    layout = "" if found.layout == "torchvision" else f" in the layout {found.layout}"
    return f"{encoder.name}: weights of {path}" + (f", under {found.prefix!r}" if found.prefix else "") + layout + note


def weights_path(init: str) -> Path:
    """The file that ``--init`` names.

    Raises:
        InputError: there is none, or it is an export for images in BGR order.
    """
    path = Path(init)
    path = path / RUN_WEIGHTS if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"--init is random, imagenet, a weights file or a run folder; there is no file {path}")
    card = path.with_suffix(".json")
    if card.is_file() and re.search(r'"colour_order": *"BGR"', card.read_text(errors="replace")):
        raise InputError(f"{card} says that these weights take BGR images, and here they get RGB; export without --bgr")
    return path


def _from_timm(encoder: Encoder) -> str:
    try:
        model = timm_model(encoder.config, pretrained=True)
    except Exception as error:  # the hub's client raises kinds of its own
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"imagenet: timm could not get weights for {encoder.name} ({reason}). Without a network, download "
            "them on another machine and give the file in place of imagenet"
        ) from error
    source = model.pretrained_cfg
    _load(encoder, model.state_dict(), "timm's weights")
    name = f"{source.get('architecture', encoder.name)}.{source.get('tag', '')}".rstrip(".")
    return (
        f"{encoder.name}: timm's ImageNet weights {name} (licence {source.get('license') or 'not stated'}), made for "
        f"inputs normalised by mean {source.get('mean')} and std {source.get('std')}"
    )


@dataclass(frozen=True)
class Found:
    """The state dict of a file that holds a backbone.

    Attributes:
        prefix: what stands before the backbone's keys.
        layout: which of :data:`regionssl.backbones.layouts.BACKBONES` the keys have.
        backbone: the tensors below the prefix; those of the backbone in our names, others in the file's.
        others: the tensors of the state dict that are not the backbone's, by the file's names.
    """

    prefix: str
    layout: str
    backbone: dict[str, Tensor]
    others: dict[str, Tensor]

    def beside(self) -> dict[str, tuple[str, ...]]:
        """For each of ``others`` that belongs to the same network and is known: what it may be in our names."""
        parts = self.prefix.split(".")[:-1]
        places = ["".join(f"{part}." for part in parts[:end]) for end in range(len(parts), -1, -1)][:_PLACES]
        found = {}
        for key in self.others:
            names = [branch_keys(key.removeprefix(place)) for place in places if key.startswith(place)]
            if any(names):
                found[key] = next(name for name in names if name)
        return found


def find_backbone(path: Path, encoder: Encoder) -> Found:
    """The backbone in a file of weights: under whatever prefix and in whichever layout most of its keys are found.

    Raises:
        InputError: the file cannot be read, or holds nothing of the backbone.
    """
    wanted = {layout: {rename(key): key for key in encoder.body.state_dict()} for layout, rename in BACKBONES.items()}
    best: tuple[int, int] = (0, -1)
    found: Found | None = None
    for tensors in state_dicts(read_weights(path)):
        for layout, names in wanted.items():
            for prefix, count in _prefix_counts(tensors, names).items():
                rank = (count, _preference(prefix))
                if rank > best:
                    below = {
                        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
                    }
                    renamed = {names.get(key, key): value for key, value in below.items()}
                    own = {prefix + key for key in names}
                    others = {key: value for key, value in tensors.items() if key not in own}
                    best, found = rank, Found(prefix, layout, renamed, others)
    if found is None:
        raise InputError(f"{path} holds no weights of {encoder.name}: no key matches, under any prefix")
    return found


def _preference(prefix: str) -> int:
    """2 for a trained network, 0 for a slow copy, 1 if the prefix does not tell."""
    parts = set(prefix.split("."))
    return 0 if parts & _SLOW else 2 if parts & _TRAINED else 1


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
