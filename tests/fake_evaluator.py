"""An evaluator without networks: its score is a known function of start, label count, seed and image."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from regionssl.backbones.encoder import EncoderConfig
from regionssl.config import Config
from regionssl.counted import Stream, generator
from regionssl.data.images import find_images
from regionssl.errors import InputError, TooFewLabels
from regionssl.evaluation.outcome import Outcome, Shares
from regionssl.evaluation.start import Start
from regionssl.labels.sets import ClassSet, Split

SKILL = {"random": 0.0, "imagenet": 30.0}


class FakeTask(Config):
    """Hits of an image: 40 + the start's skill + 20 log10(labels) + noise, less what a wrong learning rate costs.

    The best rate is ``best`` for every start. ``pause`` seconds pass in every training; ``diverges`` names a start
    whose training fails, ``least`` how many labels are needed; every training leaves a line in ``journal``.
    """

    task: ClassVar[str] = "fake"

    lr: float = 1.0
    best: float = 1.0
    iterations: int = 100
    warmup: int = 10
    drops: tuple[float, ...] = (50, 0.9)
    noise: float = 1.0
    pause: float = 0.0
    diverges: str = ""
    least: int = 0
    journal: str = ""

    def run(self, start: Start, data: Split[ClassSet], out: Path, seed: int = 0, device: str = "cpu") -> Outcome:
        if start.name == self.diverges:
            raise InputError("the loss is not finite at iteration 3")
        if len(data.train) < self.least:
            raise TooFewLabels(f"{len(data.train)} labels, not {self.least}")
        time.sleep(self.pause)
        if self.journal:
            with open(self.journal, "a") as file:
                line = {"start": start.name, "train": len(data.train), "seed": seed, "lr": self.lr}
                file.write(json.dumps(line | {"iterations": self.iterations, "pid": os.getpid()}) + "\n")
        names = list(data.val.images.names)
        easy = np.array([generator(0, Stream.SCENES, len(name), i).normal(0, 10) for i, name in enumerate(names)])
        luck = np.array([generator(seed, Stream.SCENES, 99, i).normal(0, self.noise) for i in range(len(names))])
        level = 40 + SKILL.get(start.source, start.size / 10) + 20 * np.log10(len(data.train))
        hits = level + easy + luck - 10 * abs(np.log(self.lr / self.best))
        evidence = Shares(hits / 100, np.ones(len(names)))
        (out / "log.txt").write_text("trained")
        value = evidence.metric(np.arange(len(names)))
        per_class = {name: value + c for c, name in enumerate(data.val.classes)}
        return Outcome("hits", {"hits": value}, per_class, evidence, {"log": out / "log.txt"}, 1.0 + self.pause)


def start(name: str, source: str | None = None, size: int = 224) -> Start:
    return Start(name, source or name, EncoderConfig(name="resnet18"), size)


def labelled_images(folder: Path, count: int, classes: int = 2, seed: int = 0) -> ClassSet:
    """Small pictures of noise, written to a folder; class by turns."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        noise = generator(seed, Stream.SCENES, i).integers(0, 256, (6, 8, 3)).astype(np.uint8)
        Image.fromarray(noise).resize((48, 36), Image.Resampling.BICUBIC).save(folder / f"{i:03d}.png")
    truth = np.eye(classes, dtype=np.int8)[np.arange(count) % classes]
    return ClassSet(find_images(folder), truth, tuple(f"class{c}" for c in range(classes)))
