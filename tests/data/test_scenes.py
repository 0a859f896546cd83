"""The generated scenes: counted draws, exact labels, consistent COCO files, and no shortcut through colour or place."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from regionssl import run_lengths
from regionssl.data import scenes
from regionssl.data.shapes import CLUTTER, OBJECTS, VARIATIONS, Pose
from regionssl.errors import InputError
from regionssl.evaluation.probes import pixel_probe


@cache
def _some() -> list[scenes.Scene]:
    return [scenes.generate(index, 96, seed=5) for index in range(150)]


def _equal(a: scenes.Scene, b: scenes.Scene) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("image", "boxes", "masks", "labels", "class_map")
    )


def test_a_scene_depends_on_seed_and_index_alone() -> None:
    forwards = [scenes.generate(index, 64) for index in range(4)]
    np.random.default_rng(0).random()
    backwards = [scenes.generate(index, 64) for index in reversed(range(4))][::-1]
    assert all(_equal(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert not _equal(forwards[0], forwards[1])
    assert not np.array_equal(scenes.generate(0, 64, seed=1).image, forwards[0].image)


def test_a_scene_is_the_same_picture_at_another_size() -> None:
    # Not to the pixel (edges, noise), but the same things in the same places.
    for index in range(6):
        large, small = scenes.generate(index, 192), scenes.generate(index, 96)
        agreement = (large.class_map[1::2, 1::2] == small.class_map).mean()
        assert agreement > 0.97


def test_types_shapes_and_ranges() -> None:
    for scene in _some():
        count = len(scene.labels)
        assert scene.image.shape == (96, 96, 3)
        assert scene.image.dtype == np.uint8
        assert scene.boxes.shape == (count, 4)
        assert scene.boxes.dtype == np.float64
        assert scene.masks.shape == (count, 96, 96)
        assert scene.masks.dtype == bool
        assert scene.labels.dtype == np.int64
        assert scene.class_map.dtype == np.uint8
        assert set(scene.labels.tolist()) <= set(range(1, len(scenes.CLASSES) + 1))


@settings(max_examples=25)
@given(st.integers(0, 2**40), st.integers(32, 100), st.integers(0, 2**31))
def test_labels_are_exact(index: int, size: int, seed: int) -> None:
    scene = scenes.generate(index, size, seed)
    for box, mask in zip(scene.boxes, scene.masks, strict=True):
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert len(rows) >= scenes.LEAST_AREA
    assert (scene.masks.sum(0) <= 1).all()
    expected = np.zeros((size, size), int)
    for label, mask in zip(scene.labels, scene.masks, strict=True):
        expected[mask] = label
    assert np.array_equal(scene.class_map, expected)


def test_hardly_visible_objects_are_not_labelled() -> None:
    owner = np.full((16, 16), -1, np.int16)
    owner[0, :7], owner[1, :8], owner[2:] = 0, 1, 2
    scene = scenes._labelled(np.zeros((16, 16, 3), np.uint8), owner, [3, 4, 0])
    assert scene.labels.tolist() == [4]
    assert scene.boxes.tolist() == [[0, 1, 8, 2]]
    assert np.unique(scene.class_map[[0, *range(2, 16)]]).tolist() == [0]


def test_no_object_left() -> None:
    scene = scenes._labelled(np.zeros((8, 8, 3), np.uint8), np.full((8, 8), -1, np.int16), [])
    assert scene.boxes.shape == (0, 4)
    assert scene.masks.shape == (0, 8, 8)
    assert not scene.class_map.any()


def test_the_set_is_varied() -> None:
    some = _some()
    labels = np.concatenate([scene.labels for scene in some])
    shares = np.bincount(labels, minlength=len(scenes.CLASSES) + 1)[1:] / len(labels)
    assert shares.min() > 0.6 / len(scenes.CLASSES)
    counts = [len(scene.labels) for scene in some]
    assert min(counts) >= 1
    assert max(counts) >= 7
    boxes = np.concatenate([scene.boxes for scene in some])
    sides = (boxes[:, 2:] - boxes[:, :2]).max(1) / 96
    assert np.quantile(sides, 0.1) < 0.18
    assert np.quantile(sides, 0.9) > 0.4
    covered = np.mean([scene.class_map > 0 for scene in some], axis=0)
    assert 0.2 < covered.mean() < 0.45
    thirds = [covered[i * 32 : i * 32 + 32, j * 32 : j * 32 + 32].mean() for i in range(3) for j in range(3)]
    assert max(thirds) < 2 * min(thirds)
    brightness = [scene.image.mean() for scene in some]
    assert np.std(brightness) > 20
    assert np.mean([(scene.image == 255).mean() for scene in some]) < 0.08


@pytest.mark.parametrize("outline", [*OBJECTS.values(), *CLUTTER])
def test_outlines_lie_in_the_unit_disc_and_change_at_a_steady_pace(outline: scenes.Outline) -> None:
    rng = np.random.default_rng(0)
    v, u = np.meshgrid(np.linspace(-1.6, 1.6, 321, dtype=np.float32), np.linspace(-1.6, 1.6, 321, dtype=np.float32))
    areas = []
    for _ in range(20):
        field = outline(u, v, rng.random(VARIATIONS).tolist())
        assert field.dtype == np.float32
        inside = field > 0
        assert np.hypot(u, v)[inside].max() <= 1.01
        areas.append(inside.mean() * 3.2**2 / math.pi)
        slope = np.hypot(*np.gradient(field, 0.01))
        edge = np.abs(field) < 0.02
        assert 0.4 < np.median(slope[edge]) < 2
    assert min(areas) > 0.03


def test_a_pose_keeps_the_unit_disc_within_its_extent() -> None:
    rng = np.random.default_rng(0)
    y, x = np.meshgrid(np.linspace(-2, 2, 401, dtype=np.float32), np.linspace(-2, 2, 401, dtype=np.float32))
    for _ in range(50):
        pose = Pose.draw(rng)
        u, v = pose.to_shape(x, y)
        inside = np.hypot(u, v) <= 1
        for axis, extent in zip((x, y), pose.extent, strict=True):
            assert np.abs(axis[inside]).max() <= extent + 1e-5
            assert np.abs(axis[inside]).max() > 0.7 * extent


def test_objects_are_drawn_where_their_masks_are() -> None:
    # The mean colour step across mask borders is far larger than across the same lines moved away from them.
    across, elsewhere = [], []
    for scene in _some()[:60]:
        step = np.abs(np.diff(scene.image.astype(float), axis=1)).mean(2)
        border = np.diff(scene.class_map.astype(int), axis=1) != 0
        across.append(step[border].mean())
        elsewhere.append(step[np.roll(border, 5, 1) & ~border].mean())
    assert np.mean(across) > 1.5 * np.mean(elsewhere)


def _pictures(seed: int, count: int) -> list[tuple[Tensor, Tensor]]:
    made = (scenes.generate(index, 64, seed) for index in range(count))
    return [(torch.from_numpy(s.image).permute(2, 0, 1), torch.from_numpy(s.class_map.astype(np.int64))) for s in made]


def _colour(images: Tensor) -> Tensor:
    """RGB and all its products of second and third degree."""
    r, g, b = images.split(1, 1)
    seconds = [r * r, g * g, b * b, r * g, r * b, g * b]
    return torch.cat([images, *seconds, *(one * two for one in (r, g, b) for two in seconds)], 1)


def _place(images: Tensor) -> Tensor:
    """Polynomials of x and y up to the fourth degree."""
    n, _, h, w = images.shape
    y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    terms = [x**i * y**j for i in range(5) for j in range(5 - i) if i + j]
    return torch.stack(terms).expand(n, -1, -1, -1)


@pytest.mark.parametrize("features", [_colour, _place])
@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_neither_colour_nor_place_tells_the_class(features: object, balance: float) -> None:
    # Guessing every pixel's class with the classes' shares (70 % background, about 3.7 % each) gives an IoU below
    # 0.02 per object class; naming one object class everywhere gives it 0.037 and the others 0.
    classes = ["background", *scenes.CLASSES]
    result = pixel_probe(features, _train(), _val(), classes, pixels=8000, balance=balance)  # type: ignore[arg-type]
    objects = np.nanmean([result.per_class[name] for name in scenes.CLASSES])
    assert objects < 0.03


@cache
def _train() -> list[tuple[Tensor, Tensor]]:
    return _pictures(1, 150)


@cache
def _val() -> list[tuple[Tensor, Tensor]]:
    return _pictures(2, 80)


def _decode(segmentation: dict[str, list[int]]) -> np.ndarray:
    """A mask from COCO's uncompressed run lengths."""
    height, width = segmentation["size"]
    values = [value for n, run in enumerate(segmentation["counts"]) for value in [bool(n % 2)] * run]
    return np.array(values).reshape(width, height).T


@settings(max_examples=50)
@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_run_lengths_go_down_the_columns(height: int, width: int, data: st.DataObject) -> None:
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = np.array(bits).reshape(height, width)
    counts = run_lengths.encode(mask)
    assert np.array_equal(_decode({"size": [height, width], "counts": counts}), mask)
    assert all(run > 0 for run in counts[1:])


def test_run_lengths_by_hand() -> None:
    assert run_lengths.encode(np.array([[True, False], [True, True]])) == [0, 2, 1, 1]


def test_written_files_agree_with_each_other(tmp_path: Path) -> None:
    scenes.write_scenes(tmp_path, 4, size=48, seed=3)
    coco = json.loads((tmp_path / "annotations.json").read_text())
    assert [c["name"] for c in coco["categories"]] == list(scenes.CLASSES)
    assert [c["id"] for c in coco["categories"]] == list(range(1, len(scenes.CLASSES) + 1))
    ids = [a["id"] for a in coco["annotations"]]
    assert min(ids) >= 1
    assert len(set(ids)) == len(ids)
    for index, entry in enumerate(coco["images"]):
        scene = scenes.generate(index, 48, 3)
        picture = np.asarray(Image.open(tmp_path / "images" / entry["file_name"]).convert("RGB"), float)
        assert picture.shape == (entry["height"], entry["width"], 3)
        assert np.abs(picture - scene.image).mean() < 12
        labels = Image.open(tmp_path / "labels" / f"{index:06d}.png")
        assert labels.mode == "L"
        assert np.array_equal(np.asarray(labels), scene.class_map)
        mine = [a for a in coco["annotations"] if a["image_id"] == entry["id"]]
        assert [a["category_id"] for a in mine] == scene.labels.tolist()
        for annotation, mask, box in zip(mine, scene.masks, scene.boxes.tolist(), strict=True):
            assert np.array_equal(_decode(annotation["segmentation"]), mask)
            assert annotation["area"] == mask.sum()
            assert annotation["iscrowd"] == 0
            x, y, w, h = annotation["bbox"]
            assert [x, y, x + w, y + h] == box


def test_writing_without_labels_and_again(tmp_path: Path) -> None:
    scenes.write_scenes(tmp_path, 3, size=32, labels=False)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["000000.jpg", "000001.jpg", "000002.jpg", "images"]
    first = (tmp_path / "images" / "000001.jpg").read_bytes()
    scenes.write_scenes(tmp_path, 3, size=32, labels=False)  # an interrupted call can be repeated
    assert (tmp_path / "images" / "000001.jpg").read_bytes() == first
    with pytest.raises(InputError, match=r"000002\.jpg"):
        scenes.write_scenes(tmp_path, 2, size=32)


@pytest.mark.parametrize(("index", "size"), [(-1, 64), (0, 31)])
def test_impossible_scenes_are_refused(index: int, size: int) -> None:
    with pytest.raises(InputError, match="index of at least 0"):
        scenes.generate(index, size)


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 1"):
        scenes.write_scenes(tmp_path, 0)
