"""To torchvision: ResNets in torchvision's keys, and loading them into its detectors.

timm and torchvision call the tensors of a ResNet by the same names; that they compute the same is checked on the
written file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from regionssl.errors import InputError
from regionssl.export.resnets import resnet_name, stride_style
from regionssl.export.target import (
    MAPS,
    Comparison,
    Options,
    Target,
    TestImages,
    Trained,
    WeightFile,
    compare,
    features,
    load_exactly,
    not_exported,
    read_export,
)
from regionssl.export.torchvision_fpn import fpn_file


def weight_files(trained: Trained, options: Options) -> list[WeightFile]:
    """The backbone, and the FPN if one was trained.

    Raises:
        InputError: torchvision has no such architecture under the same names.
    """
    name = resnet_name(trained, "torchvision")
    facts = {
        "architecture": name,
        "keys": f"torchvision.models.{name}() without fc; body of a torchvision detector",
        "stride_style": stride_style(name),
        "not_in_file": ["fc.weight", "fc.bias"],
        "not_exported": not_exported(trained, options),
    }
    files = [WeightFile("", backbone_tensors(trained), facts, lambda path, images: verify(trained, path, images))]
    if trained.fpn is not None and options.fpn:
        files.append(fpn_file(trained, trained.fpn, name))
    return files


def backbone_tensors(trained: Trained) -> dict[str, Tensor]:
    """The backbone in torchvision's keys."""
    return dict(trained.body)


def verify(trained: Trained, path: Path, images: TestImages) -> Comparison:
    """Compare c2 to c5 of the body of a torchvision detector, loaded from ``path``, with the run's.

    Raises:
        InputError: keys, shapes or maps differ.
    """
    name = resnet_name(trained, "torchvision")
    target = resnet_fpn_backbone(backbone_name=name, weights=None, norm_layer=nn.BatchNorm2d)
    load_exactly(target.body, path)
    inputs = images(trained.card["size"])
    theirs = features(target.body, inputs)
    return compare(features(trained.encoder, inputs), dict(zip(MAPS, theirs.values(), strict=True)))


@dataclass(frozen=True)
class Loaded:
    """What happened to the tensors of a detector's backbone and of the files.

    Attributes:
        loaded: names of the model's tensors that now hold pre-trained values.
        fresh: names of the tensors of ``model.backbone`` that keep the values they had.
        unused: names of tensors of the files that found no place, each with the reason.
    """

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: dict[str, str]

    def __str__(self) -> str:
        fresh = ", ".join(self.fresh) or "none"
        return f"loaded {len(self.loaded)} tensors; fresh: {fresh}; unused: {self.unused or 'none'}"


def load_into_detector(model: nn.Module, file: str | Path) -> Loaded:
    """Load an export, and the FPN beside it, into a torchvision detector such as ``maskrcnn_resnet50_fpn``.

    The FPN goes to the levels of the same strides, also where the pyramid starts at c3 (RetinaNet); tensors of it that
    the detector has no place for are left out and reported. Nothing is changed if an error is raised.

    Args:
        model: has ``backbone.body``, a ResNet, and perhaps ``backbone.fpn``; any norm layer.
        file: what ``regionssl export --to torchvision --out`` was given.

    Raises:
        InputError: ``file`` is no such export or was changed since, or the detector has another backbone.
    """
    backbone = getattr(model, "backbone", None)
    body = getattr(backbone, "body", None)
    layers = getattr(body, "return_layers", None)
    if not isinstance(backbone, nn.Module) or not isinstance(body, nn.Module) or not isinstance(layers, dict):
        raise InputError(
            f"{type(model).__name__} has no backbone.body of torchvision's detectors; load the file with "
            "load_state_dict(load_file(FILE), strict=False) into the ResNet itself"
        )
    path = Path(file)
    tensors, card = read_export(path, "torchvision")
    placed = _body_places(body, tensors, card["architecture"])
    unused: dict[str, str] = {}
    if card["fpn_file"] is not None:
        pyramid, _ = read_export(path.with_name(card["fpn_file"]), "torchvision")
        fitting, unused = _fpn_places(getattr(backbone, "fpn", None), list(layers), pyramid)
        placed |= fitting
    backbone.load_state_dict(placed, strict=False)
    known = list(backbone.state_dict())
    return Loaded(
        tuple(f"backbone.{key}" for key in known if key in placed),
        tuple(f"backbone.{key}" for key in known if key not in placed),
        unused,
    )


def _body_places(body: nn.Module, tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors by their names below ``backbone``; frozen batch norms have no ``num_batches_tracked``."""
    expected = {key: tensor.shape for key, tensor in body.state_dict().items()}
    counters = {key for key in tensors if key.endswith("num_batches_tracked")}
    found = {key: tensor.shape for key, tensor in tensors.items() if key in expected or key not in counters}
    if found != expected:
        differing = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))
        raise InputError(
            f"the detector's backbone is not the {name} of this file: they differ in {len(differing)} tensors, the "
            f"first is {differing[0]}; build the detector on {name}"
        )
    return {f"body.{key}": tensors[key] for key in found}


def _fpn_places(
    fpn: nn.Module | None, layers: list[str], tensors: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The pyramid's tensors that fit, by their names below ``backbone``, and why the others do not.

    Args:
        layers: the stages of the ResNet that the detector's pyramid stands on, in its order.
    """
    expected = {} if fpn is None else fpn.state_dict()
    placed, unused = {}, {}
    for key, tensor in tensors.items():
        kind, position, rest = key.split(".", 2)
        layer = f"layer{int(position) + 1}"
        block = f"{kind}.{layers.index(layer)}" if layer in layers else "none"
        place = f"{block}.{rest}"
        if place not in expected:
            unused[f"fpn.{key}"] = "the detector has no such tensor"
        elif expected[place].shape != tensor.shape:
            unused[f"fpn.{key}"] = f"shape {tuple(tensor.shape)}, the detector's is {tuple(expected[place].shape)}"
        elif f"{kind}.{position}.1.weight" in tensors and f"{block}.1.weight" not in expected:
            unused[f"fpn.{key}"] = "trained with a batch norm behind it, which the detector's pyramid lacks"
        else:
            placed[f"fpn.{place}"] = tensor
    return placed, unused


TARGET = Target(weight_files, (".safetensors",), "torchvision's own model", frozenset({"fpn"}))
