"""Small generated sets of images with classes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regionssl.data.images import find_images
from regionssl.evaluation.start import Start, open_start
from regionssl.labels.sets import ClassSet, Split

CLASSES = ("stripes", "checks", "noise")


def texture(kind: int, rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8 of a class; colours say nothing of it."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    step = int(rng.integers(5, 8))
    pattern = (x // step % 2, (x // step + y // step) % 2, rng.integers(0, 2, (height, width)))[kind]
    dark, light = rng.integers(0, 110, 3), rng.integers(140, 256, 3)
    return np.where(pattern[..., None] == 1, light, dark).astype(np.uint8)


def class_set(folder: Path, count: int, seed: int) -> ClassSet:
    """Images in several sizes, whose classes take turns."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for i in range(count):
        width, height = rng.integers(70, 100, 2)
        Image.fromarray(texture(i % 3, rng, int(width), int(height))).save(folder / f"{i:03d}.png")
    return ClassSet(find_images(folder), np.eye(3, dtype=np.int8)[np.arange(count) % 3], CLASSES)


@pytest.fixture(scope="session")
def textures(tmp_path_factory: pytest.TempPathFactory) -> Split[ClassSet]:
    """36 images to train on and 24 to score, 3 classes."""
    folder = tmp_path_factory.mktemp("textures")
    return Split(class_set(folder / "train", 36, 0), class_set(folder / "val", 24, 1))


@pytest.fixture(scope="session")
def random_start() -> Start:
    return open_start("random", "test_resnet")
