"""Pictures of the images on which two starts differ most, with what each predicted."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from fake_evaluator import labelled_images
from PIL import Image
from proof_inputs import labelled_scenes

from regionssl.data.scenes import write_scenes
from regionssl.labels.digest import Labelled
from regionssl.labels.open import open_labels
from regionssl.labels.sets import Objects, ObjectSet
from regionssl.proof.cases import draw_cases
from regionssl.proof.store import Result


def result(folder: Path, scores: list[float], predictions: Path | None = None) -> Result:
    artefacts = {} if predictions is None else {"predictions": predictions}
    return Result(folder, "ap", {"ap": 1.0}, {}, artefacts, 1.0, np.zeros(1), np.array(scores))


def test_the_largest_differences_come_first_each_way(tmp_path: Path) -> None:
    val = labelled_images(tmp_path / "images", 6)
    first, second = result(tmp_path, [9, 5, 1, 4, 4, np.nan]), result(tmp_path, [1, 4, 9, 4, 5, 3])
    cases = draw_cases(val, ("run", "random"), (first, second), 2)
    assert [(case.name, case.scores) for case in cases] == [
        ("000.png", (9, 1)),
        ("001.png", (5, 4)),
        ("002.png", (1, 9)),
        ("004.png", (4, 5)),
    ]
    assert draw_cases(val, ("run", "random"), (first, first), 2) == []


def test_classes_are_written_over_the_image(tmp_path: Path) -> None:
    val = labelled_images(tmp_path / "images", 2)
    with (tmp_path / "predictions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "true", "predicted", "score"], *[["x", "a", "class1", "0.75"]] * 2])
    first, second = result(tmp_path, [1, 0], tmp_path / "predictions.csv"), result(tmp_path, [0, 0])
    (case,) = draw_cases(val, ("run", "random"), (first, second), 3)
    assert case.picture.width == 2 * 96 + 6  # labels and one prediction, enlarged twice


def test_maps_of_both_starts_are_drawn_beside_the_labels(tmp_path: Path) -> None:
    val = open_labels(labelled_scenes(tmp_path / "labels", 2, 2), "maps").val
    folder = tmp_path / "predictions"
    folder.mkdir()
    for i in range(2):
        Image.fromarray(val.labels(i).astype(np.uint8)).save(folder / f"{i:06d}.png")
    right = result(tmp_path, [1, 0], folder)
    (case,) = draw_cases(val, ("run", "random"), (right, result(tmp_path, [0, 0], folder)), 3)
    panels = np.asarray(case.picture)[18:]
    labels, run, random = panels[:, :128], panels[:, 134:262], panels[:, 268:]
    assert np.array_equal(labels, run)
    assert np.array_equal(run, random)


def test_boxes_of_enough_score_are_drawn_in_the_frame_of_the_image(tmp_path: Path) -> None:
    images = labelled_images(tmp_path / "images", 2).images
    one = Objects(np.array([[4.0, 4, 20, 20]]), np.array([0]), np.array([False]), np.array([256.0]))
    val = ObjectSet(images, np.array([[48, 36]] * 2), (one, one), ("thing",))
    found = [
        {"image_id": 1, "category_id": 1, "bbox": [4, 4, 16, 16], "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": [30, 20, 10, 10], "score": 0.1},
    ]
    (tmp_path / "predictions.json").write_text(json.dumps(found))
    first = result(tmp_path, [1, 0], tmp_path / "predictions.json")
    (case,) = draw_cases(val, ("run", "random"), (first, result(tmp_path, [0, 0])), 1)
    panels = np.asarray(case.picture)[18:].astype(int)
    image = np.asarray(images.load(0).resize((96, 72))).astype(int)
    drawn = np.abs(panels[:, 102:198] - image).sum(2) > 0
    assert drawn[8:40, 8:10].all()
    assert not drawn[44:, 44:].any()


def test_images_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    val = labelled_images(tmp_path / "images", 2)
    (tmp_path / "images" / "000.png").write_bytes(b"broken")
    assert draw_cases(val, ("a", "b"), (result(tmp_path, [1, 0]), result(tmp_path, [0, 0])), 2) == []


@pytest.mark.parametrize("content", ["", "image,predicted,score\n"])
def test_predictions_in_no_known_form_are_left_out(tmp_path: Path, content: str) -> None:
    val = labelled_images(tmp_path / "images", 2)
    (tmp_path / "predictions.csv").write_text(content)
    first = result(tmp_path, [1, 0], tmp_path / "predictions.csv")
    (case,) = draw_cases(val, ("a", "b"), (first, result(tmp_path, [0, 0])), 2)
    assert case.picture.width == 96


@pytest.mark.parametrize("kind", ["maps", "objects", "classes"])
def test_damaged_predictions_are_left_out(kind: str, tmp_path: Path) -> None:
    if kind == "classes":
        val: Labelled = labelled_images(tmp_path / "images", 2)
    else:
        write_scenes(tmp_path / "labels", 10, size=48)
        val = open_labels(tmp_path / "labels", "maps" if kind == "maps" else "objects").val
    predictions = tmp_path / {"maps": "maps", "objects": "boxes.json", "classes": "predictions.csv"}[kind]
    if kind == "maps":
        predictions.mkdir()
        for i in range(2):
            (predictions / f"{i:06d}.png").write_bytes(b"")
    else:
        predictions.write_text("[[1" if kind == "objects" else "image\nx\ny\n")
    scored = [result(tmp_path, values, predictions) for values in ([1.0, 0.0], [0.0, 0.0])]
    (case,) = draw_cases(val, ("run", "random"), (scored[0], scored[1]), 3)
    assert case.scores == (1, 0)
