"""To Hugging Face: a folder with ``config.json`` and ``model.safetensors`` for transformers' ResNet."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from regionssl.export.resnets import PLAIN, RESNETS, Shape, pixel_facts, resnet_name, stride_style
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
    load_exactly,
    not_exported,
)

CONFIG, WEIGHTS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
_BLOCK = re.compile(r"layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)\.(.+)")


def huggingface_key(key: str) -> str:
    """``layer1.0.bn2.bias`` -> ``encoder.stages.0.layers.0.layer.1.normalization.bias``."""
    match = _BLOCK.fullmatch(key)
    if match is None:
        kind, rest = key.split(".", 1)
        return f"embedder.embedder.{'convolution' if kind == 'conv1' else 'normalization'}.{rest}"
    stage, block, kind, number, rest = match.groups()
    if kind == "downsample.":
        place, part = "shortcut", "convolution" if number == "0" else "normalization"
    else:
        place, part = f"layer.{int(number) - 1}", "convolution" if kind == "conv" else "normalization"
    return f"encoder.stages.{int(stage) - 1}.layers.{block}.{place}.{part}.{rest}"


def model_config(shape: Shape) -> dict[str, Any]:
    """``config.json``: a ResNet with its stride in the 3x3 convolution, whose four stages a backbone hands out."""
    return {
        "architectures": ["ResNetModel"],
        "model_type": "resnet",
        "num_channels": 3,
        "embedding_size": 64,
        "hidden_sizes": list(shape.channels),
        "depths": list(shape.blocks),
        "layer_type": "bottleneck" if shape.bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
        "stage_names": ["stem", "stage1", "stage2", "stage3", "stage4"],
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
        "out_indices": [1, 2, 3, 4],
        "torch_dtype": "float32",
    }


def preprocessor_config(trained: Trained) -> dict[str, Any]:
    """``preprocessor_config.json``: what an image processor must do to pictures."""
    side = trained.card["size"]
    return {
        "image_processor_type": "ConvNextImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "crop_pct": 1.0,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(trained.card["mean"]),
        "image_std": list(trained.card["std"]),
    }


def weight_files(trained: Trained, options: Options) -> list[WeightFile]:
    """One folder.

    Raises:
        InputError: transformers' ResNet has no such architecture.
    """
    name = resnet_name(trained, "huggingface", PLAIN)
    facts = {
        "format": f"folder with {CONFIG}, {WEIGHTS} and {PREPROCESSOR}",
        "architecture": name,
        "keys": "transformers.ResNetModel.from_pretrained(FOLDER) or ResNetBackbone.from_pretrained(FOLDER)",
        "stride_style": stride_style(name),
        "not_in_file": [],
        "not_exported": not_exported(trained, NO_FPN),
        **pixel_facts(trained, options.colours),
    }
    tensors = {huggingface_key(key): tensor for key, tensor in trained.body.items()}
    return [
        WeightFile(
            "", tensors, facts, lambda path, images: verify(trained, path, images), partial(write, trained=trained)
        )
    ]


def write(folder: Path, tensors: dict[str, Tensor], trained: Trained) -> None:
    """Make the folder."""
    folder.mkdir()
    shape = RESNETS[resnet_name(trained, "huggingface", PLAIN)]
    (folder / CONFIG).write_text(json.dumps(model_config(shape), indent=2) + "\n")
    (folder / PREPROCESSOR).write_text(json.dumps(preprocessor_config(trained), indent=2) + "\n")
    save_file(tensors, str(folder / WEIGHTS), metadata={"format": "pt"})


def verify(trained: Trained, folder: Path, images: TestImages) -> Comparison:
    """Compare maps of a ResNet built from ``config.json`` in transformers' names with the run's.

    Raises:
        InputError: keys, shapes or maps differ.
    """
    model = ResNet(json.loads((folder / CONFIG).read_text()))
    load_exactly(model, folder / WEIGHTS)
    inputs = images(trained.card["size"])
    return compare(features(trained.encoder, inputs), features(model, inputs))


class ConvLayer(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, act: bool = True) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.normalization = nn.BatchNorm2d(outputs)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalization(self.convolution(x))
        return F.relu(x) if self.act else x


class Layer(nn.Module):
    """A residual block."""

    def __init__(self, inputs: int, outputs: int, stride: int, config: dict[str, Any]) -> None:
        super().__init__()
        if config["layer_type"] == "bottleneck":
            width = outputs // 4
            first, second = (stride, 1) if config["downsample_in_bottleneck"] else (1, stride)
            layers = [ConvLayer(inputs, width, 1, first), ConvLayer(width, width, 3, second)]
            self.layer = nn.Sequential(*layers, ConvLayer(width, outputs, 1, act=False))
        else:
            self.layer = nn.Sequential(ConvLayer(inputs, outputs, 3, stride), ConvLayer(outputs, outputs, 3, act=False))
        changed = inputs != outputs or stride != 1
        self.shortcut = ConvLayer(inputs, outputs, 1, stride, act=False) if changed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layer(x) + self.shortcut(x))


class ResNet(nn.Module):
    """A stand-in for transformers' ResNet, in names and arithmetic: normalised images -> c2 to c5."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.embedder = nn.ModuleDict({"embedder": ConvLayer(3, config["embedding_size"], 7, 2)})
        inputs, stages = config["embedding_size"], []
        for stage, (outputs, depth) in enumerate(zip(config["hidden_sizes"], config["depths"], strict=True)):
            halves = stage > 0 or config["downsample_in_first_stage"]
            layers = [Layer(inputs, outputs, 2 if halves else 1, config)]
            layers += [Layer(outputs, outputs, 1, config) for _ in range(depth - 1)]
            stages.append(nn.ModuleDict({"layers": nn.Sequential(*layers)}))
            inputs = outputs
        self.encoder = nn.ModuleDict({"stages": nn.ModuleList(stages)})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x, maps = F.max_pool2d(self.embedder["embedder"](x), 3, 2, 1), {}
        for place, name in enumerate(MAPS):
            maps[name] = x = self.encoder.get_submodule(f"stages.{place}.layers")(x)
        return maps


TARGET = Target(weight_files, (), "a ResNet in transformers' names and arithmetic")
