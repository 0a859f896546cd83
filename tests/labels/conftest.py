"""Small labelled sets, written file by file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def draw(path: Path, width: int = 40, height: int = 30, orientation: int = 1) -> None:
    """A picture of noise that only its path decides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = [*str(path.name).encode(), *str(path.parent.name).encode()]
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(path, exif=exif if orientation > 1 else b"")


def write_map(path: Path, values: Any, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(values, np.uint8))
    if palette:
        picture.putpalette([(7 * i) % 256 for i in range(768)])
    picture.save(path)


@pytest.fixture
def picture() -> Callable[..., None]:
    return draw


@pytest.fixture
def class_map() -> Callable[..., None]:
    return write_map


def box(number: int, image: Any, category: Any, bbox: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "area": 50, "iscrowd": 0, **more}


class CocoSet:
    """A COCO json under construction: ``content`` may be changed before :meth:`write`."""

    def __init__(self, folder: Path, count: int = 2) -> None:
        self.folder = folder
        self.content: dict[str, Any] = {
            "images": [
                {"id": 10 + i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in reversed(range(count))
            ],
            "annotations": [box(i + 1, 10 + i, 3 + 4 * (i % 2), [4, 5, 10, 8]) for i in range(count)],
            "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        }
        for i in range(count):
            draw(folder / f"{i}.png")

    def write(self, name: str = "labels.json") -> Path:
        file = self.folder / name
        file.write_text(json.dumps(self.content))
        return file


@pytest.fixture
def coco_set(tmp_path: Path) -> CocoSet:
    return CocoSet(tmp_path / "set")


@pytest.fixture
def many(tmp_path: Path) -> CocoSet:
    """Forty images, so that two of them are five in a hundred."""
    return CocoSet(tmp_path / "set", 40)
