"""From predicted label maps to the outcome of an evaluation, and what is written of it."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from regionssl.errors import InputError
from regionssl.evaluation.outcome import Confusions, Outcome
from regionssl.evaluation.probes import confusion, score
from regionssl.evaluation.segmentation.crops import load
from regionssl.evaluation.segmentation.pictures import side_by_side
from regionssl.labels.maps import IGNORED
from regionssl.labels.sets import MapSet

_PICTURES = 6


def judge(predictions: Iterable[np.ndarray], val: MapSet, out: Path, began: float) -> Outcome:
    """Score predictions and write them, the tables and a few pictures.

    Args:
        predictions: (H, W) uint8 classes of each image, in order, at the images' own sizes.
        began: ``time.perf_counter()`` when the evaluation began.

    Raises:
        InputError: an image or label that cannot be read, or no labelled pixel at all.
    """
    folder = out / "predictions"
    folder.mkdir(parents=True, exist_ok=True)
    counts = np.zeros((len(val), len(val.classes), len(val.classes)), np.int64)
    shown = set(np.linspace(0, len(val) - 1, min(_PICTURES, len(val))).round().astype(int).tolist())
    for i, predicted in enumerate(predictions):
        image, labels = load(val, i)
        truth, named = torch.from_numpy(labels), torch.from_numpy(predicted).long()
        counts[i] = confusion(named, truth, len(val.classes), IGNORED).numpy()
        Image.fromarray(predicted).save(folder / f"{i:06d}.png")
        if i in shown:
            (out / "pictures").mkdir(exist_ok=True)
            side_by_side(image, labels, predicted, len(val.classes)).save(out / "pictures" / f"{i:06d}.png")
    if not counts.any():
        raise InputError(f"none of the {len(val)} validation images has a labelled pixel, so there is nothing to score")
    return _outcome(counts, val, out, began)


def _outcome(counts: np.ndarray, val: MapSet, out: Path, began: float) -> Outcome:
    total = counts.sum(0)
    result = score(torch.from_numpy(total), val.classes)
    per_class = {name: 100 * value for name, value in result.per_class.items()}
    true = total.sum(1)
    recalls = np.diagonal(total)[true > 0] / true[true > 0]
    artefacts = {
        "per_class": out / "per_class.csv",
        "confusion": out / "confusion.csv",
        "predictions": out / "predictions",
        "pictures": out / "pictures",
    }
    _write(artefacts["confusion"], ["true \\ predicted", *val.classes], zip(val.classes, total.tolist(), strict=True))
    rows = [(name, [_shown(per_class[name]), int(true[c])]) for c, name in enumerate(val.classes)]
    _write(artefacts["per_class"], ["class", "iou", "pixels"], rows)
    metrics = {
        "mIoU": 100 * result.miou,
        "pixel_accuracy": 100 * result.accuracy,
        "mean_class_accuracy": 100 * float(recalls.mean()),
    }
    return Outcome("mIoU", metrics, per_class, Confusions(counts), artefacts, time.perf_counter() - began)


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _write(path: Path, header: list[str], rows: Iterable[tuple[str, Sequence[object]]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([name, *values] for name, values in rows)
