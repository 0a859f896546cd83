"""Outlines and surfaces of the generated scenes (:mod:`regionssl.data.scenes`), as functions of coordinates.

An outline is a function of object coordinates u, v (the shape lies in the unit disc) and of a few uniform numbers that
vary the shape within its class; it is positive inside, negative outside, and its slope near the edge is about one.
A surface is a colour for every point; its coordinates are pixels of a scene 160 pixels wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]  # float32 throughout
Outline = Callable[[Field, Field, list[float]], Field]
VARIATIONS = 12  # uniform numbers that an outline may use


def _box(u: Field, v: Field, half_width: float, half_height: float) -> Field:
    return np.minimum(half_width - np.abs(u), half_height - np.abs(v))


def _disc(u: Field, v: Field, p: list[float]) -> Field:
    return 0.9 - np.hypot(u, v)


def _ring(u: Field, v: Field, p: list[float]) -> Field:
    half = 0.12 + 0.1 * p[0]
    return half - np.abs(np.hypot(u, v) - (0.95 - half))


def _star(u: Field, v: Field, p: list[float]) -> Field:
    points, inner = 4 + int(3 * p[0]), 0.38 + 0.14 * p[1]
    sector = math.pi / points
    angle = np.abs(np.mod(np.arctan2(v, u), 2 * sector) - sector)
    radius = np.hypot(u, v)
    x, y = radius * np.cos(sector - angle), radius * np.sin(sector - angle)  # from a tip (1, 0) to the next notch
    run, rise = inner * math.cos(sector) - 1, inner * math.sin(sector)
    return ((x - 1) * rise - y * run) / -math.hypot(run, rise)


def _crescent(u: Field, v: Field, p: list[float]) -> Field:
    offset, bite = 0.45 + 0.15 * p[0], 0.72 + 0.1 * p[1]
    inside: Field = np.minimum(0.95 - np.hypot(u, v), np.hypot(u - offset, v) - bite)
    return inside


def _cross(u: Field, v: Field, p: list[float]) -> Field:
    arm = 0.2 + 0.1 * p[0]
    return np.maximum(_box(u, v, 0.95, arm), _box(u, v, arm, 0.95))


def _bar(u: Field, v: Field, p: list[float]) -> Field:
    height, notch, centre = 0.32 + 0.12 * p[0], 0.16 + 0.1 * p[1], 0.5 * p[2] - 0.25
    inside: Field = np.minimum(
        _box(u, v, 0.88, height), -_box(u - centre, v - height, notch, height * (0.8 + 0.3 * p[3]))
    )
    return inside


def _gear(u: Field, v: Field, p: list[float]) -> Field:
    teeth, hole = 7 + int(5 * p[0]), 0.22 + 0.18 * p[1]
    radius = np.hypot(u, v)
    rim = 0.84 + 0.12 * np.clip(2.5 * np.cos(teeth * np.arctan2(v, u)), -1, 1)
    inside: Field = np.minimum((rim - radius) * 0.7, radius - hole)
    return inside


def _arrow(u: Field, v: Field, p: list[float]) -> Field:
    neck, shaft, spread = 0.25 * p[0] - 0.05, 0.14 + 0.1 * p[1], 0.6 + 0.15 * p[2]
    length = 0.95 - neck
    edge = ((0.95 - u) * spread - np.abs(v) * length) / math.hypot(spread, length)
    inside: Field = np.maximum(np.minimum(edge, u - neck), np.minimum(_box(u, v, 0.9, shaft), neck + 0.1 - u))
    return inside


def _blob(u: Field, v: Field, p: list[float]) -> Field:
    angle = np.arctan2(v, u)
    wobble = 0.16 * np.cos(2 * angle + 7 * p[0]) + 0.12 * np.cos(3 * angle + 7 * p[1])
    return 0.65 + wobble + 0.06 * np.cos(5 * angle + 7 * p[2]) - np.hypot(u, v)


def _polygon(u: Field, v: Field, p: list[float]) -> Field:
    sides = 3 + int(3 * p[0])
    inside = 0.95 - np.hypot(u, v)
    for side in range(sides):
        angle = 2 * math.pi * (side + 0.7 * p[1 + side]) / sides
        inside = np.minimum(inside, 0.3 + 0.4 * p[6 + side] - u * math.cos(angle) - v * math.sin(angle))
    return inside


def _strip(u: Field, v: Field, p: list[float]) -> Field:
    bend = 0.8 * (p[1] - 0.5)
    return _box(u, v - bend * (u * u - 0.4), 0.9, 0.06 + 0.1 * p[0])


OBJECTS: dict[str, Outline] = {
    "disc": _disc,
    "ring": _ring,
    "star": _star,
    "crescent": _crescent,
    "cross": _cross,
    "bar": _bar,
    "gear": _gear,
    "arrow": _arrow,
}
CLUTTER: tuple[Outline, ...] = (_blob, _polygon, _strip)


@dataclass(frozen=True)
class Pose:
    """How a shape lies in the picture: turned, mirrored, stretched, sheared and tilted (perspective).

    Attributes:
        inverse: (2, 2), offsets from the centre in radii -> the shape's plane.
        tilt: (2,), perspective: a point q of the plane is the point q / (1 + tilt . q) of the shape.
        extent: (2,), half width and half height in radii that hold the unit disc of the shape.
    """

    inverse: Field
    tilt: Field
    extent: NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Pose:
        """A pose of any direction, mildly stretched, sheared and tilted."""
        angle, stretch, shear = rng.uniform(0, 2 * math.pi), rng.uniform(0.85, 1.18), rng.uniform(-0.2, 0.2)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        mirrored = 1 if rng.random() < 0.5 else -1
        forward = turn @ np.array([[stretch, shear], [0, mirrored / stretch]])
        tilt = rng.uniform(-0.13, 0.13, 2)
        extent = np.linalg.norm(forward, axis=1) / (1 - np.linalg.norm(tilt))
        return cls(np.linalg.inv(forward).astype(np.float32), tilt.astype(np.float32), extent)

    def to_shape(self, x: Field, y: Field) -> tuple[Field, Field]:
        """Offsets from the centre in radii -> coordinates of the shape."""
        (a, b), (c, d) = self.inverse
        u, v = a * x + b * y, c * x + d * y
        nearness = np.maximum(1 + self.tilt[0] * u + self.tilt[1] * v, np.float32(0.3))  # not beyond the horizon
        return u / nearness, v / nearness


def palette(count: int, rng: np.random.Generator) -> Field:
    """(count, 3) float32 RGB colours in 0..1 of any hue, from dark to light and from grey to vivid."""
    hue, saturation, value = rng.random((count, 1)), rng.beta(1.2, 1.8, (count, 1)), rng.uniform(0.25, 1, (count, 1))
    pure = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return np.asarray(value * (1 - saturation + saturation * pure), np.float32)


def surface(x: Field, y: Field, colours: Field, rng: np.random.Generator) -> Field:
    """Two colours mixed by a pattern: plain, gradient, stripes, checks, dots, waves, clouds or grain.

    Args:
        x, y: (H, W), pixels of a scene 160 pixels wide.
        colours: (n, 3), the palette of the scene; each of the two colours comes from it or is new.

    Returns:
        (3, H, W) float32 in 0..1.
    """
    pair = [colours[rng.integers(len(colours))] if rng.random() < 0.7 else palette(1, rng)[0] for _ in range(2)]
    contrast = rng.uniform(0.15, 0.8)
    sharpness = np.float32(rng.uniform(0.4, 2.5))
    mix = np.float32(contrast) * np.clip(np.float32(0.5) + sharpness * _pattern(x, y, rng), 0, 1)
    first, second = (colour[:, None, None] for colour in pair)
    mixed: Field = first + mix * (second - first)
    return mixed


def _pattern(x: Field, y: Field, rng: np.random.Generator) -> Field:
    """(H, W) float32, most values in -1..1."""
    kind, angle, phase = rng.integers(8), rng.uniform(0, 2 * math.pi), rng.uniform(0, 2 * math.pi)
    frequency = np.float32(2 * math.pi / math.exp(rng.uniform(math.log(5), math.log(28))))
    along = frequency * (x * np.float32(math.cos(angle)) + y * np.float32(math.sin(angle))) + np.float32(phase)
    across = frequency * (y * np.float32(math.cos(angle)) - x * np.float32(math.sin(angle)))
    pattern: Field
    match kind:
        case 0:
            pattern = np.full_like(x, -1)
        case 1:
            pattern = np.sin(along * np.float32(0.12))
        case 2:
            pattern = np.sin(along)
        case 3:
            pattern = np.sin(along) * np.sin(across)
        case 4:
            pattern = np.cos(along) + np.cos(across) - np.float32(0.9)
        case 5:
            pattern = np.sin(along + np.float32(1.5) * np.sin(across * np.float32(0.6)))
        case 6:
            pattern = _clouds(along, across, rng)
        case _:
            grains = np.random.default_rng(int(rng.integers(1 << 62)))  # so the picture's size shifts no other draw
            pattern = grains.random(x.shape, np.float32) * 2 - 1
    return pattern


def _clouds(along: Field, across: Field, rng: np.random.Generator) -> Field:
    total = np.zeros_like(along)
    for angle, phase, factor in rng.random((5, 3)).astype(np.float32):
        a = angle * np.float32(2 * math.pi)
        total += np.sin((along * np.cos(a) + across * np.sin(a)) * (np.float32(0.3) + factor) + phase * np.float32(7))
    return total / 2
