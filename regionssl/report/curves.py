"""The figure of a run's log: one small plot per loss term, and the speed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw

from regionssl.report.drawing import BLUE, INK, LINE, MUTED, PAPER, SMALL, TEXT, Canvas, Colour, Panel, shorten, ticks

SPEED = "images_per_second"
_WIDTH, _HEIGHT, _GAP, _MARGIN, _TITLE = 380, 210, 24, 28, 40
_LEFT, _TOP, _BOTTOM = 66, 34, 60
_PALE: Colour = (168, 206, 231)
_SHARP, _SMOOTH_FROM = 4, 40

Points = list[tuple[float, float]]


def curves_figure(records: Sequence[Mapping[str, Any]], terms: Sequence[str], title: str = "") -> Image.Image:
    """Small plots over the steps of a run, at most three in a row.

    Args:
        records: the lines of ``log.jsonl``; those without ``step`` or a finite value of a term are passed over.
        terms: what to plot, such as "loss"; the images per second come last by themselves.
    """
    names = [*(term for term in terms if term != SPEED), SPEED]
    columns = min(3, len(names))
    lines = math.ceil(len(names) / columns)
    top = _MARGIN + (_TITLE if title else 0)
    cell_width, cell_height = _LEFT + _WIDTH + _GAP, _TOP + _HEIGHT + _BOTTOM
    canvas = Canvas(2 * _MARGIN + columns * cell_width - _GAP, top + lines * cell_height)
    if title:
        canvas.write(_MARGIN, _MARGIN, shorten(title, canvas.image.width - 2 * _MARGIN, TEXT + 4), TEXT + 4)
    for number, name in enumerate(names):
        row, column = divmod(number, columns)
        panel = Panel(_MARGIN + _LEFT + column * cell_width, top + _TOP + row * cell_height, _WIDTH, _HEIGHT, 1.0)
        _draw_plot(canvas, panel, name, points_of(records, name))
    return canvas.image


def points_of(records: Sequence[Mapping[str, Any]], name: str) -> Points:
    """(step, value) of the records that have both, the value finite; steps count from 1."""
    pairs = ((record.get("step"), record.get(name)) for record in records)
    return [
        (step + 1.0, float(value))
        for step, value in pairs
        if isinstance(step, int) and isinstance(value, (int, float)) and math.isfinite(value)
    ]


def smoothed(points: Points, reach: int) -> Points:
    """The mean over ``reach`` points on either side, fewer towards both ends so that it stays centred."""
    totals = [0.0, *itertools.accumulate(y for _, y in points)]
    result = []
    for i, (x, _) in enumerate(points):
        near = min(reach, i, len(points) - 1 - i)
        result.append((x, (totals[i + near + 1] - totals[i - near]) / (2 * near + 1)))
    return result


def number_text(value: float) -> str:
    """A tick's number: 0.25, 40, 12k, 3e-05."""
    if value and abs(value) >= 10_000:
        return f"{value / 1e6:g}M" if abs(value) >= 1e6 else f"{value / 1e3:g}k"
    return f"{value:.6g}"


def _draw_plot(canvas: Canvas, panel: Panel, name: str, points: Points) -> None:
    canvas.write(panel.left, panel.top - 18, name.replace("_", " "))
    if not points:
        canvas.outline(panel.edges, LINE, 1, halo=False)
        canvas.write(panel.left + panel.width / 2, panel.top + panel.height / 2, "no values", SMALL, MUTED, "mm")
        return
    canvas.write(panel.left + panel.width, panel.top - 18, f"last {points[-1][1]:.4g}", SMALL, MUTED, "rm")
    x_range = _range([x for x, _ in points], 0.0)
    y_range = _range([y for _, y in points], 0.06)
    image = Image.new("RGB", (panel.width * _SHARP, panel.height * _SHARP), PAPER)
    _draw_grid(canvas, ImageDraw.Draw(image), panel, x_range, y_range)
    _draw_lines(ImageDraw.Draw(image), image.size, points, x_range, y_range)
    canvas.paste(image.resize((panel.width, panel.height), Image.Resampling.LANCZOS), panel)
    canvas.draw.line((panel.left, panel.top, panel.left, panel.top + panel.height), fill=INK)
    base = panel.top + panel.height
    canvas.draw.line((panel.left, base, panel.left + panel.width, base), fill=INK)


def _range(values: list[float], padding: float) -> tuple[float, float]:
    """Least and largest value, apart from each other, with a share of the extent added at both ends."""
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        half = 0.5 * abs(high) or 0.5
        low, high = low - half, high + half
    return low - padding * (high - low), high + padding * (high - low)


def _share(value: float, span: tuple[float, float]) -> float:
    return (value - span[0]) / (span[1] - span[0])


def _draw_grid(
    canvas: Canvas, draw: ImageDraw.ImageDraw, panel: Panel, x_range: tuple[float, float], y_range: tuple[float, float]
) -> None:
    """Pale lines in the plot, numbers beside it."""
    wide, tall = panel.width * _SHARP, panel.height * _SHARP
    base = panel.top + panel.height
    for y in ticks(*y_range):
        share = 1 - _share(y, y_range)
        draw.line((0, share * tall, wide, share * tall), fill=LINE, width=_SHARP)
        canvas.write(panel.left - 8, panel.top + share * panel.height, number_text(y), SMALL, MUTED, "rm")
    for x in ticks(*x_range):
        if x == int(x):
            place = panel.left + _share(x, x_range) * panel.width
            canvas.draw.line((place, base, place, base + 5), fill=INK)
            canvas.write(place, base + 16, number_text(x), SMALL, MUTED, "mm")
    canvas.write(panel.left + panel.width / 2, base + 34, "step", SMALL, MUTED, "mm")


def _draw_lines(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    points: Points,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
) -> None:
    """The values; when there are many, pale under their running mean."""

    def on_picture(curve: Points) -> Points:
        return [(_share(x, x_range) * size[0], (1 - _share(y, y_range)) * size[1]) for x, y in curve]

    if len(points) == 1:
        x, y = on_picture(points)[0]
        draw.ellipse((x - 4 * _SHARP, y - 4 * _SHARP, x + 4 * _SHARP, y + 4 * _SHARP), fill=BLUE)
    elif len(points) < _SMOOTH_FROM:
        draw.line(on_picture(points), fill=BLUE, width=2 * _SHARP, joint="curve")
    else:
        draw.line(on_picture(points), fill=_PALE, width=_SHARP, joint="curve")
        draw.line(on_picture(smoothed(points, len(points) // 30)), fill=BLUE, width=2 * _SHARP + 2, joint="curve")
