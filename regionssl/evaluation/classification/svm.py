"""Linear support vector machines on frozen features: VOC07's protocol, with all labels and with few (ORL 6.3)."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from regionssl.counted import Stream, generator, integer
from regionssl.errors import InputError, TooFewLabels
from regionssl.evaluation.classification.artefacts import write_outcome
from regionssl.evaluation.classification.checks import one_class_each
from regionssl.evaluation.classification.features import FeatureSettings, Reading
from regionssl.evaluation.classification.scores import RankedScores, Score, precisions
from regionssl.evaluation.outcome import Outcome
from regionssl.evaluation.start import Start
from regionssl.labels.sets import ClassSet, Split

COSTS = (1.0, 10.0, 100.0, *(0.5**power for power in range(4, 20)))
_NEGATIVES = 19  # for each positive of a low-shot sample


class SvmTask(FeatureSettings):
    """One machine for each class, against all others; squared hinge, judged by the mean average precision.

    With all labels, the cost is chosen for each class by the average precision over folds of the training images. With
    few, there are no labels to spare: the protocol then takes the one cost for all classes and samples that is best
    **on the validation images**, which flatters every start. A single cost in ``costs`` avoids that.

    Attributes:
        shots: numbers of positives of each class, with 19 times as many negatives; empty for all labels.
        samples: how often the few are drawn.
        costs: what is chosen from.
        folds: of the cross-validation. A class with fewer positives takes the first cost.
        positive_weight: of an image that shows the class; others weigh 1.
        tolerance, limit: when the solver stops, and its iterations at most.
        jobs: processes that work on the folds; results do not depend on it.
    """

    task: ClassVar[str] = "svm"

    squash: bool = True
    reading: Reading = Field(default=Reading(pool=(6, 1, 0)))
    shots: tuple[int, ...] = ()
    samples: int = Field(5, ge=1)
    costs: tuple[float, ...] = Field(COSTS, min_length=1)
    folds: int = Field(3, ge=2)
    positive_weight: float = Field(2.0, gt=0)
    tolerance: float = Field(1e-4, gt=0)
    limit: int = Field(2000, ge=1)
    jobs: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if min(self.costs) <= 0 or min(self.shots, default=1) < 1:
            raise ValueError(f"costs must be above 0 and shots at least 1, got {self.costs} and {self.shots}")
        return self

    def run(self, start: Start, data: Split[ClassSet], out: Path, seed: int = 0, device: str = "cpu") -> Outcome:
        """Train on ``data.train``, score on ``data.val``, write tables and a picture below ``out``.

        Raises:
            InputError: no scikit-learn, weights or images cannot be read, a map is missing or too small, features are
                not finite, or a class has too few images for the shots.
        """
        began = time.perf_counter()
        _library()
        one_class_each(data)
        train, val = (unit_length(features.numpy()) for features in self.features(start, data, seed, device))
        if self.shots:
            found, scores = self._few(train, data, val, seed)
        else:
            scores = self._all(train, data.train.truth, val, seed)
            found = precisions(scores[None], data.val)
        return write_outcome(found, scores, data.val, out, began)

    def _all(self, train: np.ndarray, truth: np.ndarray, val: np.ndarray, seed: int) -> np.ndarray:
        """Scores (N, C) from all labels; what is unsure trains as absent (ORL 6.3)."""
        columns = []
        for shown in (truth == 1).T:
            scarce = min(shown.sum(), (~shown).sum()) < self.folds
            cost = self.costs[0] if scarce else self.choose_cost(train, shown, seed)
            columns.append(self.fit(train, shown, val, cost, seed))
        return np.stack(columns, 1)

    def choose_cost(self, features: np.ndarray, shown: np.ndarray, seed: int) -> float:
        """The cost of the best mean average precision over folds, the first of equals."""
        from sklearn.model_selection import GridSearchCV

        search = GridSearchCV(
            self._machine(1.0, seed),
            {"C": list(self.costs)},
            scoring="average_precision",
            cv=self.folds,
            refit=False,
            n_jobs=self.jobs,
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Liblinear failed to converge")
            search.fit(features, np.where(shown, 1, -1))
        return float(search.best_params_["C"])

    def fit(self, features: np.ndarray, shown: np.ndarray, others: np.ndarray, cost: float, seed: int) -> np.ndarray:
        """Scores (M,) of other images by a machine trained on images (N, D) that show a class or not, (N,) bool.

        Where all or none show it there is nothing to learn, and all scores are 0.
        """
        if shown.all() or not shown.any():
            return np.zeros(len(others))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Liblinear failed to converge")
            machine = self._machine(cost, seed).fit(features, np.where(shown, 1, -1))
        found: np.ndarray = machine.decision_function(others)
        return found

    def _machine(self, cost: float, seed: int) -> Any:
        return _library()(
            C=cost,
            class_weight={1: self.positive_weight, -1: 1},
            dual=True,
            tol=self.tolerance,
            max_iter=self.limit,
            random_state=integer(seed, Stream.STEP) % 2**31,
        )

    def _few(self, train: np.ndarray, data: Split[ClassSet], val: np.ndarray, seed: int) -> tuple[Score, np.ndarray]:
        """The score over all shots and samples, and the mean scores (N, C) of the largest shots."""
        kept, metrics = [], {}
        for shots in self.shots:
            by_cost = self._by_cost(train, data.train, val, shots, seed)
            means = [RankedScores(runs, data.val.truth).metric(np.arange(len(val))) for runs in by_cost]
            best = int(np.argmax(means))
            metrics[f"map_{shots}"] = means[best]
            kept.append(by_cost[best])
        found = precisions(np.concatenate(kept), data.val)
        return Score("map", found.metrics | metrics, found.per_class, found.evidence), kept[-1].mean(0)

    def _by_cost(self, train: np.ndarray, labelled: ClassSet, val: np.ndarray, shots: int, seed: int) -> np.ndarray:
        """Scores (costs, samples, N, C) float32."""
        shape = (len(self.costs), self.samples, len(val), len(labelled.classes))
        scores = np.empty(shape, np.float32)
        for sample in range(self.samples):
            for c, name in enumerate(labelled.classes):
                rows = few(labelled.truth[:, c], shots, name, seed, sample, c)
                shown = labelled.truth[rows, c] == 1
                for number, cost in enumerate(self.costs):
                    scores[number, sample, :, c] = self.fit(train[rows], shown, val, cost, seed)
        return scores


def unit_length(features: np.ndarray) -> np.ndarray:
    """Features (N, D) over their lengths, ``x / (|x| + 1e-5)`` (ORL 6.3)."""
    scaled: np.ndarray = features / (np.linalg.norm(features, axis=1, keepdims=True) + 1e-5)
    return scaled


def few(truth: np.ndarray, shots: int, name: str, seed: int, sample: int, c: int) -> np.ndarray:
    """Images of a low-shot sample of class ``c``: ``shots`` that show it and 19 times as many that do not.

    Where there are too few that do not, all of them. A smaller number of shots takes the first of a larger one's.

    Args:
        truth: (N,) 1 shown, 0 not, -1 unsure, which is not drawn.

    Raises:
        TooFewLabels: too few show it.
    """
    positives, negatives = np.flatnonzero(truth == 1), np.flatnonzero(truth == 0)
    if len(positives) < shots:
        raise TooFewLabels(f"{shots} shots need as many images of {name}, and there are {len(positives)}; lower shots")
    rng = generator(seed, Stream.SPLITS, sample, c)
    shown, others = rng.permutation(positives)[:shots], rng.permutation(negatives)[: _NEGATIVES * shots]
    return np.concatenate([shown, others])


def _library() -> Any:
    """scikit-learn's linear machine."""
    try:
        from sklearn.svm import LinearSVC
    except ImportError as error:
        raise InputError("support vector machines need scikit-learn: pip install 'regionssl[evaluation]'") from error
    return LinearSVC
