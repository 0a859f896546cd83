"""Generated scenes with class maps, and how to write other ones."""

import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from regionssl.data.images import find_images
from regionssl.data.scenes import CLASSES, generate
from regionssl.evaluation.outcome import Outcome
from regionssl.labels.sets import MapSet, Split

Pictures = list[tuple[np.ndarray, np.ndarray]]


def write(folder: Path, pictures: Pictures, classes: int) -> MapSet:
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for i, (image, labels) in enumerate(pictures):
        Image.fromarray(image).save(folder / "images" / f"{i:03d}.png")
        Image.fromarray(labels.astype(np.uint8)).save(folder / "labels" / f"{i:03d}.png")
    values = np.full(256, -2, np.int64)
    values[:classes] = range(classes)
    values[255] = -1
    names = ("background", *CLASSES)[:classes]
    return MapSet(find_images(folder / "images"), find_images(folder / "labels"), names, values)


@pytest.fixture
def write_maps(tmp_path: Path) -> Callable[[Pictures, int], MapSet]:
    """From images (H, W, 3) and their maps (H, W), in which 255 is ignored, and a number of classes, to a set."""
    made = iter(range(100))
    return lambda pictures, classes: write(tmp_path / f"maps{next(made)}", pictures, classes)


@pytest.fixture(scope="session")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Split[MapSet]:
    """12 and 5 scenes of 64 and 80 px, most cut to oblongs; a corner of each map is ignored."""
    sets = []
    for split, indices in (("train", range(12)), ("val", range(12, 17))):
        pictures = []
        for i in indices:
            scene = generate(i, 64 if i % 2 else 80)
            labels = scene.class_map.copy()
            labels[:10, :10] = 255
            cut = np.s_[: 64 - 8 * (i % 3)]
            pictures.append((scene.image[cut], labels[cut]))
        sets.append(write(tmp_path_factory.mktemp(split) / "maps", pictures, 1 + len(CLASSES)))
    return Split(*sets)


def pixels(val: MapSet, out: Path, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and written predictions of all labelled pixels."""
    truth, named = [], []
    for i in range(len(val)):
        labels, predicted = val.labels(i), np.asarray(Image.open(out / "predictions" / f"{first + i:06d}.png"))
        assert labels.shape == predicted.shape
        truth.append(labels[labels >= 0])
        named.append(predicted[labels >= 0])
    return np.concatenate(truth), np.concatenate(named)


def compare(outcome: Outcome, val: MapSet, out: Path) -> None:
    truth, named = pixels(val, out)
    numbers = np.arange(len(val.classes))
    matrix = confusion_matrix(truth, named, labels=numbers)
    np.testing.assert_array_equal(outcome.evidence.counts.sum(0), matrix)  # type: ignore[attr-defined]
    present = np.union1d(truth, named)
    ious = 100 * jaccard_score(truth, named, labels=present, average=None)
    assert outcome.primary == "mIoU"
    assert outcome.value == pytest.approx(ious.mean())
    assert outcome.evidence.metric(np.arange(len(val))) == pytest.approx(outcome.value)
    for i in range(len(val)):
        mean = jaccard_score(*pixels(val.subset([i]), out, first=i), average="macro", zero_division=0)
        assert outcome.evidence.metric(np.array([i])) == pytest.approx(100 * mean)
    assert outcome.metrics["pixel_accuracy"] == pytest.approx(100 * accuracy_score(truth, named))
    for c, name in enumerate(val.classes):
        if c in present:
            assert outcome.per_class[name] == pytest.approx(ious[list(present).index(c)])
        else:
            assert math.isnan(outcome.per_class[name])
    with (out / "confusion.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header[1:] == list(val.classes)
    assert [[int(value) for value in row[1:]] for row in rows] == matrix.tolist()
    with (out / "per_class.csv").open() as file:
        table = {row["class"]: row for row in csv.DictReader(file)}
    assert [int(table[name]["pixels"]) for name in val.classes] == matrix.sum(1).tolist()


@pytest.fixture(scope="session")
def check_against_sklearn() -> Callable[[Outcome, MapSet, Path], None]:
    """Compare an outcome and the tables below a folder with scikit-learn's scores of the predictions written there."""
    return compare
