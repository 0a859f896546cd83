"""Linear classifiers on a frozen backbone: SCRL's on its last map (5.4), ORL's on five maps at once (6.2)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from regionssl.backbones.encoder import Encoder
from regionssl.counted import Stream, integer
from regionssl.evaluation.classification.artefacts import write_outcome
from regionssl.evaluation.classification.checks import one_class_each
from regionssl.evaluation.classification.features import Reading, scored_batches
from regionssl.evaluation.classification.scores import Score, score
from regionssl.evaluation.classification.training import TrainingSettings
from regionssl.evaluation.frozen import frozen_encoder, read_maps
from regionssl.evaluation.inputs import standardise
from regionssl.evaluation.outcome import Outcome
from regionssl.evaluation.saved import SavedTraining
from regionssl.evaluation.start import Start
from regionssl.labels.sets import ClassSet, Split


class LinearHead(Reading):
    """One classifier.

    Attributes:
        norm: bring the pooled channels to mean 0 and variance 1 first, by a batch norm without parameters (ORL 6.2).
        std: standard deviation of the initial weights, with biases at 0; None for torch's own initial weights.
    """

    norm: bool = False
    std: float | None = Field(None, gt=0)


class LinearTask(TrainingSettings):
    """Linear classifiers, trained together, each on its own reading; the backbone stays as it is.

    Attributes:
        heads: the classifiers; with several, each one's metrics are given, and the last one's are the primary.
    """

    task: ClassVar[str] = "linear"

    heads: tuple[LinearHead, ...] = (LinearHead(),)

    @field_validator("heads")
    @classmethod
    def _one_for_each_map(cls, heads: tuple[LinearHead, ...]) -> tuple[LinearHead, ...]:
        if not heads or len({head.map for head in heads}) < len(heads):
            raise ValueError("there must be at least one head, and at most one on each map")
        return heads

    def run(self, start: Start, data: Split[ClassSet], out: Path, seed: int = 0, device: str = "cpu") -> Outcome:
        """Train on ``data.train``, score on ``data.val``, write tables and a picture below ``out``.

        Raises:
            InputError: weights or images cannot be read, a map is missing or too small, or the loss is not finite.
        """
        began = time.perf_counter()
        exclusive = one_class_each(data)
        names = tuple(head.map for head in self.heads)
        encoder = frozen_encoder(start, names, data.train.images, self.cut, seed, device)
        heads = Heads(self, encoder, len(data.train.classes), seed, device)
        optimiser = self.make_optimiser([([*heads.parameters()], 1.0)])
        saved = SavedTraining(out, self, start, data.train, seed, device)
        self.train(heads, optimiser, data.train, exclusive, start, seed, device, saved)
        scores = self._scores(heads, data.val, start, device)
        found = [score(one, data.val, exclusive) for one in scores]
        return write_outcome(_joined(names, found), scores[-1], data.val, out, began - saved.earlier)

    @torch.no_grad()
    def _scores(self, heads: Heads, val: ClassSet, start: Start, device: str) -> np.ndarray:
        """(H, N, C) float32 of each head."""
        heads.eval()
        parts = []
        for pixels in scored_batches(val.images, self, min(self.batch_size, 64), device):
            parts.append(torch.stack(heads(standardise(pixels, start.mean, start.std))).cpu())
        return torch.cat(parts, 1).numpy()


def _joined(names: tuple[str, ...], found: list[Score]) -> Score:
    """The last head's score, with all heads' metrics by the names of their maps if there are several."""
    last = found[-1]
    if len(found) == 1:
        return last
    each = {
        f"{name}_{key}": value for name, one in zip(names, found, strict=True) for key, value in one.metrics.items()
    }
    return Score(last.primary, last.metrics | each, last.per_class, last.evidence)


class Heads(nn.Module):
    """A frozen backbone and linear classifiers on its maps: images (B, 3, S, S) -> scores (B, C) of each.

    Only the classifiers are parameters, and ``train`` and ``eval`` leave the backbone in evaluation mode.
    """

    def __init__(self, task: LinearTask, encoder: Encoder, classes: int, seed: int, device: str) -> None:
        super().__init__()
        self.readings = task.heads
        self._frozen = (encoder,)  # in a tuple it is no child
        with torch.no_grad():
            empty = torch.zeros(1, 3, task.size, task.size, device=device)
            shapes = [features.shape[1:] for features in self._read(empty)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(integer(seed, Stream.WEIGHTS))
            self.classifiers = nn.ModuleList(
                _classifier(head, shape, classes) for head, shape in zip(task.heads, shapes, strict=True)
            )
        self.to(device).train()

    def forward(self, images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            features = self._read(images)
        return [classifier(one) for classifier, one in zip(self.classifiers, features, strict=True)]

    def _read(self, images: Tensor) -> list[Tensor]:
        maps = read_maps(self._frozen[0], images, tuple(reading.map for reading in self.readings))
        return [reading.read(maps[reading.map]) for reading in self.readings]


def _classifier(head: LinearHead, shape: torch.Size, classes: int) -> nn.Sequential:
    linear = nn.Linear(shape.numel(), classes)
    if head.std is not None:
        nn.init.normal_(linear.weight, std=head.std)
        nn.init.zeros_(linear.bias)
    norm = [nn.BatchNorm2d(shape[0], affine=False)] if head.norm else []
    return nn.Sequential(*norm, nn.Flatten(), linear)
