"""To torchvision: the FPN in the keys of its detectors' pyramid.

torchvision's detectors have pyramids over c2 to c5 with outputs at all four strides; of these, ReSim trains three
lateral and two output convolutions.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from regionssl.backbones.fpn import FPN
from regionssl.export.target import MAPS, Comparison, TestImages, Trained, WeightFile, compare, features, load_exactly

DETECTOR_WIDTH = 256

# Module of our FPN -> module of a torchvision pyramid over c2, c3, c4, c5 (positions 0 to 3).
FPN_BLOCKS = {
    "inner_blocks.c3": "inner_blocks.1",
    "inner_blocks.c4": "inner_blocks.2",
    "inner_blocks.c5": "inner_blocks.3",
    "layer_blocks.p3": "layer_blocks.1",
    "layer_blocks.p4": "layer_blocks.2",
}
UNTRAINED_BLOCKS = {
    "inner_blocks.0": "lateral convolution of c2",
    "layer_blocks.0": "output convolution at c2's stride",
    "layer_blocks.3": "output convolution at c5's stride",
}


def fpn_tensors(fpn: FPN) -> dict[str, Tensor]:
    """The FPN in the keys of a torchvision pyramid over c2 to c5."""
    tensors = fpn.state_dict()
    return {
        f"{theirs}.{key.removeprefix(f'{ours}.')}": tensor.contiguous()
        for ours, theirs in FPN_BLOCKS.items()
        for key, tensor in tensors.items()
        if key.startswith(f"{ours}.")
    }


def shape_of(tensors: dict[str, Tensor]) -> tuple[int, bool]:
    """Channels of the pyramid and whether it has batch norm, from :func:`fpn_tensors`."""
    return tensors["layer_blocks.2.0.weight"].shape[0], "layer_blocks.2.1.weight" in tensors


def fpn_file(trained: Trained, fpn: FPN, name: str) -> WeightFile:
    """The file of the pyramid; its JSON says what a detector must be like to take it."""
    tensors = fpn_tensors(fpn)
    width, norm = shape_of(tensors)
    notes = [f"not pre-trained, a detector's own stay as they are: {', '.join(UNTRAINED_BLOCKS.values())}"]
    if width != DETECTOR_WIDTH:
        notes.append(
            f"torchvision's ready-made detectors have pyramids of {DETECTOR_WIDTH} channels, this one has {width}: "
            f"build the detector with BackboneWithFPN(..., out_channels={width})"
        )
    if norm:
        notes.append(
            "every convolution is followed by batch norm: build the pyramid with norm_layer=BatchNorm2d, as "
            "fasterrcnn_resnet50_fpn_v2 and maskrcnn_resnet50_fpn_v2 do"
        )
    facts = {
        "architecture": f"FPN of {name}",
        "keys": "torchvision.ops.FeaturePyramidNetwork over c2, c3, c4, c5, such as model.backbone.fpn of a detector",
        "width": width,
        "batch_norm": norm,
        "not_in_file": sorted(UNTRAINED_BLOCKS),
        "notes": notes,
    }
    return WeightFile(".fpn", tensors, facts, lambda path, images: verify(trained, fpn, path, images))


def verify(trained: Trained, fpn: FPN, path: Path, images: TestImages) -> Comparison:
    """Compare p3 and p4 of a torchvision pyramid, loaded from ``path``, with those of the run's, on the run's maps.

    Raises:
        InputError: keys, shapes or maps differ.
    """
    width, norm = shape_of(fpn_tensors(fpn))
    channels = [trained.encoder.channels[name] for name in MAPS]
    target = FeaturePyramidNetwork(channels, width, norm_layer=nn.BatchNorm2d if norm else None)
    blocks = tuple(f"{block}." for block in UNTRAINED_BLOCKS)
    untrained = frozenset(key for key in target.state_dict() if key.startswith(blocks))
    load_exactly(target, path, untrained)
    maps = features(trained.encoder, images(trained.card["size"]))
    theirs = features(target, OrderedDict((name, maps[name]) for name in MAPS))
    ours = features(fpn, maps)
    return compare(ours, {"p3": theirs["c3"], "p4": theirs["c4"]})
