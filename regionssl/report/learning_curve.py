"""Learning curves as SVG: score over the number of labelled images, one line with intervals for each start."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from regionssl.report.drawing import ticks

WIDTH, HEIGHT = 480, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 24, 54
COLOURS, MARKERS = 6, 8
"""How many there are before they repeat; no two of 24 curves have both in common."""
_DASHES = ("", "7 4", "2 4", "10 3 2 3", "1 3", "12 5")


@dataclass(frozen=True)
class CurvePoint:
    """A score at a number of labelled images, with the bounds of its interval (nan where there are none)."""

    images: int
    fraction: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """The points of one start, by number of images."""

    name: str
    points: Sequence[CurvePoint]


def learning_curves(curves: Sequence[Curve], metric: str) -> str:
    """An ``<svg>`` element. Colours come from the classes ``s0`` to ``s5`` of the page; every point takes the focus."""
    frame = _Frame(curves)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="group" aria-label="{escape(metric)} over labelled images">',
        *_grid(frame, curves, metric),
    ]
    for number, curve in enumerate(curves):
        parts += _line(frame, curve, number, (number - (len(curves) - 1) / 2) * 7)
    return "\n".join([*parts, "</svg>"])


def swatch(number: int) -> str:
    """The line and marker of a series, for a legend."""
    colour = number % COLOURS
    return (
        f'<svg class="swatch s{colour}" viewBox="0 0 36 14" aria-hidden="true">'
        f'<line x1="1" x2="35" y1="7" y2="7" stroke-dasharray="{_DASHES[colour]}"/>{_marker(18, 7, number)}</svg>'
    )


def legend(names: Sequence[str]) -> str:
    """The names of the series beside their lines and markers."""
    entries = "".join(f"<li>{swatch(number)} {escape(name)}</li>" for number, name in enumerate(names))
    return f'<ul class="legend">{entries}</ul>'


class _Frame:
    """From images (on a logarithmic scale) and scores to places in the picture."""

    def __init__(self, curves: Sequence[Curve]) -> None:
        points = [point for curve in curves for point in curve.points]
        self.images = sorted({(point.images, point.fraction) for point in points})
        values = [v for p in points for v in (p.mean, p.low, p.high) if math.isfinite(v)] or [0.0, 1.0]
        low, high = min(values), max(values)
        margin = 0.08 * (high - low) or 1.0
        self.low, self.high = low - margin, high + margin
        few, many = self.images[0][0], self.images[-1][0]
        self.first, self.extent = math.log(few), math.log(many / few)

    def x(self, images: int) -> float:
        share = (math.log(images) - self.first) / self.extent if self.extent else 0.5
        inner = WIDTH - _LEFT - _RIGHT
        return _LEFT + inner * (0.06 + 0.88 * share)

    def y(self, value: float) -> float:
        return _TOP + (HEIGHT - _TOP - _BOTTOM) * (self.high - value) / (self.high - self.low)


def _grid(frame: _Frame, curves: Sequence[Curve], metric: str) -> list[str]:
    base = HEIGHT - _BOTTOM
    parts = []
    for value in ticks(frame.low, frame.high):
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    last = -math.inf
    for images, fraction in frame.images:
        x = frame.x(images)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 5}"/>')
        if x - last > 52:
            parts.append(f'<text x="{x:.1f}" y="{base + 19}" text-anchor="middle">{images:,}</text>')
            parts.append(
                f'<text class="small" x="{x:.1f}" y="{base + 33}" text-anchor="middle">{100 * fraction:g} %</text>'
            )
            last = x
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text class="small" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">labelled images</text>')
    parts.append(f'<text class="small" x="{_LEFT}" y="12">{escape(metric)}</text>')
    return parts


def _line(frame: _Frame, curve: Curve, number: int, shift: float) -> list[str]:
    """The line; its intervals and markers a little beside those of the other lines."""
    points = [point for point in curve.points if math.isfinite(point.mean)]
    places = [(frame.x(point.images) + shift, frame.y(point.mean)) for point in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    colour = number % COLOURS
    parts = [f'<g class="s{colour}">', f'<polyline points="{path}" stroke-dasharray="{_DASHES[colour]}"/>']
    for point, (x, y) in zip(points, places, strict=True):
        said = f"{curve.name}, {point.images:,} images: {point.mean:.1f}"
        bars = ""
        if math.isfinite(point.low):
            said += f", 95 % interval {point.low:.1f} to {point.high:.1f}"
            low, high = frame.y(point.low), frame.y(point.high)
            ends = "".join(f"M{x - 4:.1f} {at:.1f}h8" for at in (low, high))
            bars = f'<path d="M{x:.1f} {low:.1f}V{high:.1f}{ends}"/>'
        label = escape(said)
        parts.append(
            f'<g class="point" tabindex="0" role="img" aria-label="{label}"><title>{label}</title>'
            f"{bars}{_marker(x, y, number)}{_value(point, x, y)}</g>"
        )
    return [*parts, "</g>"]


def _value(point: CurvePoint, x: float, y: float) -> str:
    """The numbers of a point, which the page shows while it is pointed at or has the focus."""
    bounds = f" ({point.low:.1f} to {point.high:.1f})" if math.isfinite(point.low) else ""
    middle = min(max(x, _LEFT + 62), WIDTH - _RIGHT - 62)
    return f'<text class="value" x="{middle:.1f}" y="{y - 10:.1f}" text-anchor="middle">{point.mean:.1f}{bounds}</text>'


def _marker(x: float, y: float, number: int) -> str:
    up = f'points="{x:.1f},{y - 5.5:.1f} {x + 5:.1f},{y + 4:.1f} {x - 5:.1f},{y + 4:.1f}"'
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>',
        f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>',
        f"<polygon {up}/>",
        f'<polygon points="{x:.1f},{y - 6:.1f} {x + 6:.1f},{y:.1f} {x:.1f},{y + 6:.1f} {x - 6:.1f},{y:.1f}"/>',
        f'<polygon points="{x:.1f},{y + 5.5:.1f} {x + 5:.1f},{y - 4:.1f} {x - 5:.1f},{y - 4:.1f}"/>',
        f'<circle class="hollow" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>',
        f'<rect class="hollow" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>',
        f'<polygon class="hollow" {up}/>',
    )
    return shapes[number % MARKERS]
