"""What a classification leaves on disk: a table of classes, a table of predictions, a sheet of mistakes."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from regionssl.evaluation.classification.scores import Score
from regionssl.evaluation.inputs import load_image
from regionssl.evaluation.outcome import Outcome
from regionssl.labels.sets import ClassSet

_COLUMNS, _ROWS = 4, 3
_TILE, _CAPTION = 180, 34  # pixels


def write_outcome(found: Score, scores: np.ndarray, val: ClassSet, out: Path, began: float) -> Outcome:
    """Write the artefacts below ``out`` and put the outcome together.

    Args:
        scores: (N, C), of what is shown.
        began: ``time.perf_counter()`` at the start.
    """
    out.mkdir(parents=True, exist_ok=True)
    artefacts = {
        "per_class": _write(out / "per_class.csv", ("class", found.primary), found.per_class.items()),
        "predictions": _write_predictions(out / "predictions.csv", scores, val),
        "mistakes": out / "mistakes.png",
    }
    mistakes_sheet(scores, val).save(artefacts["mistakes"])
    seconds = time.perf_counter() - began
    return Outcome(found.primary, found.metrics, found.per_class, found.evidence, artefacts, seconds)


def _write_predictions(path: Path, scores: np.ndarray, val: ClassSet) -> Path:
    header = ("image", "true", "predicted", "score")
    best = scores.argmax(1)
    rows = [
        (val.images.names[i], _names(val, i), val.classes[c], f"{scores[i, c]:.6g}")
        for i, c in enumerate(best.tolist())
    ]
    return _write(path, header, rows)


def _write(path: Path, header: Sequence[str], rows: object) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)  # type: ignore[arg-type]
    return path


def _names(val: ClassSet, i: int) -> str:
    return " ".join(val.classes[c] for c in np.flatnonzero(val.truth[i] == 1)) or "-"


def mistakes_sheet(scores: np.ndarray, val: ClassSet) -> Image.Image:
    """The first images whose best-scored class they do not show, with their classes and that one."""
    best = scores.argmax(1)
    wrong = np.flatnonzero(val.truth[np.arange(len(val)), best] != 1)[: _COLUMNS * _ROWS].tolist()
    rows = max(1, -(-len(wrong) // _COLUMNS))
    sheet = Image.new("RGB", (_COLUMNS * _TILE, rows * (_TILE + _CAPTION)), "white")
    pen = ImageDraw.Draw(sheet)
    if not wrong:
        pen.text((8, 8), "no mistakes", fill="black")
    for place, i in enumerate(wrong):
        x, y = place % _COLUMNS * _TILE, place // _COLUMNS * (_TILE + _CAPTION)
        sheet.paste(ImageOps.pad(load_image(val.images, i), (_TILE - 8, _TILE - 8), color="white"), (x + 4, y + 4))
        pen.text((x + 4, y + _TILE), f"is {_names(val, i)}"[:28], fill="black")
        pen.text((x + 4, y + _TILE + 15), f"taken for {val.classes[best[i]]}"[:28], fill="#b00020")
    return sheet
