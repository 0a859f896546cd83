"""The embedded data set: generated scenes with exact labels, each a pure function of (seed, index).

Textured, lit objects of a few shape classes lie over and under each other and clutter, in any place, pose and size.
Colours and textures of objects, clutter and background are drawn from one distribution, independently of the class: the
class is in the outline alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regionssl import run_lengths
from regionssl.counted import Stream, generator
from regionssl.data.shapes import CLUTTER, OBJECTS, VARIATIONS, Field, Outline, Pose, palette, surface
from regionssl.errors import InputError

CLASSES: tuple[str, ...] = tuple(OBJECTS)
LEAST_AREA = 8  # visible pixels; an object with fewer is not labelled
_OUTLINES = tuple(OBJECTS.values())
_REFERENCE = 160  # side for which textures, soft edges and offsets are stated in pixels


@dataclass(frozen=True)
class Scene:
    """One generated picture and its exact labels. K objects, from the farthest to the nearest; K may be 0.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        boxes: (K, 4) float64, tight boxes x0, y0, x1, y1 of the visible pixels, image frame (edges, not centres).
        masks: (K, H, W) bool, visible pixels; disjoint.
        labels: (K,) int64, 1 for ``CLASSES[0]`` and so on.
        class_map: (H, W) uint8, label of each pixel, 0 for background and clutter.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    masks: NDArray[np.bool_]
    labels: NDArray[np.int64]
    class_map: NDArray[np.uint8]


def generate(index: int, size: int = 160, seed: int = 0) -> Scene:
    """The scene at (seed, index): the same whatever was generated before. Another seed gives other scenes.

    Args:
        size: side of the square picture, pixels, at least 32; textures and objects grow with it.

    Raises:
        InputError: a negative index or a size below 32.
    """
    if index < 0 or size < 32:
        raise InputError(f"a scene needs an index of at least 0 and a size of at least 32, got {index} and {size}")
    rng = generator(seed, Stream.SCENES, index)
    canvas = _Canvas(size, rng)
    under, objects, among = rng.integers([1, 4, 0], [5, 10, 3])
    mixed = np.concatenate([rng.integers(1, len(CLASSES) + 1, objects), np.zeros(among, np.int64)])
    layers = [0] * int(under) + rng.permutation(mixed).tolist()  # 0 is clutter
    for number, label in enumerate(layers):
        if label:
            canvas.add(number, _OUTLINES[label - 1], largest=0.6)
        else:
            canvas.add(number, CLUTTER[rng.integers(len(CLUTTER))], largest=0.9 if number < under else 0.4)
    return _labelled(canvas.finish(), canvas.owner, layers)


def _labelled(image: NDArray[np.uint8], owner: NDArray[np.int16], layers: Sequence[int]) -> Scene:
    areas = np.bincount(owner.ravel() + 1, minlength=len(layers) + 1)[1:]
    kept = [n for n, label in enumerate(layers) if label and areas[n] >= LEAST_AREA]
    masks = np.equal(owner, np.array(kept, np.int16).reshape(-1, 1, 1))
    labels = np.array([layers[n] for n in kept], np.int64)
    class_map = (masks * labels.astype(np.uint8)[:, None, None]).sum(0, dtype=np.uint8)
    return Scene(image, tight_boxes(masks), masks, labels, class_map)


def tight_boxes(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Boxes (K, 4) x0, y0, x1, y1 around the set pixels of masks (K, H, W), none of which is empty; edges in pixels."""
    spans = []
    for occupied in (np.asarray(masks.any(1)), np.asarray(masks.any(2))):
        spans.append((occupied.argmax(1), occupied.shape[1] - occupied[:, ::-1].argmax(1)))
    (x0, x1), (y0, y1) = spans
    return np.stack([x0, y0, x1, y1], 1).astype(np.float64)


class _Canvas:
    """A picture in the making: colours in 0..1 and, for every pixel, the number of the layer that covers it, or -1."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng = size, rng
        self.unit = size / _REFERENCE
        self.colours = palette(5, rng)
        angle = rng.uniform(0, 2 * math.pi)
        self.light = (math.cos(angle), math.sin(angle))  # towards the lamp
        self.dark = rng.uniform(0.2, 0.6)  # what the shadows of objects take away
        self.x, self.y = _grid(0, 0, size, size, 1 / self.unit)
        self.image = surface(self.x, self.y, self.colours, rng)
        if rng.random() < 0.4:
            self.image += self._side(2) * (surface(self.x, self.y, self.colours, rng) - self.image)
        self.owner = np.full((size, size), -1, np.int16)

    def _side(self, softness: float) -> Field:
        """(H, W) in 0..1: on which side of a random wavy line a pixel lies; the line is some pixels wide."""
        rng = self.rng
        angle, offset, bend = rng.uniform(0, 2 * math.pi), rng.uniform(-60, 60), rng.uniform(0, 12)
        x, y = self.x - _REFERENCE / 2, self.y - _REFERENCE / 2
        line = np.float32(math.cos(angle)) * x + np.float32(math.sin(angle)) * y - np.float32(offset)
        line += np.float32(bend) * np.sin((x - y) * np.float32(0.06))
        side: Field = np.clip(line / np.float32(softness) + np.float32(0.5), 0, 1)
        return side

    def add(self, number: int, outline: Outline, largest: float) -> None:
        """Lay one shape of a diameter of 12 % to ``largest`` of the side over the picture, and its shadow under it."""
        rng = self.rng
        radius = rng.uniform(0.12, largest) * self.size / 2
        centre = rng.uniform(0, self.size, 2)
        pose = Pose.draw(rng)
        softness, reach = self.unit + 0.15 * radius, self.unit + 0.1 * radius
        margin = math.ceil(reach + softness / 2) + 1
        low = np.maximum(np.floor(centre - radius * pose.extent) - margin, 0).astype(int)
        high = np.minimum(np.ceil(centre + radius * pose.extent) + margin, self.size).astype(int)
        width, height = (high - low).tolist()
        x, y = (low - margin - centre).tolist()
        u, v = _grid(x, y, width + 2 * margin, height + 2 * margin, 1 / radius)
        u, v = pose.to_shape(u, v)
        depth, slope_x, slope_y = _distance(outline(u, v, rng.random(VARIATIONS).tolist()), radius)
        inner = np.s_[margin : margin + height, margin : margin + width]
        left, top = (margin + round(axis * reach) for axis in self.light)
        shade = np.clip(0.5 + depth[top : top + height, left : left + width] / np.float32(softness), 0, 1)
        facing = -slope_x[inner] * np.float32(self.light[0]) - slope_y[inner] * np.float32(self.light[1])
        depth, size = depth[inner], np.float32(radius / self.unit)
        tier, bevel = (radius * rng.uniform([0.15, 0.06], [0.6, 0.3])).astype(np.float32)
        steps = np.maximum(depth, 0) / tier
        relief = np.exp((np.floor(steps) - steps) * (tier / bevel))  # terraces that run parallel to the outline
        colours = surface(u[inner] * size, v[inner] * size, self.colours, rng)
        colours *= 1 + np.float32(rng.uniform(0.2, 0.6)) * facing * relief
        place = np.s_[low[1] : high[1], low[0] : high[0]]
        below = self.image[:, *place] * (1 - np.float32(self.dark) * shade)
        self.image[:, *place] = below + np.clip(depth + np.float32(0.5), 0, 1) * (colours - below)
        self.owner[place][depth > 0] = number

    def finish(self) -> NDArray[np.uint8]:
        """Light the whole picture unevenly, lay one wide soft shadow over it and add sensor noise: (H, W, 3) uint8."""
        rng = self.rng
        exposure, gradient, dark, spread = rng.uniform([0.9, 0, 0, 0.005], [1.3, 0.5, 0.45, 0.025]).astype(np.float32)
        towards = (self.x / _REFERENCE - 0.5) * np.float32(self.light[0])
        towards += (self.y / _REFERENCE - 0.5) * np.float32(self.light[1])
        light = exposure * (1 + gradient * towards) * (1 - dark * self._side(rng.uniform(10, 90)))
        noise = rng.standard_normal(self.image.shape, np.float32) * spread
        pixels = np.clip((self.image * light + noise) * 255 + np.float32(0.5), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def _grid(left: float, top: float, width: int, height: int, scale: float) -> tuple[Field, Field]:
    """x and y of pixel centres (height, width), from an origin that lies ``-left, -top`` inside, times ``scale``."""
    x, y = (np.arange(count) + 0.5 + start for start, count in ((left, width), (top, height)))
    x, y = np.meshgrid((x * scale).astype(np.float32), (y * scale).astype(np.float32))
    return x, y


def _distance(field: Field, radius: float) -> tuple[Field, Field, Field]:
    """Approximate signed distance to the edge in pixels (positive inside) and the unit vector that points inwards."""
    down, right = np.gradient(field)
    slope = np.maximum(np.sqrt(down * down + right * right), np.float32(0.3 / radius))
    return field / slope, right / slope, down / slope


def write_scenes(folder: Path, count: int, size: int = 160, seed: int = 0, labels: bool = True) -> None:
    """Write scenes 0 to ``count - 1`` as JPEG files, with labels as class maps and in COCO's format.

    ``folder/images/000000.jpg``; with ``labels`` also ``folder/labels/000000.png`` (the class map, 8-bit grey values)
    and ``folder/annotations.json`` (image ids are indices; segmentations are uncompressed run lengths).

    Raises:
        InputError: ``count`` below 1, or ``folder/images`` holds files that would not be overwritten.
    """
    if count < 1:
        raise InputError(f"the number of scenes must be at least 1, got {count}")
    names = [f"{index:06d}" for index in range(count)]
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    others = sorted({path.name for path in images.iterdir()} - {f"{name}.jpg" for name in names})
    if others:
        raise InputError(f"{images} already holds other files, such as {others[0]}; choose a new folder")
    scenes = []
    for index, name in enumerate(names):
        scene = generate(index, size, seed)
        Image.fromarray(scene.image).save(images / f"{name}.jpg", quality=92)
        if labels:
            (folder / "labels").mkdir(exist_ok=True)
            Image.fromarray(scene.class_map).save(folder / "labels" / f"{name}.png")
            scenes.append(_coco_annotations(scene, index))
    if labels:
        (folder / "annotations.json").write_text(json.dumps(_coco(scenes, size)))


def _coco(annotations: Sequence[Sequence[dict[str, Any]]], size: int) -> dict[str, Any]:
    numbered = [item for scene in annotations for item in scene]
    return {
        "images": [
            {"id": index, "file_name": f"{index:06d}.jpg", "width": size, "height": size}
            for index in range(len(annotations))
        ],
        "annotations": [{"id": number, **item} for number, item in enumerate(numbered, 1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)],
    }


def _coco_annotations(scene: Scene, index: int) -> list[dict[str, Any]]:
    return [
        {
            "image_id": index,
            "category_id": int(label),
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "area": int(mask.sum()),
            "iscrowd": 0,
            "segmentation": {"size": list(mask.shape), "counts": run_lengths.encode(mask)},
        }
        for label, box, mask in zip(scene.labels, scene.boxes.tolist(), scene.masks, strict=True)
    ]
