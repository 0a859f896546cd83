"""Frozen backbones: their maps, and the state in which a random one is compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor

from regionssl.backbones.encoder import Encoder
from regionssl.counted import Stream, permutation
from regionssl.data.image_list import ImageList
from regionssl.errors import InputError
from regionssl.evaluation.inputs import load_image, standardise
from regionssl.evaluation.start import Start, take_statistics

STEM = "c1"
"""Name of the stem's map at stride 2, which :class:`Encoder` does not hand out."""

_STATISTICS = 128 * 224 * 224  # pixels of the images that a random network's batch norms look at

Cut = Callable[[Image.Image], Tensor]


def frozen_encoder(
    start: Start, maps: Sequence[str], images: ImageList, cut: Cut, seed: int = 0, device: str = "cpu"
) -> Encoder:
    """A backbone in evaluation mode whose parameters take no gradient.

    Batch norms of a random start have seen nothing, and would leave it in a state in which nobody would use it. So
    they get the statistics of some training images first; a start that was trained keeps its own.

    Args:
        maps: "c1" to "c5".
        images: to train on.
        cut: gives the (3, H, W) uint8 that the network will see of an image.
        seed: of random weights, and of the choice of the images.

    Raises:
        InputError: the backbone lacks a map, weights or images cannot be read.
    """
    encoder = start.encoder(tuple(name for name in maps if name != STEM) or ("c2",), seed)
    if STEM in maps:
        _stem_index(encoder)
    encoder.requires_grad_(False)
    encoder.to(device).eval()
    if not start.pretrained:
        chosen = permutation(len(images), seed, Stream.ORDER).tolist()
        pictures = [cut(load_image(images, chosen[0]))]
        count = max(2, _STATISTICS // (pictures[0].shape[1] * pictures[0].shape[2]))
        pictures += [cut(load_image(images, i)) for i in chosen[1:count]]
        take_statistics(encoder, standardise(torch.stack(pictures).to(device), start.mean, start.std))
    return encoder


def read_maps(encoder: Encoder, inputs: Tensor, maps: Sequence[str]) -> dict[str, Tensor]:
    """The maps of these names, "c1" among them; float32."""
    if STEM not in maps:
        found = encoder(inputs)
    else:
        stem = encoder.body.forward_intermediates(
            inputs, [_stem_index(encoder)], stop_early=True, output_fmt="NCHW", intermediates_only=True
        )
        found = {STEM: stem[0]} | (encoder(inputs) if len(maps) > 1 else {})
    return {name: found[name].float() for name in maps}


def _stem_index(encoder: Encoder) -> int:
    strides = [info["reduction"] for info in encoder.body.feature_info]
    if 2 not in strides:
        raise InputError(f"{encoder.name} has no map at stride 2, which the head on c1 reads; leave that head out")
    return strides.index(2)
