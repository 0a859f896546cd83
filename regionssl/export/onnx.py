"""To ONNX: the backbone with its maps c2 to c5 as outputs, batch and size free."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from regionssl.errors import InputError
from regionssl.export.resnets import pixel_facts
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
)

OPSET = 17
_BATCHES = (1, 2)


class Maps(nn.Module):
    """A backbone whose maps come as a tuple, which ONNX can name."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.encoder(images)
        return tuple(maps[name] for name in MAPS)


def weight_files(trained: Trained, options: Options) -> list[WeightFile]:
    """One file.

    Raises:
        InputError: ``onnxruntime``, which checks it, is not installed.
    """
    runtime()
    facts = {
        "format": f"ONNX, opset {OPSET}",
        "architecture": trained.encoder.name,
        "keys": f"input images (N, 3, H, W) float32, normalised; outputs {', '.join(MAPS)}",
        "not_in_file": [],
        "not_exported": not_exported(trained, NO_FPN),
        **pixel_facts(trained, options.colours),
    }
    write_graph = partial(write, trained=trained)
    return [WeightFile("", trained.body, facts, lambda path, images: verify(trained, path, images), write_graph)]


def runtime() -> Any:
    """The module ``onnxruntime``.

    Raises:
        InputError: it is not installed.
    """
    try:
        import onnx  # noqa: F401  torch's exporter needs it
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f"--to onnx needs {error.name}, to write the file and to check it: pip install 'regionssl[onnx]'"
        ) from error
    return onnxruntime


def write(path: Path, tensors: dict[str, Tensor], trained: Trained) -> None:
    """Trace the run's backbone into a graph.

    Raises:
        InputError: torch cannot express the architecture.
    """
    free = {name: {0: "batch", 2: f"{name}_height", 3: f"{name}_width"} for name in MAPS}
    example = torch.zeros(2, 3, trained.card["size"], trained.card["size"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every Python number, the exporter of its successor
        try:
            # the successor takes minutes where this takes seconds, and fixes sizes in more architectures
            torch.onnx.export(
                Maps(trained.encoder).eval(),
                (example,),
                str(path),
                input_names=["images"],
                output_names=list(MAPS),
                dynamic_axes={"images": {0: "batch", 2: "height", 3: "width"}, **free},
                opset_version=OPSET,
                dynamo=False,
            )
        except (RuntimeError, ValueError, TypeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"torch cannot write {trained.encoder.name} as ONNX: {reason}; use --to timm") from error


def verify(trained: Trained, path: Path, images: TestImages) -> Comparison:
    """Compare the maps that onnxruntime gives with the run's, at two sizes and two batches, one of them not square.

    Raises:
        InputError: shapes or maps differ, or the graph runs at one size only.
    """
    session = runtime().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    size, found = trained.card["size"], {}
    square, wide = images(size)[: _BATCHES[0]], images(2 * size)[: _BATCHES[1], :, : size + 32]
    for inputs in (square, wide):
        try:
            outputs = session.run(list(MAPS), {"images": inputs.contiguous().numpy()})
        except Exception as error:  # onnxruntime raises its own kinds
            shape = "x".join(str(side) for side in inputs.shape[2:])
            raise InputError(
                f"{trained.encoder.name} as ONNX does not run on images of {shape} px: "
                f"{str(error).strip().splitlines()[0]}; use --to timm"
            ) from error
        theirs = {name: torch.from_numpy(output) for name, output in zip(MAPS, outputs, strict=True)}
        found = compare(features(trained.encoder, inputs), theirs)
    return found


TARGET = Target(weight_files, (".onnx",), "onnxruntime, at two sizes and two batches")
