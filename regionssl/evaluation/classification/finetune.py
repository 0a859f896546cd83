"""Semi-supervised fine-tuning: the whole network on few labels (ORL 6.4)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from regionssl.backbones.encoder import Encoder, pool
from regionssl.counted import Stream, integer
from regionssl.evaluation.classification.artefacts import write_outcome
from regionssl.evaluation.classification.checks import one_class_each
from regionssl.evaluation.classification.features import scored_batches
from regionssl.evaluation.classification.scores import score
from regionssl.evaluation.classification.training import TrainingSettings
from regionssl.evaluation.inputs import standardise
from regionssl.evaluation.outcome import Outcome
from regionssl.evaluation.saved import SavedTraining
from regionssl.evaluation.start import Start
from regionssl.labels.sets import ClassSet, Split

_INITIAL_STD = 0.01


class FineTuneTask(TrainingSettings):
    """A linear layer on the mean of c5, trained together with the backbone, whose batch norms train too.

    Attributes:
        head_lr: factor of the linear layer's learning rate.
    """

    task: ClassVar[str] = "finetune"

    head_lr: float = Field(1.0, gt=0)

    def run(self, start: Start, data: Split[ClassSet], out: Path, seed: int = 0, device: str = "cpu") -> Outcome:
        """Train on ``data.train``, score on ``data.val``, write tables and a picture below ``out``.

        Raises:
            InputError: weights or images cannot be read, or the loss is not finite.
        """
        began = time.perf_counter()
        exclusive = one_class_each(data)
        network = Classifier(start.encoder(("c5",), seed), len(data.train.classes), seed).to(device).train()
        optimiser = self.make_optimiser(
            [([*network.encoder.parameters()], 1.0), ([*network.head.parameters()], self.head_lr)]
        )
        saved = SavedTraining(out, self, start, data.train, seed, device)
        self.train(network, optimiser, data.train, exclusive, start, seed, device, saved)
        scores = self._scores(network.eval(), data.val, start, device)
        return write_outcome(score(scores, data.val, exclusive), scores, data.val, out, began - saved.earlier)

    @torch.no_grad()
    def _scores(self, network: nn.Module, val: ClassSet, start: Start, device: str) -> np.ndarray:
        """(N, C) float32."""
        parts = []
        for pixels in scored_batches(val.images, self, min(self.batch_size, 64), device):
            with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                parts.append(network(standardise(pixels, start.mean, start.std)).float().cpu())
        return torch.cat(parts).numpy()


class Classifier(nn.Module):
    """Images (B, 3, S, S) -> scores (B, C). The layer starts from N(0, 0.01^2), with biases at 0."""

    def __init__(self, encoder: Encoder, classes: int, seed: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.channels["c5"], classes)
        nn.init.normal_(
            self.head.weight, std=_INITIAL_STD, generator=torch.Generator().manual_seed(integer(seed, Stream.WEIGHTS))
        )
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(pool(self.encoder(images)["c5"]))
        return scores
