"""To timm: the keys of ``timm.create_model(name, num_classes=0)``."""

from __future__ import annotations

import copy
from pathlib import Path

import timm

from regionssl.export.target import (
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


def weight_files(trained: Trained, options: Options) -> list[WeightFile]:
    """The backbone. timm has no pyramid to load, so a trained FPN stays in the run."""
    name, pruned = trained.encoder.name, sorted(trained.encoder.pruned)
    facts = {
        "architecture": name,
        "keys": f"timm.create_model({name!r}, num_classes=0)",
        "not_in_file": pruned,
        "not_exported": not_exported(trained, NO_FPN),
    }
    return [WeightFile("", trained.body, facts, lambda path, images: verify(trained, path, images))]


def verify(trained: Trained, path: Path, images: TestImages) -> Comparison:
    """Compare the maps of timm's own model, loaded from ``path``, with the run's.

    Layers that no map needs are not in the file; timm's model keeps its fresh ones, which must make no difference.

    Raises:
        InputError: keys, shapes or maps differ.
    """
    name = trained.encoder.name
    target = copy.copy(trained.encoder)
    target._modules = dict(trained.encoder._modules)  # the copy's body alone is exchanged
    target.body = timm.create_model(name, num_classes=0)
    load_exactly(target.body, path, trained.encoder.pruned)
    published = target.body.pretrained_cfg
    size = published["input_size"][-1] if published.get("fixed_input_size") else trained.card["size"]
    inputs = images(size)
    return compare(features(trained.encoder, inputs), features(target, inputs))


TARGET = Target(weight_files, (".safetensors",), "timm's own model")
