"""To mmdetection: one state dict with ``backbone.*`` and, of a trained pyramid, ``neck.*``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter

from regionssl.backbones.fpn import FPN
from regionssl.backbones.weight_files import read_weights
from regionssl.export.detectron2 import shape_of
from regionssl.export.resnets import RESNETS, as_pixels, for_colours, pixel_facts, resnet_name, stride_style
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
    not_exported,
    put_exactly,
)

# mmdetection's ResNet and ResNeXt; it has no wide ones.
ARCHITECTURES = tuple(name for name in RESNETS if not name.startswith("wide"))

# Module of our FPN -> module of a neck over c2 to c5.
NECK_BLOCKS = {
    "inner_blocks.c3": "lateral_convs.1",
    "inner_blocks.c4": "lateral_convs.2",
    "inner_blocks.c5": "lateral_convs.3",
    "layer_blocks.p3": "fpn_convs.1",
    "layer_blocks.p4": "fpn_convs.2",
}
UNTRAINED = ("neck.lateral_convs.0", "neck.fpn_convs.0", "neck.fpn_convs.3")


class ConvModule(nn.Module):
    """A convolution, and a batch norm behind it or a bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not norm)
        if norm:
            self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.bn(x) if hasattr(self, "bn") else x


class Neck(nn.Module):
    """mmdetection's ``FPN`` over c2 to c5 in names and arithmetic: maps -> ``{"p2": ..., "p5": ...}``."""

    def __init__(self, channels: tuple[int, ...], width: int = 256, norm: bool = False) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(ConvModule(inputs, width, 1, norm) for inputs in channels)
        self.fpn_convs = nn.ModuleList(ConvModule(width, width, 3, norm) for _ in channels)

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        merged = [lateral(features) for lateral, features in zip(self.lateral_convs, maps, strict=True)]
        for place in range(len(merged) - 1, 0, -1):
            finer = merged[place - 1]
            merged[place - 1] = finer + F.interpolate(merged[place], size=finer.shape[-2:], mode="nearest")
        outputs = [out(features) for out, features in zip(self.fpn_convs, merged, strict=True)]
        return {f"p{level}": output for level, output in enumerate(outputs, start=2)}


class Detector(nn.Module):
    """``backbone`` and ``neck``: normalised images -> c2 to c5 and p2 to p5."""

    def __init__(self, name: str, width: int = 256, norm: bool = False) -> None:
        super().__init__()
        layers = {f"layer{place}": f"c{place + 1}" for place in range(1, 5)}
        self.backbone = IntermediateLayerGetter(torchvision.models.get_model(name, weights=None), layers)
        self.neck = Neck(RESNETS[name].channels, width, norm)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = self.backbone(x)
        return maps | self.neck([maps[name] for name in MAPS])


def neck_key(key: str) -> str:
    """A key of our FPN in mmdetection's neck: ``inner_blocks.c5.1.bias`` -> ``lateral_convs.3.bn.bias``."""
    kind, level, position, rest = key.split(".", 3)
    return f"{NECK_BLOCKS[f'{kind}.{level}']}.{'bn' if position == '1' else 'conv'}.{rest}"


def mmdetection_tensors(trained: Trained, options: Options) -> dict[str, Tensor]:
    """Backbone and pyramid in mmdetection's keys."""
    body = for_colours(trained.body, options.colours)
    tensors = {f"backbone.{key}": tensor for key, tensor in body.items()}
    if trained.fpn is not None and options.fpn:
        tensors |= {f"neck.{neck_key(key)}": tensor for key, tensor in trained.fpn.state_dict().items()}
    return tensors


def weight_files(trained: Trained, options: Options) -> list[WeightFile]:
    """One file with backbone and pyramid.

    Raises:
        InputError: mmdetection has no such architecture.
    """
    name = resnet_name(trained, "mmdetection", ARCHITECTURES)
    fpn = trained.fpn if options.fpn else None
    facts: dict[str, Any] = {
        "format": "torch file: state_dict, meta",
        "architecture": name if fpn is None else f"{name} with FPN",
        "keys": "init_cfg=dict(type='Pretrained', checkpoint=FILE, prefix='backbone.'); the neck: prefix='neck.'",
        "stride_style": f"{stride_style(name)}: style='pytorch'",
        "settings": settings(trained, options),
        "not_in_file": [] if fpn is None else list(UNTRAINED),
        "not_exported": not_exported(trained, options),
        **pixel_facts(trained, options.colours),
    }
    if fpn is not None:
        facts |= {"width": shape_of(fpn)[0], "batch_norm": shape_of(fpn)[1], "notes": notes(fpn)}

    def verified(path: Path, images: TestImages) -> Comparison:
        return verify(trained, options, path, images)

    return [WeightFile("", mmdetection_tensors(trained, options), facts, verified, write)]


def settings(trained: Trained, options: Options) -> dict[str, Any]:
    """What a config's ``backbone`` and ``data_preprocessor`` must say for these weights."""
    name = resnet_name(trained, "mmdetection", ARCHITECTURES)
    shape, pixels = RESNETS[name], pixel_facts(trained, options.colours)
    grouped = {} if shape.plain else {"groups": shape.groups, "base_width": shape.width_per_group}
    backbone = {"type": "ResNet" if shape.plain else "ResNeXt", "depth": shape.depth, **grouped, "style": "pytorch"}
    images = {"mean": pixels["pixel_mean"], "std": pixels["pixel_std"], "bgr_to_rgb": options.colours == "RGB"}
    return {"backbone": backbone, "data_preprocessor": images}


def notes(fpn: FPN) -> list[str]:
    """How a detector must be built to take the whole pyramid."""
    width, norm = shape_of(fpn)
    found = [f"not pre-trained, a detector's own stay as they are: {', '.join(UNTRAINED)}"]
    if width != 256:
        found.append(f"the pyramid has {width} channels: set out_channels={width} in the neck and in what stands on it")
    found.append("trained with batch norm: give the neck a norm_cfg" if norm else "trained without norm, with biases")
    return found


def write(path: Path, tensors: dict[str, Tensor]) -> None:
    """The torch file that mmengine's checkpoint reader takes."""
    with path.open("wb") as file:
        torch.save({"state_dict": tensors, "meta": {"producer": "regionssl"}}, file)


def verify(trained: Trained, options: Options, path: Path, images: TestImages) -> Comparison:
    """Compare maps of a detector in mmdetection's layout, fed with pixels, with the run's.

    Raises:
        InputError: keys, shapes or maps differ.
    """
    fpn = trained.fpn if options.fpn else None
    width, norm = (256, False) if fpn is None else shape_of(fpn)
    detector = Detector(resnet_name(trained, "mmdetection", ARCHITECTURES), width, norm)
    fresh = ("neck.",) if fpn is None else tuple(f"{block}." for block in UNTRAINED)
    absent = frozenset(key for key in detector.state_dict() if key.startswith(fresh))
    put_exactly(detector, read_weights(path)["state_dict"], absent)
    inputs = images(trained.card["size"])
    pixels = pixel_facts(trained, options.colours)
    mean, std = (inputs.new_tensor(pixels[key]).view(3, 1, 1) for key in ("pixel_mean", "pixel_std"))
    ours = features(trained.encoder, inputs)
    theirs = features(detector, (as_pixels(inputs, trained, options.colours) - mean) / std)
    return compare(ours, theirs) | ({} if fpn is None else compare(features(fpn, ours), theirs))


TARGET = Target(
    weight_files, (".pth",), "a detector in mmdetection's names and arithmetic", frozenset({"colours", "fpn"})
)
