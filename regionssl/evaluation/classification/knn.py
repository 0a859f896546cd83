"""Nearest neighbours: what frozen features know of classes without any training."""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from regionssl.evaluation.classification.artefacts import write_outcome
from regionssl.evaluation.classification.checks import one_class_each
from regionssl.evaluation.classification.features import FeatureSettings
from regionssl.evaluation.classification.scores import score
from regionssl.evaluation.outcome import Outcome
from regionssl.evaluation.start import Start
from regionssl.labels.sets import ClassSet, Split
from regionssl.regions.neighbours import top

_ROWS = 128  # queries at a time


class KnnTask(FeatureSettings):
    """Weighted votes of the nearest training images, by cosine.

    Attributes:
        neighbours: how many vote; all training images if they are fewer.
        temperature: a vote weighs ``exp(cosine / temperature)``.
    """

    task: ClassVar[str] = "knn"

    neighbours: int = Field(20, ge=1)
    temperature: float = Field(0.07, gt=0)

    def run(self, start: Start, data: Split[ClassSet], out: Path, seed: int = 0, device: str = "cpu") -> Outcome:
        """Vote with ``data.train``, score on ``data.val``, write tables and a picture below ``out``.

        Raises:
            InputError: weights or images cannot be read, a map is missing or too small, or features are not finite.
        """
        began = time.perf_counter()
        exclusive = one_class_each(data)
        train, val = self.features(start, data, seed, device)
        votes = knn_votes(train, data.train.truth, val, self.neighbours, self.temperature)
        return write_outcome(score(votes, data.val, exclusive), votes, data.val, out, began)


def knn_votes(bank: Tensor, truth: np.ndarray, queries: Tensor, neighbours: int, temperature: float) -> np.ndarray:
    """Weighted share (Q, C) of the nearest rows of a bank that show each class.

    Args:
        bank: (N, D) features; their length does not matter. Of equally near ones, the first count.
        truth: (N, C) 1 present, 0 absent, -1 unsure (which counts as absent).
        queries: (Q, D).
    """
    rows = F.normalize(bank, dim=1)
    shown = torch.from_numpy(truth == 1).to(rows.dtype)
    votes = []
    for part in F.normalize(queries, dim=1).split(_ROWS):
        near = part @ rows.T
        found = top(near, min(neighbours, len(rows)))
        weights = (near.gather(1, found) / temperature).softmax(1)
        votes.append((weights[:, :, None] * shown[found]).sum(1))
    return torch.cat(votes).numpy()
