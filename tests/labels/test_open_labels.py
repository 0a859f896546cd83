"""From a path to labels to train on and to score on."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regionssl.data.scenes import write_scenes
from regionssl.errors import InputError, UnknownLayout
from regionssl.labels.checks import listed_files
from regionssl.labels.open import open_labels
from regionssl.labels.overlap import shared_images


def split_set(coco_set: Any, train: str, val: str) -> Path:
    """The images of a set in two jsons, the first image for validation."""
    content = coco_set.content
    for name, rows in ((train, content["images"][:-1]), (val, content["images"][-1:])):
        ids = {row["id"] for row in rows}
        part = {**content, "images": rows, "annotations": [a for a in content["annotations"] if a["image_id"] in ids]}
        file = coco_set.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(part))
    return Path(coco_set.folder)


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("annotations/instances_train.json", "annotations/instances_val.json"),
        ("annotations/instances_train2017.json", "annotations/instances_val2017.json"),
        ("train.json", "val.json"),
        ("annotations/train.json", "annotations/test.json"),
        ("boxes_train_a.json", "boxes_valid_a.json"),
    ],
)
def test_jsons_of_a_folder(many: Any, train: str, val: str) -> None:
    folder = split_set(many, train, val)
    for path in (folder, folder / train):
        data = open_labels(path, "objects")
        assert list(data.val.images.names) == ["0.png"]
        assert len(data.train) == 39


def test_jsons_in_folders_of_splits(many: Any) -> None:
    folder = split_set(many, "train/_annotations.coco.json", "valid/_annotations.coco.json")
    for file in folder.glob("*.png"):
        file.rename(folder / ("valid" if file.name == "0.png" else "train") / file.name)
    for path in (folder, folder / "train" / "_annotations.coco.json"):
        data = open_labels(path, "objects")
        assert (len(data.train), len(data.val)) == (39, 1)


def test_instances_are_preferred_and_several_are_not_guessed(many: Any) -> None:
    folder = split_set(many, "annotations/instances_train.json", "annotations/instances_val.json")
    shutil.copy(folder / "annotations/instances_train.json", folder / "annotations/captions_train.json")
    assert len(open_labels(folder, "objects").train) == 39
    shutil.copy(folder / "annotations/instances_train.json", folder / "annotations/instances_train_2.json")
    with pytest.raises(
        InputError, match=r"several jsons \(instances_train.json, instances_train_2.json\); give the one"
    ):
        open_labels(folder, "objects")


def test_without_a_validation_split_one_is_made_and_said(tmp_path: Path) -> None:
    write_scenes(tmp_path, 10, size=64)
    for path in (tmp_path, tmp_path / "annotations.json"):
        data = open_labels(path, "objects", val_share=0.3, seed=1)
        assert (len(data.train), len(data.val)) == (7, 3)
        assert not set(data.train.images.names) & set(data.val.images.names)
        note = "there is no validation split: 3 of the 10 images were set apart for it, stratified by class (seed 1)"
        assert note in data.train.findings
        assert note in data.val.findings
    other = open_labels(tmp_path, "objects", val_share=0.3, seed=2)
    assert list(other.val.images.names) != list(data.val.images.names)
    maps = open_labels(tmp_path, "maps", val_share=0.3)
    assert (len(maps.train), len(maps.val)) == (7, 3)


def test_images_in_both_splits_leave_training(many: Any) -> None:
    shutil.copy(many.folder / "0.png", many.folder / "12.png")
    split_set(many, "train.json", "val.json")
    content = json.loads((many.folder / "val.json").read_text())
    content["images"].append(many.content["images"][0])  # 39.png is in both
    (many.folder / "val.json").write_text(json.dumps(content))
    data = open_labels(many.folder, "objects")
    assert list(data.val.images.names) == ["0.png", "39.png"]
    assert not {"12.png", "39.png"} & set(data.train.images.names)
    assert len(data.train) == 37
    assert "images of equal content in both splits, taken out of training: 2, such as 12.png" in data.train.findings
    assert len(data.train.objects) == len(data.train.sizes) == 37


def test_a_training_split_that_is_the_validation_split_is_refused(many: Any) -> None:
    split_set(many, "train.json", "val.json")
    shutil.copy(many.folder / "val.json", many.folder / "train.json")
    with pytest.raises(InputError, match=r"all 1 training images of .* are validation images too"):
        open_labels(many.folder, "objects")


def test_only_files_of_equal_size_are_compared(many: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(4):
        (many.folder / f"{i}.png").write_bytes(bytes([i % 2]) * (10 + i // 2))
    images = listed_files(str(many.folder), [f"{i}.png" for i in range(4)], "x")
    read: list[str] = []
    original = type(images).read
    monkeypatch.setattr(type(images), "read", lambda self, i: read.append(self.names[i]) or original(self, i))
    assert shared_images(images.subset([0, 1]), images.subset([2, 3])).tolist() == []
    assert read == []
    assert shared_images(images.subset([0, 1, 2]), images.subset([1])).tolist() == [1]
    assert sorted(read) == ["0.png", "1.png", "1.png"]


def test_classes_of_both_splits_are_joined(many: Any) -> None:
    folder = split_set(many, "train.json", "val.json")
    content = json.loads((folder / "val.json").read_text())
    content["categories"] = [{"id": 3, "name": "cat"}, {"id": 5, "name": "cow"}]
    content["annotations"][0]["category_id"] = 5
    (folder / "val.json").write_text(json.dumps(content))
    data = open_labels(folder, "objects")
    assert data.train.classes == data.val.classes == ("cat", "cow", "dog")
    assert data.train.category_ids == data.val.category_ids == (3, 5, 7)
    assert data.val.objects[0].labels.tolist() == [1]
    assert data.train.class_counts().sum(0).tolist() == [19, 0, 20]
    for row in ({"id": 3, "name": "cow"}, {"id": 9, "name": "cat"}):
        content["categories"] = [row]
        content["annotations"][0]["category_id"] = row["id"]
        (folder / "val.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match="disagree on a category's id and name"):
            open_labels(folder, "objects")


def test_class_folders(tmp_path: Path, picture: Any) -> None:
    for name in ("b/1.jpg", "b/deep/2.jpg", "a/3.png", "a/4.png"):
        picture(tmp_path / "train" / name)
    picture(tmp_path / "val" / "b" / "5.jpg")
    (tmp_path / "train" / "empty").mkdir()
    picture(tmp_path / "train" / "6.jpg")
    data = open_labels(tmp_path, "classes")
    assert data.train.classes == data.val.classes == ("a", "b")
    assert list(data.train.images.names) == ["a/3.png", "a/4.png", "b/1.jpg", "b/deep/2.jpg"]
    np.testing.assert_array_equal(data.train.truth, [[1, 0], [1, 0], [0, 1], [0, 1]])
    np.testing.assert_array_equal(data.val.truth, [[0, 1]])
    assert data.train.exclusive
    assert data.train.findings == (
        "images that lie in no class's folder, left out: 1, such as 6.jpg",
        "class folders without images, left out: 1, such as empty",
    )
    picture(tmp_path / "val" / "c" / "7.jpg")
    with pytest.raises(InputError, match="has the class 'c', which the training images do not have"):
        open_labels(tmp_path, "classes")


def test_class_folders_alone_are_split_by_class(tmp_path: Path, picture: Any) -> None:
    for i in range(30):
        picture(tmp_path / ("few" if i < 10 else "many") / f"{i}.jpg")
    data = open_labels(tmp_path, "classes", val_share=0.2)
    assert data.val.class_counts().sum(0).tolist() == [2, 4]
    shutil.rmtree(tmp_path / "few")
    with pytest.raises(InputError, match="one class only, 'many'"):
        open_labels(tmp_path, "classes")


@pytest.mark.parametrize("task", ["objects", "maps", "classes"])
def test_nothing_known_is_said_with_what_is_expected(tmp_path: Path, task: Any) -> None:
    with pytest.raises(InputError, match="expected"):
        open_labels(tmp_path, task)
    with pytest.raises(InputError, match=re.escape(f"there is no folder or file {tmp_path / 'none'}")):
        open_labels(tmp_path / "none", task)


@pytest.mark.parametrize("task", ["maps", "classes"])
def test_a_file_is_no_set_of_maps_or_classes(many: Any, task: Any) -> None:
    with pytest.raises(InputError, match=f"is a file; labels of {task} lie in a folder"):
        open_labels(many.write(), task)


def test_too_few_images_for_two_splits(coco_set: Any) -> None:
    del coco_set.content["images"][0]
    with pytest.raises(InputError, match="at least two labelled images"):
        open_labels(coco_set.write(), "objects")


def test_all_images_are_in_both_parts_where_no_share_is_given(many: Any) -> None:
    data = open_labels(many.write(), "objects", val_share=None)
    assert data.train is data.val
    assert len(data.val) == 40
    split = open_labels(split_set(many, "train.json", "val.json"), "objects", val_share=None)
    assert (len(split.train), len(split.val)) == (39, 1)


@pytest.mark.parametrize("task", ["objects", "maps", "classes"])
def test_an_unknown_layout_is_told_from_labels_that_cannot_be_used(tmp_path: Path, many: Any, task: Any) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UnknownLayout):
        open_labels(empty, task)
    many.content["annotations"] = []
    with pytest.raises(InputError) as raised:
        open_labels(many.write(), "objects")
    assert not isinstance(raised.value, UnknownLayout)
