"""Validation images that one start gets and another misses, drawn with the labels and both predictions."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from regionssl.data.decode import UnreadableImage
from regionssl.evaluation.detection.pictures import SHOWN_SCORE
from regionssl.evaluation.segmentation.pictures import palette
from regionssl.labels.digest import Labelled
from regionssl.labels.sets import MapSet, ObjectSet
from regionssl.proof.store import Result

_WIDTH, _CAPTION, _ENLARGED = 300, 18, 2.0  # of one panel, pixels; small images are enlarged
_LINES = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0))


@dataclass(frozen=True)
class Case:
    """An image, its name, and the score of each of two starts on it alone."""

    picture: Image.Image
    name: str
    scores: tuple[float, float]


def draw_cases(val: Labelled, names: tuple[str, str], results: tuple[Result, Result], count: int) -> list[Case]:
    """The images on which the first leads most, then those on which the second does; at most ``count`` of each.

    Each is drawn as labels, first's and second's predictions, as far as the evaluator left them.
    """
    first, second = results
    lead = np.nan_to_num(first.per_image - second.per_image)
    order = np.argsort(-lead, kind="stable")
    chosen = [i for i in order[:count].tolist() if lead[i] > 0] + [
        i for i in order[::-1][:count].tolist() if lead[i] < 0
    ]
    found = [_predictions(val, result) for result in results]
    cases = []
    for i in chosen:
        try:
            image = val.images.load(i)
        except UnreadableImage:
            continue
        panels = [("labels", _labels(val, i))] + [(name, one[i]) for name, one in zip(names, found, strict=True) if one]
        scores = (float(first.per_image[i]), float(second.per_image[i]))
        cases.append(Case(_joined(val, image, panels), val.images.names[i], scores))
    return cases


def _labels(val: Labelled, i: int) -> Any:
    """What is drawn of the labels: a map, a list of boxes and texts, or a text."""
    if isinstance(val, MapSet):
        return val.labels(i)
    if isinstance(val, ObjectSet):
        one = val.objects[i]
        rows = zip(one.boxes[~one.crowd].tolist(), one.labels[~one.crowd].tolist(), strict=True)
        return [(box, label, val.classes[label]) for box, label in rows]
    return ", ".join(val.classes[c] for c in np.flatnonzero(val.truth[i] == 1)) or "none"


def _predictions(val: Labelled, result: Result) -> list[Any]:
    """As :func:`_labels`, of every image; nothing if the evaluator left none in a known form, or they are damaged."""
    path = result.artefacts.get("predictions")
    try:
        return _read(val, path) if path is not None and path.exists() else []
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _read(val: Labelled, path: Path) -> list[Any]:
    if isinstance(val, MapSet):
        maps = [path / f"{i:06d}.png" for i in range(len(val))]
        return [np.asarray(Image.open(one)) for one in maps] if all(one.is_file() for one in maps) else []
    if isinstance(val, ObjectSet):
        return _boxes(val, json.loads(path.read_text())) if path.suffix == ".json" else []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [f"{row['predicted']} ({float(row['score']):.2f})" for row in rows] if len(rows) == len(val) else []


def _boxes(val: ObjectSet, found: Sequence[dict[str, Any]]) -> list[Any]:
    drawn: list[Any] = [[] for _ in range(len(val))]
    for one in found:
        if one["score"] >= SHOWN_SCORE and "bbox" in one:
            x, y, width, height = one["bbox"]
            label = one["category_id"] - 1
            text = f"{val.classes[label]} {one['score']:.2f}"
            drawn[one["image_id"] - 1].append(((x, y, x + width, y + height), label, text))
    return drawn


def _joined(val: Labelled, image: Image.Image, panels: Sequence[tuple[str, Any]]) -> Image.Image:
    """The panels from left to right, each under its name."""
    scale = min(_ENLARGED, _WIDTH / image.width)
    small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    canvas = Image.new("RGB", ((small.width + 6) * len(panels) - 6, small.height + _CAPTION), "white")
    pen = ImageDraw.Draw(canvas)
    for number, (name, content) in enumerate(panels):
        x = number * (small.width + 6)
        text = f"{name}: {content}" if isinstance(content, str) else name
        pen.text((x + 2, 2), text[:44], fill="black")
        canvas.paste(_panel(val, small, content, scale), (x, _CAPTION))
    return canvas


def _panel(val: Labelled, small: Image.Image, content: Any, scale: float) -> Image.Image:
    if isinstance(content, str):
        return small
    if isinstance(content, np.ndarray):
        colours = Image.fromarray(palette(len(val.classes))[content]).resize(small.size, Image.Resampling.NEAREST)
        return Image.blend(small, colours, 0.6)
    picture = small.copy()
    pen = ImageDraw.Draw(picture)
    for box, label, text in content:
        corners = [value * scale for value in box]
        pen.rectangle(corners, outline=_LINES[label % len(_LINES)], width=2)
        pen.text((corners[0] + 3, corners[1] + 1), text, fill=_LINES[label % len(_LINES)])
    return picture
