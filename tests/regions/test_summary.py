"""Labelled objects as they are read, and what a store says of itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regionssl.errors import InputError
from regionssl.regions.annotations import CocoObjects, LabelledObjects, at_size, read_objects
from regionssl.regions.kinds import CocoBoxes, CocoMasks, Windows
from regionssl.regions.sources import Labels
from regionssl.regions.summary import best_box_overlaps, best_mask_overlaps, boundary_hits, lines, summarise
from regionssl.stores.build import Share, complete, fill, prepare
from regionssl.stores.store import Content, Manifest, Store, hash_names

WIDTH, HEIGHT = 12, 8
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[2:5, 3:9] = True


def annotation(**values: Any) -> dict[str, Any]:
    return {"image_id": 7, "bbox": [3, 2, 6, 3], "category_id": 1, "iscrowd": 0, **values}


def coco(tmp_path: Path, *annotations: dict[str, Any]) -> Path:
    path = tmp_path / "instances.json"
    images = [{"id": 7, "file_name": "train/a.jpg"}, {"id": 8, "file_name": "train/b.jpg"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's: down the columns, zeros first."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, len(flat)]).tolist()
    return runs if not flat[0] else [0, *runs]


def compressed(runs: list[int]) -> str:
    """The published compression of run lengths, written out: five bits a character, least first, sign extended."""
    text = ""
    for place, run in enumerate(runs):
        value = run - runs[place - 2] if place > 2 else run
        while True:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + bits + (32 if more else 0))
            if not more:
                break
    return text


@pytest.mark.parametrize("seed", range(8))
def test_run_lengths_plain_and_compressed(tmp_path: Path, seed: int) -> None:
    mask = MASK if seed == 0 else np.random.default_rng(seed).random((67, 90)) < (0.5, 0.01)[seed % 2]
    height, width = mask.shape
    runs = run_lengths(mask)
    for counts in (runs, compressed(runs)):
        one = annotation(segmentation={"size": [height, width], "counts": counts})
        objects = read_objects(coco(tmp_path, one), ["a.jpg"])
        np.testing.assert_array_equal(objects.masks(0, width, height), mask[None])
    with pytest.raises(InputError, match="the size of their upright image"):
        objects.masks(0, height, width)


def test_a_mask_as_cocos_own_tool_compresses_it() -> None:
    mask = MASK.copy()
    mask[6, 11] = True
    objects = CocoObjects(((annotation(segmentation={"size": [8, 12], "counts": "j035000000000d0NXO"}),),))
    np.testing.assert_array_equal(objects.masks(0, WIDTH, HEIGHT), mask[None])


def test_polygons_boxes_and_crowds(tmp_path: Path) -> None:
    polygon = annotation(segmentation=[[3, 2, 8, 2, 8, 4, 3, 4], [0, 0, 1, 1]])
    edge = annotation(bbox=[9.5, 6.2, 8, 9], segmentation=[])
    crowd = annotation(iscrowd=1, bbox=[0, 0, 12, 8])
    objects = read_objects(coco(tmp_path, polygon, edge, crowd), ["b.jpg", "train/a.jpg", "other/c.jpg"])
    assert objects.boxes(0, WIDTH, HEIGHT).shape == (0, 4)
    assert objects.masks(2, WIDTH, HEIGHT).shape == (0, HEIGHT, WIDTH)
    assert objects.boxes(1, WIDTH, HEIGHT).tolist() == [[3, 2, 6, 3], [9, 6, 3, 2]]
    np.testing.assert_array_equal(objects.masks(1, WIDTH, HEIGHT), MASK[None])


def test_objects_of_other_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"knows none of the images, such as 'x\.jpg'"):
        read_objects(coco(tmp_path, annotation()), ["x.jpg"])
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(InputError, match="not a COCO json"):
        read_objects(tmp_path / "list.json", ["a.jpg"])


def test_label_maps_as_objects(tmp_path: Path) -> None:
    labels = np.zeros((HEIGHT // 2, WIDTH // 2), np.uint8)
    labels[1:3, 2:5], labels[0, 0], labels[3, 5] = 9, 4, 255
    Image.fromarray(labels).save(tmp_path / "a.png")
    objects = LabelledObjects(Labels((str(tmp_path / "a.png"),)))
    assert objects.boxes(0, WIDTH, HEIGHT).tolist() == [[0, 0, 2, 2], [4, 2, 6, 4]]
    assert objects.masks(0, WIDTH, HEIGHT).sum((1, 2)).tolist() == [4, 24]
    np.testing.assert_array_equal(at_size(labels, 6, 4), labels)


def test_small_objects_lie_over_large_ones() -> None:
    whole = {"bbox": [0, 0, 12, 8], "segmentation": [[0, 0, 11, 0, 11, 7, 0, 7]]}
    small = {"bbox": [3, 2, 6, 3], "segmentation": [[3, 2, 8, 2, 8, 4, 3, 4]]}
    image = Image.new("RGB", (WIDTH, HEIGHT))
    for order in ((small, whole), (whole, small)):
        labels = CocoMasks(CocoObjects((order,)))(image, 0)
        np.testing.assert_array_equal(labels == labels[3, 4], MASK)
        assert set(np.unique(labels)) == {1, 2}
    assert CocoBoxes(CocoObjects(((whole,),)))(image, 0).tolist() == [[0, 0, 12, 8]]


def test_windows_cover_the_image_as_they_cover_the_view() -> None:
    boxes = Windows(224, 48, 32)(Image.new("RGB", (448, 224)), 0)
    assert boxes.shape == (36, 4)
    assert boxes[1].tolist() == [64, 0, 96, 48]
    assert boxes[-1].tolist() == [320, 160, 96, 48]
    assert (Windows(224, 48, 32)(Image.new("RGB", (9, 8)), 0)[:, 2:] >= 1).all()


def test_overlaps_and_boundaries_by_hand() -> None:
    boxes = np.array([[0, 0, 4, 4], [2, 2, 4, 4]], np.int32)
    objects = np.array([[0, 0, 4, 2], [3, 3, 3, 3], [9, 9, 1, 1]], np.int32)
    np.testing.assert_allclose(best_box_overlaps(boxes, objects), [0.5, 9 / 16, 0])
    assert best_box_overlaps(boxes[:0], objects).tolist() == [0, 0, 0]
    labels = np.zeros((HEIGHT, WIDTH), np.int64)
    labels[:, 6:] = 44
    best = best_mask_overlaps(labels, np.stack([MASK, labels > 0, MASK & False]))
    np.testing.assert_allclose(best, [9 / (48 + 18 - 9), 1])
    assert boundary_hits(labels, (labels > 0)[None], 0) == (HEIGHT, HEIGHT)
    moved = np.roll(labels, 3, 1)
    moved[:, :3] = 0
    assert boundary_hits(moved, (labels > 0)[None], 2) == (0, HEIGHT)
    assert boundary_hits(moved, (labels > 0)[None], 3) == (HEIGHT, HEIGHT)


class Given:
    """Work whose arrays are given."""

    forks = True

    def __init__(self, arrays: list[np.ndarray | None]) -> None:
        self.arrays = arrays

    def start(self, worker: int) -> None:
        pass

    def digest(self, i: int) -> bytes:
        return bytes([i] * 16)

    def make(self, positions: Any) -> Any:
        return (self.arrays[i] for i in positions)


def store_of(folder: Path, content: Content, arrays: list[np.ndarray | None]) -> Store:
    store = prepare(folder, Manifest(content, {}, hash_names([]), len(arrays)))
    fill(store, Given(arrays), Share(), lambda images, made: None)
    complete(store, "", {})
    return store


def test_a_summary_of_label_maps(tmp_path: Path) -> None:
    halves = np.repeat([[0, 1]], 4, 0).repeat(6, 1)
    store = store_of(tmp_path, "labels", [halves, None, np.zeros((4, 4), int)])
    truth = CocoObjects(tuple([({"bbox": [0, 0, 6, 8], "segmentation": [[0, 0, 5, 0, 5, 7, 0, 7]]},)] * 3))
    summary = summarise(store, lambda i: (WIDTH, HEIGHT), truth)
    assert summary["regions"] == {"total": 3, "least": 0, "median": 1, "most": 2}
    assert summary["without_regions"] == 1
    assert summary["sizes"]["counts"] == [0, 0, 0, 0, 0, 3]
    assert summary["objects"] == 2
    assert summary["best_overlap"] == 0.75
    assert summary["boundary_recall"] == 0.5
    text = "\n".join(lines(summary))
    assert "images without regions, unreadable ones included: 1" in text
    assert "boundary recall within 2 pixels: 0.5" in text


def test_a_summary_of_boxes(tmp_path: Path) -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 100, 100], [0, 0, 32, 32]])
    store = store_of(tmp_path, "boxes", [boxes, boxes[:0]])
    summary = summarise(store)
    assert summary["regions"] == {"total": 3, "least": 0, "median": 1, "most": 3}
    assert summary["sizes"]["counts"] == [1, 0, 1, 1, 0, 0]
    assert "best_overlap" not in summary
