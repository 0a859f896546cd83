"""The names that other code gives to the tensors of a ResNet, of its pyramid and of pre-training heads.

"Ours" are timm's names for the backbone, which for ResNets are torchvision's too; for the rest, the names below the
branch that a method trains: ``fpn.*``, ``head.*`` (MoCo's and ReSim's image head), ``projector.*``, ``predictor.*``.

    sequential   the children of a ResNet in a plain sequence, named by position: SCRL (3 and 5.5), R2O (7)
    detectron2   ReSim (6.1) and ORL (6.1) convert to it; so does ``regionssl export --to detectron2``
"""

from __future__ import annotations

import re
from collections.abc import Callable

_STAGE = re.compile(r"layer(\d)\.")
_NORM = re.compile(r"\bbn(\d)\.")


def sequential_key(key: str) -> str:
    """``conv1.weight`` -> ``0.weight``, ``bn1.bias`` -> ``1.bias``, ``layer1.0.bn1.bias`` -> ``4.0.bn1.bias``."""
    if key.startswith("conv1."):
        return "0." + key.removeprefix("conv1.")
    if key.startswith("bn1."):
        return "1." + key.removeprefix("bn1.")
    return _STAGE.sub(lambda match: f"{int(match[1]) + 3}.", key, count=1)


def detectron2_key(key: str) -> str:
    """``bn1.weight`` -> ``stem.conv1.norm.weight``, ``layer1.0.downsample.1.bias`` -> ``res2.0.shortcut.norm.bias``."""
    if not _STAGE.match(key):
        return "stem." + _NORM.sub(r"conv\1.norm.", key)
    renamed = _STAGE.sub(lambda match: f"res{int(match[1]) + 1}.", key, count=1)
    renamed = renamed.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    return _NORM.sub(r"conv\1.norm.", renamed)


# Layout -> our key of the backbone -> its key there.
BACKBONES: dict[str, Callable[[str], str]] = {
    "torchvision": lambda key: key,
    "sequential": sequential_key,
    "detectron2": detectron2_key,
}

# Our block of the pyramid -> detectron2's, which ReSim's release has too.
DETECTRON2_FPN = {
    "inner_blocks.c3": "fpn_lateral3",
    "inner_blocks.c4": "fpn_lateral4",
    "inner_blocks.c5": "fpn_lateral5",
    "layer_blocks.p3": "fpn_output3",
    "layer_blocks.p4": "fpn_output4",
}


def detectron2_fpn_key(key: str) -> str:
    """A key of our FPN in detectron2's pyramid: ``inner_blocks.c5.1.bias`` -> ``fpn_lateral5.norm.bias``."""
    kind, level, position, rest = key.split(".", 3)
    return f"{DETECTRON2_FPN[f'{kind}.{level}']}.{'norm.' if position == '1' else ''}{rest}"


_FPN_BACK = {theirs: ours for ours, theirs in DETECTRON2_FPN.items()}
_PYRAMID = re.compile(r"(?:backbone\.)?(fpn_(?:lateral[345]|output[34]))\.(?:(0|1|norm)\.)?(\w+)")
_IMAGE_HEAD = re.compile(r"(?:stem\.)?fc\.([02])\.(\w+)")
_ORL = re.compile(r"(neck|online_net\.1|(?:global_|local_intra_|local_inter_)?head\.predictor)\.(fc0|bn0|fc1)\.(\w+)")
_ORL_LAYERS = {"fc0": "0", "bn0": "1", "fc1": "3"}
_ORL_PREDICTORS = {
    "head": ("predictor", "predictor.global"),
    "global_head": ("predictor.global", "predictor"),
    "local_intra_head": ("predictor.intra",),
    "local_inter_head": ("predictor.inter",),
}
_OURS = re.compile(r"(fpn|head|projector|predictor|cell_head|projection)\.")


def branch_keys(key: str) -> tuple[str, ...]:
    """Our names, the likeliest first, for a tensor beside the backbone; none if it is not known what it is.

    Args:
        key: relative to the backbone's prefix or to what that is in, such as ``fc.0.weight`` (MoCo v2, ReSim),
            ``fpn_lateral5.bias`` (ReSim 6.1) or ``neck.fc0.weight`` (ORL).
    """
    if match := _PYRAMID.fullmatch(key):
        position = "1" if match[2] in ("1", "norm") else "0"
        return (f"fpn.{_FPN_BACK[match[1]]}.{position}.{match[3]}",)
    if match := _IMAGE_HEAD.fullmatch(key):
        return (f"head.{match[1]}.{match[2]}",)
    if match := _ORL.fullmatch(key):
        rest = f"{_ORL_LAYERS[match[2]]}.{match[3]}"
        modules = _ORL_PREDICTORS.get(match[1].removesuffix(".predictor"), ("projector",))
        return tuple(f"{module}.{rest}" for module in modules)
    return (key,) if _OURS.match(key) else ()
