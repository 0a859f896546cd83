"""What a file of weights holds beside the backbone: pyramid, projector, predictor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from regionssl.backbones.encoder import Encoder
from regionssl.backbones.weights import find_backbone, weights_path


@dataclass(frozen=True)
class Taken:
    """What was taken from a file beside the backbone.

    Attributes:
        modules: of the method, and how many tensors each got.
        left: groups of tensors of the file that were not taken, and why or how many.
    """

    modules: dict[str, int]
    left: dict[str, str]

    def __str__(self) -> str:
        taken = ", ".join(f"{name} ({count} tensors)" for name, count in self.modules.items()) or "nothing"
        left = ", ".join(f"{name} ({why})" for name, why in self.left.items()) or "nothing"
        return f"beside the backbone: taken {taken}; not taken {left}"


def initialise_beside(branches: Sequence[nn.Module], encoder: Encoder, init: str) -> Taken:
    """Load what a file holds of the modules beside the backbone, such as pyramid, projector and predictor.

    A module is loaded whole or not at all, and alike into all branches that have it.

    Args:
        branches: the trained network, then its slow copies.
        encoder: the trained network's backbone, by which the file is understood.
        init: a file or a run folder, as :func:`initialise` takes it.

    Raises:
        InputError: the file cannot be read.
    """
    found = find_backbone(weights_path(init), encoder)
    known = branches[0].state_dict() if branches else {}
    placed: dict[str, Tensor] = {}
    origin: dict[str, list[str]] = {}
    for key, names in found.beside().items():
        if name := next((name for name in names if name in known), None):
            placed[name] = found.others[key]
            origin.setdefault(_module(name), []).append(key)
    modules, left, refused = {}, dict(found.others), {}
    for module, keys in origin.items():
        own = {name: value.shape for name, value in known.items() if _module(name) == module}
        fitting = {name: placed[name] for name in own if name in placed and placed[name].shape == own[name]}
        left = {key: value for key, value in left.items() if key not in keys}
        if any(name not in fitting for name in own if not name.endswith("num_batches_tracked")):
            refused[module] = "of another shape or incomplete"
            continue
        for branch in branches:
            own_names = branch.state_dict().keys()
            branch.load_state_dict({name: value for name, value in fitting.items() if name in own_names}, strict=False)
        modules[module] = len(fitting)
    groups = Counter(".".join(key.split(".")[:2]) for key in left)
    counts = {name: f"{count} tensor{'s' if count > 1 else ''}" for name, count in groups.items()}
    return Taken(modules, refused | counts)


def _module(name: str) -> str:
    """``fpn.inner_blocks.c5.0.bias`` -> ``fpn``; of several predictors each is one: ``predictor.global``."""
    first, second = name.split(".")[:2]
    return f"{first}.{second}" if first == "predictor" and not second.isdigit() else first


def pyramid_tensors(path: Path, encoder: Encoder) -> dict[str, Tensor]:
    """The pyramid in a file, by its names in :class:`regionssl.backbones.fpn.FPN`; empty if there is none.

    Raises:
        InputError: the file cannot be read.
    """
    found = find_backbone(path, encoder)
    named = {name: found.others[key] for key, names in found.beside().items() for name in names}
    return {name.removeprefix("fpn."): value for name, value in named.items() if name.startswith("fpn.")}
