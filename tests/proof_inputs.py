"""Run folders and labelled scenes for tests of evaluations, without training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from regionssl.backbones.encoder import Encoder, EncoderConfig
from regionssl.data.scenes import CLASSES, write_scenes
from regionssl.verbs.run_folder import write_weights

from method_variants import config_of


def labelled_scenes(folder: Path, train: int, val: int, size: int = 64) -> Path:
    """Generated scenes with class maps, in two splits."""
    for split, seed, count in (("train", 1, train), ("val", 2, val)):
        write_scenes(folder / split, count, size, seed)
        for kind in ("images", "labels"):
            (folder / kind).mkdir(exist_ok=True)
            (folder / split / kind).rename(folder / kind / split)
        shutil.rmtree(folder / split)
    (folder / "classes.json").write_text(json.dumps({"classes": ["background", *CLASSES]}))
    return folder


def make_run(folder: Path, change: dict[str, Any] | None = None, seed: int = 5) -> Path:
    """A run folder with a ResNet-18 of random weights whose batch norms have seen noise.

    Args:
        change: entries of the card that are other than they should be.
    """
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    encoder = Encoder(EncoderConfig(name="resnet18"), size=64, maps=("c2", "c3", "c4", "c5")).train()
    with torch.no_grad():
        for _ in range(3):
            encoder(torch.randn(8, 3, 64, 64))
    method: Any = SimpleNamespace(backbone=encoder, extras=dict)
    images: Any = SimpleNamespace(fingerprint="0123456789abcdef")
    write_weights(folder, method, config_of("moco", "resnet18"), images, "random", 7)
    card = json.loads((folder / "weights.json").read_text())
    (folder / "weights.json").write_text(json.dumps(card | (change or {})))
    log = [{"step": step, "loss": 1.0, "seconds_per_step": 0.5} for step in (0, 9, 19)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return folder


def weights_file(run: Path, file: Path) -> Path:
    """The weights of a run without anything that explains them."""
    save_file(load_file(run / "weights.safetensors"), file)
    return file
