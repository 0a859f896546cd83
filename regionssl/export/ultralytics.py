"""To Ultralytics and everything else that takes a plain state dict of torchvision's ResNet: a ``.pt`` file.

Ultralytics' ``TorchVision`` module holds a torchvision model as ``m``, either whole or as a sequence of its children.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from regionssl.backbones.layouts import sequential_key
from regionssl.backbones.weight_files import read_weights, state_dicts
from regionssl.errors import InputError
from regionssl.export.resnets import pixel_facts, resnet_name, stride_style
from regionssl.export.target import (
    MAPS,
    NO_FPN,
    Comparison,
    Options,
    Target,
    TestImages,
    Trained,
    WeightFile,
    compare,
    features,
    not_exported,
    put_exactly,
)

CLASSIFIER = frozenset({"fc.weight", "fc.bias"})
_CHILDREN = 8  # conv1, bn1, relu, maxpool, layer1 to layer4


def weight_files(trained: Trained, options: Options) -> list[WeightFile]:
    """The backbone alone; such a file has no place for a pyramid.

    Raises:
        InputError: torchvision has no such architecture under the same names.
    """
    name = resnet_name(trained, "ultralytics")
    facts = {
        "format": "torch file: a plain state dict",
        "architecture": name,
        "keys": f"torchvision.models.{name}() without fc",
        "stride_style": stride_style(name),
        "not_in_file": sorted(CLASSIFIER),
        "not_exported": not_exported(trained, NO_FPN),
        **pixel_facts(trained, options.colours),
        "notes": ["YOLO models get pixels divided by 255 without mean and std: fine-tune with live batch norms"],
    }
    return [WeightFile("", dict(trained.body), facts, lambda path, images: verify(trained, path, images), write)]


def write(path: Path, tensors: dict[str, Tensor]) -> None:
    """A plain torch file."""
    with path.open("wb") as file:
        torch.save(tensors, file)


def verify(trained: Trained, path: Path, images: TestImages) -> Comparison:
    """Compare maps of torchvision's ResNet, whole and as a sequence of its children, with the run's.

    Raises:
        InputError: keys, shapes or maps differ.
    """
    model = torchvision.models.get_model(resnet_name(trained, "ultralytics"), weights=None)
    put_exactly(model, read_weights(path), CLASSIFIER)
    other = torchvision.models.get_model(resnet_name(trained, "ultralytics"), weights=None)
    children = nn.Sequential(*list(other.children())[:_CHILDREN])
    load_into_children(children, path)
    inputs = images(trained.card["size"])
    ours = features(trained.encoder, inputs)
    compare(ours, features(Stages(nn.Sequential(*list(model.children())[:_CHILDREN])), inputs))
    return compare(ours, features(Stages(children), inputs))


class Stages(nn.Module):
    """The children of a ResNet in sequence: images -> c2 to c5."""

    def __init__(self, children: nn.Sequential) -> None:
        super().__init__()
        self.m = children

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = []
        for child in self.m:
            x = child(x)
            maps.append(x)
        return dict(zip(MAPS, maps[-4:], strict=True))


def load_into_children(model: nn.Module, file: str | Path) -> int:
    """Load an exported file into the children of a ResNet in sequence, as ``TorchVision`` of Ultralytics holds them.

    Args:
        model: the sequence (``model.model.model[0].m`` of a YOLO model whose first layer is ``TorchVision``), or a
            whole torchvision ResNet.
        file: what ``regionssl export --to ultralytics --out`` was given.

    Returns:
        The number of tensors that were loaded.

    Raises:
        InputError: the file cannot be read, or the model is another ResNet; it is then unchanged.
    """
    tensors, own = next(state_dicts(read_weights(Path(file))), {}), model.state_dict()
    named = tensors if "conv1.weight" in own else {sequential_key(key): value for key, value in tensors.items()}
    wrong = [key for key in own.keys() - CLASSIFIER if key not in named or named[key].shape != own[key].shape]
    surplus = named.keys() - own.keys()
    if wrong or surplus:
        raise InputError(
            f"the model is not the ResNet of {file}: {len(wrong)} of its tensors and {len(surplus)} of the file's find "
            f"no counterpart, such as {min([*wrong, *surplus])}; build it on the architecture that the JSON names"
        )
    model.load_state_dict(named, strict=False)
    return len(named)


TARGET = Target(weight_files, (".pt", ".pth"), "torchvision's own model, whole and as a sequence of its children")
