"""To detectron2: a ``.pkl`` in its names, loaded by matching the ends of names (ReSim 6.1, ORL 6.1)."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from regionssl.backbones.fpn import FPN
from regionssl.backbones.layouts import detectron2_fpn_key, detectron2_key
from regionssl.backbones.weight_files import read_weights, state_dicts
from regionssl.errors import InputError
from regionssl.export.detectron2_layout import Detector, Pyramid, matched
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
)


def detectron2_tensors(trained: Trained, options: Options) -> dict[str, Tensor]:
    """Backbone and pyramid in the keys that detectron2 matches."""
    body = for_colours(trained.body, options.colours)
    tensors = {detectron2_key(key): tensor for key, tensor in body.items()}
    if trained.fpn is not None and options.fpn:
        fpn = trained.fpn.state_dict()
        tensors |= {f"backbone.{detectron2_fpn_key(key)}": tensor for key, tensor in fpn.items()}
    return tensors


def weight_files(trained: Trained, options: Options) -> list[WeightFile]:
    """One file; the pyramid is in it, and detectors without one pass it over.

    Raises:
        InputError: detectron2 has no such architecture.
    """
    name = resnet_name(trained, "detectron2")
    fpn = trained.fpn if options.fpn else None
    facts: dict[str, Any] = {
        "format": "pickle of numpy arrays: model, __author__, matching_heuristics",
        "architecture": name if fpn is None else f"{name} with FPN",
        "keys": "MODEL.WEIGHTS of a detectron2 config",
        "stride_style": stride_style(name),
        "settings": settings(trained, options),
        "not_in_file": [] if fpn is None else ["fpn_lateral2", "fpn_output2", "fpn_output5"],
        "not_exported": not_exported(trained, options),
        **pixel_facts(trained, options.colours),
    }
    if fpn is not None:
        facts |= {"width": shape_of(fpn)[0], "batch_norm": shape_of(fpn)[1], "notes": notes(fpn)}

    def verified(path: Path, images: TestImages) -> Comparison:
        return verify(trained, options, path, images)

    return [WeightFile("", detectron2_tensors(trained, options), facts, verified, write)]


def shape_of(fpn: FPN) -> tuple[int, bool]:
    """Channels of a pyramid and whether it has batch norm."""
    tensors = fpn.state_dict()
    return tensors["layer_blocks.p4.0.weight"].shape[0], "layer_blocks.p4.1.weight" in tensors


def settings(trained: Trained, options: Options) -> dict[str, Any]:
    """What a detectron2 config must say for these weights, by its dotted keys."""
    name = resnet_name(trained, "detectron2")
    shape, pixels = RESNETS[name], pixel_facts(trained, options.colours)
    facts: dict[str, Any] = {
        "INPUT.FORMAT": options.colours,
        "MODEL.PIXEL_MEAN": pixels["pixel_mean"],
        "MODEL.PIXEL_STD": pixels["pixel_std"],
        "MODEL.RESNETS.DEPTH": shape.depth,
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.RESNETS.NUM_GROUPS": shape.groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": shape.width_per_group,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": shape.channels[0],
    }
    if trained.fpn is not None and options.fpn:
        facts["MODEL.FPN.OUT_CHANNELS"] = shape_of(trained.fpn)[0]
    return facts


def notes(fpn: FPN) -> list[str]:
    """How a detector must be built to take the whole pyramid."""
    found = ["not pre-trained, a detector's own stay as they are: fpn_lateral2, fpn_output2, fpn_output5"]
    if shape_of(fpn)[1]:
        found.append('trained with batch norm: set MODEL.FPN.NORM to "BN" or "SyncBN", or the norms stay behind')
    else:
        found.append('trained without norm: with a MODEL.FPN.NORM other than "" its biases stay behind')
    return found


def write(path: Path, tensors: dict[str, Tensor]) -> None:
    """The pickle that detectron2's checkpointer reads as one of its own."""
    arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
    content = {"model": arrays, "__author__": "regionssl", "matching_heuristics": True}
    with path.open("wb") as file:
        _Pickler(file, protocol=4).dump(content)


class _Pickler(pickle.Pickler):
    """Writes arrays such that every numpy reads them: numpy 2 would name a module that numpy 1 lacks."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray):
            return np.ndarray, (obj.shape, obj.dtype.str, bytearray(obj.tobytes()))
        return NotImplemented


def verify(trained: Trained, options: Options, path: Path, images: TestImages) -> Comparison:
    """Compare maps of a detector in detectron2's layout, fed with pixels and loaded by its rule, with the run's.

    Raises:
        InputError: a tensor finds no place, or maps differ.
    """
    shape = RESNETS[resnet_name(trained, "detectron2")]
    width, norm = (256, False) if trained.fpn is None else shape_of(trained.fpn)
    pixels = pixel_facts(trained, options.colours)
    detector = Detector(Pyramid(shape, width, norm), pixels["pixel_mean"], pixels["pixel_std"]).eval()
    tensors = next(state_dicts(read_weights(path), depth=2))
    places = matched(detector, tensors)
    lost = sorted(tensors.keys() - set(places.values()))
    if lost:
        raise InputError(f"detectron2 would not load {len(lost)} of the exported tensors: {lost[:5]}")
    detector.load_state_dict({key: tensors[name] for key, name in places.items()}, strict=False)
    inputs = images(trained.card["size"] // 32 * 32)
    fed = as_pixels(inputs, trained, options.colours)
    ours, theirs = features(trained.encoder, inputs), features(detector, fed)
    compared = compare(ours, {name: theirs[f"res{name[1]}"] for name in MAPS})
    if trained.fpn is not None and options.fpn:
        compared |= compare(features(trained.fpn, ours), theirs)
    return compared


TARGET = Target(
    weight_files, (".pkl",), "a detector in detectron2's names and arithmetic", frozenset({"colours", "fpn"})
)
