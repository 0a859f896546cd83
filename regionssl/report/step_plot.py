"""Plots over the steps of runs as SVG: values with their running mean, the usual band, changes of the lamp."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from regionssl.report.curves import Points, number_text, smoothed
from regionssl.report.drawing import ticks

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 360, 200, 50, 10, 10, 36
_SERIES = 6
_SMOOTH_FROM, _MOST = 40, 240
_ROUNDING = 1e-5  # of the values: a smaller spread is that of float32, not of the run


@dataclass(frozen=True)
class Turn:
    """A step at which the lamp changed, counted from 1, and its new level."""

    step: int
    level: str


@dataclass(frozen=True)
class Plot:
    """What is plotted.

    Attributes:
        name: of the values.
        series: (run, points by step), in the order of the runs' colours; a run without points keeps its place.
        band: the usual lowest and highest value.
        turns: changes of the lamp, of a single run.
        note: what is said of it.
    """

    name: str
    series: Sequence[tuple[str, Points]]
    band: tuple[float, float] | None = None
    turns: Sequence[Turn] = ()
    note: str = ""


def step_plot(plot: Plot) -> str:
    """A ``<figure>``: the name, the last values, and the picture."""
    drawn = [points for _, points in plot.series if points]
    if not drawn:
        return ""
    frame = _Frame.around(drawn, plot.band)
    said = _said(plot)
    parts = [f'<svg class="steps" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(said)}">']
    if plot.band:
        top, bottom = frame.y(plot.band[1]), frame.y(plot.band[0])
        parts.append(
            f'<rect class="band" x="{_LEFT}" y="{top:.1f}" width="{_WIDTH - _LEFT - _RIGHT}" '
            f'height="{bottom - top:.1f}"/>'
        )
    parts += _grid(frame)
    for turn in plot.turns:
        x = frame.x(turn.step)
        parts.append(
            f'<line class="turn {turn.level}" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
        )
    for number, (_, points) in enumerate(plot.series):
        if points:
            parts += [f'<g class="s{number % _SERIES}">', *_lines(frame, points), "</g>"]
    caption = f"<strong>{escape(plot.name)}</strong> {escape(_summary(plot))}"
    return f'<figure class="plot"><figcaption>{caption}</figcaption>{"".join(parts)}</svg></figure>'


@dataclass(frozen=True)
class _Frame:
    """From steps and values to places in the picture."""

    first: float
    last: float
    low: float
    high: float

    @classmethod
    def around(cls, series: Sequence[Points], band: tuple[float, float] | None) -> _Frame:
        steps = [x for points in series for x, _ in points]
        values = [y for points in series for _, y in points] + list(band or ())
        low, high = min(values), max(values)
        margin = 0.06 * (high - low) if high - low > _ROUNDING * max(abs(low), abs(high)) else 0.5 * abs(high) or 0.5
        first, last = min(steps), max(steps)
        return cls(
            first - (0.5 if first == last else 0), last + (0.5 if first == last else 0), low - margin, high + margin
        )

    def x(self, step: float) -> float:
        share = (step - self.first) / (self.last - self.first)
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(max(share, 0), 1)

    def y(self, value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (self.high - value) / (self.high - self.low)


def thinned(points: Points, most: int = _MOST) -> Points:
    """At most ``most`` points: of each of equally many neighbours the least and the greatest, so that peaks stay."""
    if len(points) <= most:
        return points
    size = math.ceil(len(points) / (most // 2))
    kept = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        extremes = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        kept += sorted(extremes)
    return kept


def _grid(frame: _Frame) -> list[str]:
    base, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for value in ticks(frame.low, frame.high, 4):
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number_text(value)}</text>')
    for step in ticks(frame.first, frame.last, 4):
        if step == int(step):
            x = frame.x(step)
            parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 4}"/>')
            parts.append(f'<text x="{x:.1f}" y="{base + 16}" text-anchor="middle">{number_text(step)}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{base}" y2="{base}"/>')
    parts.append(f'<text class="small" x="{(_LEFT + right) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">step</text>')
    return parts


def _lines(frame: _Frame, points: Points) -> list[str]:
    """The values; when there are many, pale under their running mean."""
    if len(points) == 1:
        return [f'<circle class="dot" cx="{frame.x(points[0][0]):.1f}" cy="{frame.y(points[0][1]):.1f}" r="3.5"/>']
    if len(points) < _SMOOTH_FROM:
        return [_polyline(frame, points)]
    return [_polyline(frame, thinned(points), "raw"), _polyline(frame, thinned(smoothed(points, len(points) // 30)))]


def _polyline(frame: _Frame, points: Points, kind: str = "mean") -> str:
    places = " ".join(f"{frame.x(step):.1f},{frame.y(value):.1f}" for step, value in points)
    return f'<polyline class="{kind}" points="{places}"/>'


def _summary(plot: Plot) -> str:
    lasts = [
        f"{name}: {points[-1][1]:.4g}" if len(plot.series) > 1 else f"last {points[-1][1]:.4g}"
        for name, points in plot.series
        if points
    ]
    band = f"usual {plot.band[0]:.3g} to {plot.band[1]:.3g}" if plot.band else ""
    return "; ".join(filter(None, [*lasts, band, plot.note]))


def _said(plot: Plot) -> str:
    """The plot in words."""
    lines = [
        f"{name}: from {points[0][1]:.4g} at step {points[0][0]:.0f} to {points[-1][1]:.4g} at step "
        f"{points[-1][0]:.0f}, least {min(y for _, y in points):.4g}, greatest {max(y for _, y in points):.4g}"
        for name, points in plot.series
        if points
    ]
    return f"{plot.name} over steps. {'; '.join(lines)}"
