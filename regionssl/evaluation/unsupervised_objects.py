"""Unsupervised object segmentation as an evaluation: CUB-200's protocol (R2O 7.4), and a blind choice beside it."""

from __future__ import annotations

import csv
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from rich.console import Console
from rich.progress import track
from torch import Tensor

from regionssl.backbones.encoder import Encoder
from regionssl.config import Config
from regionssl.errors import InputError
from regionssl.evaluation.frozen import frozen_encoder
from regionssl.evaluation.inputs import load_image
from regionssl.evaluation.objects import (
    SIDE,
    OracleScore,
    blind_choice,
    centred_box,
    clusters_on_grid,
    confusion_matrix,
    oracle_choice,
    score_of,
    truth_on_grid,
)
from regionssl.evaluation.outcome import Confusions, Outcome
from regionssl.evaluation.sheets import side_by_side, stacked
from regionssl.evaluation.start import Start
from regionssl.labels.sets import MapSet, ObjectSet, Split

_SHOWN = 6  # images in the picture
_COLOURS = np.array([(78, 121, 167), (242, 142, 43), (89, 161, 79), (176, 122, 161), (237, 201, 72)], np.uint8)


@dataclass(frozen=True)
class _Result:
    """One image on the grid: clusters, truth, what is known of it, and the predictions by the choice's name."""

    labels: Tensor
    truth: Tensor
    known: Tensor
    predictions: dict[str, Tensor]

    def counts(self, name: str) -> Tensor:
        return confusion_matrix(self.predictions[name][self.known], self.truth[self.known])


class ObjectsTask(Config):
    """Clusters of an image's own features against the union of its objects; nothing is trained.

    ``oracle_miou`` is the published number, whose choice of the cluster reads the label; ``blind_miou`` chooses by a
    centred box; ``centred_box_miou`` is what this box alone is worth, without features. Images without foreground are
    left out.

    Attributes:
        clusters: of each image.
        size: side to which images are squashed, pixels; 1280 gives 80 x 80 vectors.
        choice: which score is the primary one.
        background: names of the classes of label maps that are no foreground; pixels without label do not count. With
            no names, all classes are foreground, and pixels without label background.
    """

    task: ClassVar[str] = "unsupervised_objects"
    revision: ClassVar[int] = 1  # classes that are background must be named

    clusters: int = Field(5, ge=2)
    size: int = Field(1280, ge=32)
    choice: Literal["oracle", "blind"] = "oracle"
    background: tuple[str, ...] = ("background",)

    def run(
        self, start: Start, data: Split[ObjectSet] | Split[MapSet], out: Path, seed: int = 0, device: str = "cpu"
    ) -> Outcome:
        """Score ``data.val``, write a table and a picture below ``out``. A random start looks at ``data.train`` first.

        Raises:
            InputError: no masks, no class that is background, no image with a foreground or none with a background
                too, unreadable weights or images, fewer vectors than clusters.
        """
        began = time.perf_counter()
        self._check(data.val)
        encoder = frozen_encoder(start, ("c4",), data.train.images, self._squash, seed, device)
        names = ("oracle", "blind", "centred_box")
        counts = {name: np.zeros((len(data.val), 2, 2), np.int64) for name in names}
        shown: list[Image.Image] = []
        places = range(len(data.val))
        for i in track(places, "clustering", console=Console(stderr=True), disable=not sys.stderr.isatty()):
            image = load_image(data.val.images, i)
            result = self._result(encoder, image, data.val, i, start, seed)
            if result is None:
                continue
            for name in names:
                counts[name][i] = result.counts(name).numpy()
            if len(shown) < _SHOWN:
                shown.append(_picture(image, result))
        return self._outcome(counts, data.val, shown, out, began)

    def _check(self, val: ObjectSet | MapSet) -> None:
        """See that foreground and background are there; as a rule the first image has both."""
        found = np.zeros(2, bool)  # background and foreground in images with a foreground
        for i in range(len(val)):
            truth, known = self._truth(val, i)
            if truth.any():
                found |= [bool((known & ~truth).any()), True]
            if found.all():
                return
        if not found[1]:
            raise InputError(f"none of the {len(val)} images has a foreground, so there is nothing to score")
        raise InputError(
            f"foreground fills every labelled pixel of the images that have some of it, {len(val)} images in all, so "
            "nothing tells objects from background; give labels with both"
        )

    def _truth(self, val: ObjectSet | MapSet, i: int) -> tuple[Tensor, Tensor]:
        """Foreground of an image, and where it is known, on the grid."""
        mask, known = foreground(val, i, self.background)
        kept = truth_on_grid(known)
        return truth_on_grid(mask) & kept, kept

    def _result(
        self, encoder: Encoder, image: Image.Image, val: ObjectSet | MapSet, i: int, start: Start, seed: int
    ) -> _Result | None:
        truth, kept = self._truth(val, i)
        if not truth.any():
            return None
        labels = clusters_on_grid(encoder, image, i, self.clusters, self.size, seed, start.mean, start.std)
        oracle = oracle_choice(torch.where(kept, labels, -1), truth, self.clusters)
        predictions = {
            "oracle": labels == oracle,
            "blind": labels == blind_choice(labels, self.clusters),
            "centred_box": centred_box(),
        }
        return _Result(labels, truth, kept, predictions)

    def _squash(self, image: Image.Image) -> Tensor:
        squashed = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(squashed)).permute(2, 0, 1)

    def _outcome(
        self,
        counts: dict[str, np.ndarray],
        val: ObjectSet | MapSet,
        shown: list[Image.Image],
        out: Path,
        began: float,
    ) -> Outcome:
        scored = counts["oracle"].any((1, 2))
        metrics: dict[str, float] = {}
        for name, table in counts.items():
            found = _score(table)
            metrics[f"{name}_miou"] = 100 * found.miou
            metrics[f"{name}_foreground_iou"] = 100 * found.foreground_iou
            metrics[f"{name}_accuracy"] = 100 * found.accuracy
        metrics["scored_images"] = float(scored.sum())
        chosen = _score(counts[self.choice])
        per_class = {"background": 100 * chosen.background_iou, "foreground": 100 * chosen.foreground_iou}
        out.mkdir(parents=True, exist_ok=True)
        artefacts = {"per_image": _write(out / "per_image.csv", counts, val), "pictures": out / "objects.png"}
        stacked(shown).save(artefacts["pictures"])
        evidence, seconds = Confusions(counts[self.choice]), time.perf_counter() - began
        return Outcome(f"{self.choice}_miou", metrics, per_class, evidence, artefacts, seconds)


def foreground(labelled: ObjectSet | MapSet, i: int, background: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Foreground of an image, (H, W) bool or of grey maps uint8, and the pixels on which it is known, (H, W) bool.

    Raises:
        InputError: a set of objects without masks, or of maps without a class that is background.
    """
    if isinstance(labelled, MapSet):
        if labelled.grey:
            shares = labelled.stored(i)
            return shares, np.ones(shares.shape, bool)
        behind = [c for c, name in enumerate(labelled.classes) if name in background]
        if not {*background} <= {*labelled.classes}:
            raise _no_background(labelled.classes, background)
        labels = labelled.labels(i)
        return (labels >= 0) & ~np.isin(labels, behind), labels >= 0 if behind else np.ones(labels.shape, bool)
    if not labelled.has_masks:
        raise InputError("unsupervised objects need masks, and these labels have boxes alone; give masks or label maps")
    objects = labelled.objects[i]
    width, height = labelled.sizes[i].tolist()
    mask, crowd = np.zeros((height, width), bool), np.zeros((height, width), bool)
    for k in range(len(objects.masks)):
        (crowd if objects.crowd[k] else mask)[labelled.mask(i, k)] = True
    return mask, mask | ~crowd


def _no_background(classes: tuple[str, ...], background: tuple[str, ...]) -> InputError:
    shown = ", ".join(classes[:6]) + (", ..." if len(classes) > 6 else "")
    missing = " or ".join(name for name in background if name not in classes)
    example = json.dumps(classes[:1])
    return InputError(
        f"none of the {len(classes)} classes ({shown}) is called {missing}, so background would count as "
        f"foreground; say which are not, such as --set 'background={example}', or --set 'background=[]' if background "
        "is what has no label. Grey masks like CUB's are read in CUB's own folders (docs/labels.md)"
    )


def _score(counts: np.ndarray) -> OracleScore:
    return score_of(torch.from_numpy(counts.sum(0)), len(counts))


def _write(path: Path, counts: dict[str, np.ndarray], val: ObjectSet | MapSet) -> Path:
    """IoU of the foreground of every image, by choice; empty for images without foreground."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *(f"{name}_foreground_iou" for name in counts)])
        for i in range(len(val)):
            tables = [table[i] for table in counts.values()]
            ious = [f"{100 * one[1, 1] / (one.sum() - one[0, 0]):.2f}" if one.any() else "" for one in tables]
            writer.writerow([val.images.names[i], *ious])
    return path


def _picture(image: Image.Image, result: _Result) -> Image.Image:
    """Image, clusters, truth, oracle choice and blind choice, from left to right."""
    clusters = Image.fromarray(_COLOURS[result.labels.numpy() % len(_COLOURS)])
    maps = [result.truth & result.known, result.predictions["oracle"], result.predictions["blind"]]
    parts = [image.resize((SIDE, SIDE)), clusters, *(Image.fromarray(one.numpy()).convert("RGB") for one in maps)]
    return side_by_side(parts)
