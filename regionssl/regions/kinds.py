"""The kinds of regions that can be kept in a store: label maps and boxes of whole images."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from regionssl import geometry
from regionssl.errors import InputError
from regionssl.regions.annotations import CocoObjects
from regionssl.regions.proposals import selective_search
from regionssl.regions.sources import SourceConfig
from regionssl.regions.windows import window_grid
from regionssl.stores.shards import digest_file
from regionssl.stores.store import Content

Kind = Literal["grid", "slic", "felzenszwalb", "windows", "selective_search", "kmeans", "coco_boxes", "coco_masks"]

_SETTINGS: dict[str, tuple[str, ...]] = {
    "grid": ("side",),
    "slic": ("size", "segments", "compactness"),
    "felzenszwalb": ("size", "scale", "sigma", "min_size"),
    "windows": ("size", "window", "stride"),
    "selective_search": (),
    "kmeans": ("size", "clusters", "seed"),
    "coco_boxes": (),
    "coco_masks": (),
}
_LIBRARY = {
    "slic": "scikit-image",
    "felzenszwalb": "scikit-image",
    "selective_search": "opencv-contrib-python-headless",
}
_BOXES = ("windows", "selective_search", "coco_boxes")


class RegionConfig(SourceConfig):
    """Which regions of an image; settings of other kinds than the chosen one are not looked at.

    Attributes:
        kind: label maps: "grid", "slic", "felzenszwalb", "kmeans" of a network's features, "coco_masks"; boxes:
            "windows", "selective_search" (ORL 3.2), "coco_boxes".
        window, stride: windows: side and step on the image squashed to ``size`` (ReSim 2.3).
        clusters, seed: kmeans: clusters per image, and what the first centres are drawn from.
    """

    kind: Kind = "slic"  # type: ignore[assignment]
    window: int = Field(48, ge=1)
    stride: int = Field(32, ge=1)
    clusters: int = Field(8, ge=2)
    seed: int = Field(0, ge=0)

    @property
    def content(self) -> Content:
        """What a store of this kind holds."""
        return "boxes" if self.kind in _BOXES else "labels"


def settings_of(config: SourceConfig) -> dict[str, Any]:
    """The kind and those of its settings that decide its regions, as plain values.

    Raises:
        InputError: regions of this kind are not kept in stores.
    """
    if config.kind not in _SETTINGS:
        raise InputError(f"regions of kind {config.kind} are files already and are not kept in a store; leave it out")
    plain = config.model_dump(mode="json")
    return {key: plain[key] for key in ("kind", *_SETTINGS[config.kind])}


def library_of(kind: str) -> dict[str, str]:
    """Name and version of the library that makes regions of a kind, if one does: another version may make others."""
    if kind not in _LIBRARY:
        return {}
    try:
        return {_LIBRARY[kind]: version(_LIBRARY[kind])}
    except PackageNotFoundError:
        return {}


@dataclass(frozen=True)
class SelectiveSearch:
    """All proposals of selective search, in their order (ORL, section 3.2)."""

    def __call__(self, image: Image.Image, position: int) -> np.ndarray:
        return selective_search(np.asarray(image))


@dataclass(frozen=True)
class Windows:
    """ReSim's windows on the whole image, squashed to a square of ``size``; to whole image pixels, none empty."""

    size: int
    window: int
    stride: int

    def __call__(self, image: Image.Image, position: int) -> np.ndarray:
        whole = geometry.Crops(torch.tensor([[0.0, 0.0, *image.size]]).double(), torch.tensor([False]), self.size)
        boxes = geometry.to_image(window_grid(self.size, self.window, self.stride)[None], whole)[0].round()
        extent = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
        return torch.cat([boxes[:, :2], extent], 1).int().numpy()


@dataclass(frozen=True)
class CocoBoxes:
    """The boxes of a COCO json."""

    objects: CocoObjects

    def __call__(self, image: Image.Image, position: int) -> np.ndarray:
        return self.objects.boxes(position, image.width, image.height)


@dataclass(frozen=True)
class CocoMasks:
    """The masks of a COCO json as a label map: 0 where there is none, small objects over large ones."""

    objects: CocoObjects

    def __call__(self, image: Image.Image, position: int) -> np.ndarray:
        masks = self.objects.masks(position, image.width, image.height)
        labels = np.zeros((image.height, image.width), np.int32)
        for number in np.argsort(-masks.sum((1, 2)), kind="stable"):
            labels[masks[number]] = number + 1
        return labels


def annotation_digest(path: Path | None) -> str:
    """A hash of the file that regions are read from.

    Raises:
        InputError: there is no such file.
    """
    if path is None or not path.is_file():
        raise InputError(f"regions of a COCO json need the json: --annotations FILE; there is no file {path}")
    return digest_file(path)
