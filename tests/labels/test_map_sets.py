"""Class-id maps: values, sizes, layouts."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regionssl.errors import InputError
from regionssl.labels.maps import read_classes
from regionssl.labels.open import open_labels

VALUES = np.arange(1200, dtype=np.int64).reshape(30, 40) % 3  # 0, 1, 2 all over


@pytest.fixture
def plain(tmp_path: Path, picture: Any, class_map: Any) -> Path:
    """Forty training and two validation images whose maps hold 0, 5, 9 and the ignored 3."""
    root = tmp_path / "set"
    for split, count in (("train", 40), ("val", 2)):
        for i in range(count):
            picture(root / "images" / split / f"{split}{i}.jpg")
            class_map(root / "labels" / split / f"{split}{i}.png", np.array([0, 5, 9, 3])[(VALUES + i % 2) % 4], i % 2)
    classes = [{"id": 9, "name": "car"}, {"id": 0, "name": "sky"}, {"id": 5, "name": "road"}, {"id": 3, "name": "void"}]
    (root / "classes.json").write_text(json.dumps({"ignore_index": 3, "classes": classes}))
    return root


def test_ids_become_classes_whatever_the_palette(plain: Path) -> None:
    data = open_labels(plain, "maps")
    assert data.train.classes == data.val.classes == ("sky", "road", "car")
    assert len(data.train) == 40
    assert len(data.val) == 2
    assert data.train.findings == ("class ids have gaps (3 from 0 to 9); classes count in their order",)
    np.testing.assert_array_equal(data.val.labels(0), VALUES % 4)
    np.testing.assert_array_equal(data.val.labels(1), np.where(VALUES == 2, -1, VALUES + 1))
    np.testing.assert_array_equal(data.val.class_counts(), [[400, 400, 400], [0, 400, 400]])
    assert data.train.images.names[0].replace(".jpg", "") == data.train.maps.names[0].replace(".png", "")


def test_counts_follow_the_images_into_a_subset(plain: Path) -> None:
    val = open_labels(plain, "maps").val
    counted = val.class_counts()
    np.testing.assert_array_equal(val.subset([1, 0]).class_counts(), counted[[1, 0]])
    np.testing.assert_array_equal(open_labels(plain, "maps").val.subset([1]).class_counts(), counted[[1]])


def test_values_without_a_class_are_named(plain: Path, class_map: Any) -> None:
    class_map(plain / "labels" / "val" / "val1.png", VALUES + 4)
    with pytest.raises(InputError, match=re.escape("val1.png holds the values [4, 6], which no class has")):
        open_labels(plain, "maps")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "LA"])
def test_pictures_that_are_no_maps_are_refused(plain: Path, mode: str) -> None:
    Image.new(mode, (40, 30)).save(plain / "labels" / "val" / "val1.png")
    with pytest.raises(InputError, match=f"val1.png is a picture of mode {mode}"):
        open_labels(plain, "maps")


def test_maps_of_one_bit_are_read(plain: Path) -> None:
    (plain / "classes.json").write_text('["no", "yes"]')
    for file in plain.glob("labels/*/*.png"):
        Image.fromarray(VALUES == 1).save(file)
    data = open_labels(plain, "maps")
    np.testing.assert_array_equal(data.val.labels(0), VALUES == 1)


def test_maps_of_another_size_are_left_out_or_refused(plain: Path, class_map: Any, picture: Any) -> None:
    class_map(plain / "labels" / "train" / "train3.png", VALUES[:20])
    picture(plain / "images" / "train" / "train4.jpg", orientation=8)
    train = open_labels(plain, "maps").train
    assert len(train) == 38
    assert "left out: 2, such as train3.png, which is 40 x 20 pixels, and its image 40 x 30" in train.findings[-1]
    (plain / "labels" / "train" / "train5.png").write_bytes(b"broken")
    (plain / "images" / "train" / "train6.jpg").write_bytes(b"broken")
    with pytest.raises(
        InputError, match=r"(?s)4 of the 40 .*and its image 30 x 40 after it is turned .*an image that is"
    ):
        open_labels(plain, "maps")


def test_damage_within_a_map_is_said(plain: Path) -> None:
    file = plain / "labels" / "val" / "val0.png"
    content = bytearray(file.read_bytes())
    middle = content.index(b"IDAT") + 12
    content[middle : middle + 8] = b"\xff" * 8
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"the label map val0.png .* cannot be read"):
        open_labels(plain, "maps")


def test_images_without_maps_are_not_in_the_set(plain: Path, picture: Any) -> None:
    for i in range(5):
        picture(plain / "images" / "train" / f"more{i}.jpg")
    assert len(open_labels(plain, "maps").train) == 40


def test_one_class_only_is_an_error(plain: Path, class_map: Any) -> None:
    for file in plain.glob("labels/*/*.png"):
        class_map(file, np.where(VALUES == 1, 5, 3))
    with pytest.raises(InputError, match="only 'road' is labelled"):
        open_labels(plain, "maps")
    for file in plain.glob("labels/*/*.png"):
        class_map(file, np.full((30, 40), 3))
    with pytest.raises(InputError, match="nothing is labelled"):
        open_labels(plain, "maps")


def test_without_classes_json_the_values_are_the_classes(plain: Path, class_map: Any) -> None:
    (plain / "classes.json").unlink()
    class_map(plain / "labels" / "val" / "val0.png", np.where(VALUES == 2, 77, 255))
    data = open_labels(plain, "maps")
    assert data.train.classes == data.val.classes == ("0", "3", "5", "9", "77")
    assert "there is no classes.json: the 5 values that occur are the classes" in data.train.findings[0]


def test_masks_of_0_and_255_without_classes_json_are_told_why(plain: Path, class_map: Any) -> None:
    (plain / "classes.json").unlink()
    for file in plain.glob("labels/*/*.png"):
        class_map(file, np.where(VALUES == 1, 255, 0))
    with pytest.raises(InputError, match=r"only '0' is labelled .*there is no classes.json: .*255 is ignored"):
        open_labels(plain, "maps")
    (plain / "classes.json").write_text('{"0": "background", "255": "thing"}')
    np.testing.assert_array_equal(open_labels(plain, "maps").val.labels(0), VALUES == 1)


def test_without_splits_one_is_made(plain: Path) -> None:
    for kind in ("images", "labels"):
        for file in (plain / kind).glob("*/*"):
            file.rename(plain / kind / file.name)
        for folder in (plain / kind).glob("*/"):
            folder.rmdir()
    data = open_labels(plain, "maps", val_share=0.25, seed=3)
    assert (len(data.train), len(data.val)) == (32, 10)
    assert "there is no validation split: 10 of the 42 images were set apart" in data.train.findings[-1]
    assert not set(data.train.images.names) & set(data.val.images.names)


def test_images_beside_semantic_maps(plain: Path) -> None:
    (plain / "labels").rename(plain / "semantic")
    (plain / "classes.json").rename(plain / "semantic" / "classes.json")
    for split in ("train", "val"):
        (plain / "images" / split).rename(plain / split)
    (plain / "images").rmdir()
    assert open_labels(plain, "maps").train.classes == ("sky", "road", "car")


@pytest.mark.parametrize(
    ("content", "classes", "ignored"),
    [
        (["a", "b"], {0: "a", 1: "b"}, (255,)),
        ({"0": "a", "7": "b"}, {0: "a", 7: "b"}, (255,)),
        ({"classes": {"1": "a", "2": "b"}, "ignore_index": 0}, {1: "a", 2: "b"}, (0, 255)),
        (
            {"classes": [{"id": 255, "name": "a"}, {"id": 2, "name": "b"}], "ignore_index": [0, 9]},
            {2: "b", 255: "a"},
            (0, 9),
        ),
        ({"classes": ["a", "b", "void"], "ignore_index": 2}, {0: "a", 1: "b"}, (2, 255)),
        ({"classes": ["a", "b"], "ignore_index": -100}, {0: "a", 1: "b"}, (255,)),
        ({"classes": ["a", "b"], "ignore_index": None}, {0: "a", 1: "b"}, (255,)),
    ],
)
def test_forms_of_classes_json(tmp_path: Path, content: Any, classes: dict[int, str], ignored: tuple[int, ...]) -> None:
    file = tmp_path / "classes.json"
    file.write_text(json.dumps(content))
    meaning = read_classes(file)
    assert dict(zip(meaning.ids, meaning.names, strict=True)) == classes
    assert meaning.ignored == ignored
    table = meaning.table()
    assert [table[value] for value in meaning.ids] == list(range(len(classes)))
    assert all(table[value] == -1 for value in ignored)
    assert (table == -2).sum() == 256 - len(classes) - len(ignored)


@pytest.mark.parametrize(
    "content", ["{", "3", '{"classes": 3}', '{"classes": []}', '[{"id": 1}]', '{"300": "a"}', '{"-1": "a"}',
                '["a", "a"]', '[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]',
                '{"classes": ["a"], "ignore_index": "x"}'],
)  # fmt: skip
def test_other_classes_json_are_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "classes.json"
    file.write_text(content)
    with pytest.raises(InputError, match=re.escape(str(file))):
        read_classes(file)


@pytest.mark.parametrize("ending", ["labelIds", "labelTrainIds"])
def test_cityscapes(tmp_path: Path, picture: Any, class_map: Any, ending: str) -> None:
    values = np.array([7, 33, 1]) if ending == "labelIds" else np.array([0, 18, 255])
    for split in ("train", "val"):
        for city in ("aachen", "bochum"):
            stem = f"{city}_000000_{split}"
            picture(tmp_path / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
            class_map(tmp_path / "gtFine" / split / city / f"{stem}_gtFine_{ending}.png", values[VALUES])
            picture(tmp_path / "gtFine" / split / city / f"{stem}_gtFine_color.png")
    data = open_labels(tmp_path, "maps")
    assert len(data.train.classes) == 19
    assert data.train.classes[::18] == ("road", "bicycle")
    np.testing.assert_array_equal(data.val.labels(1), np.array([0, 18, -1])[VALUES])


def test_train_ids_of_cityscapes_come_first(tmp_path: Path, picture: Any, class_map: Any) -> None:
    picture(tmp_path / "leftImg8bit" / "train" / "a" / "a_1_leftImg8bit.png")
    picture(tmp_path / "leftImg8bit" / "train" / "a" / "a_2_leftImg8bit.png")
    for i in (1, 2):
        class_map(tmp_path / "gtFine" / "train" / "a" / f"a_{i}_gtFine_labelIds.png", VALUES)
        class_map(tmp_path / "gtFine" / "train" / "a" / f"a_{i}_gtFine_labelTrainIds.png", VALUES)
    train = open_labels(tmp_path, "maps", val_share=0.5).train
    np.testing.assert_array_equal(train.labels(0), VALUES)


def test_ade20k(tmp_path: Path, picture: Any, class_map: Any) -> None:
    for split in ("training", "validation"):
        picture(tmp_path / "images" / split / f"ADE_{split}.jpg")
        class_map(tmp_path / "annotations" / split / f"ADE_{split}.png", np.array([0, 1, 150])[VALUES])
    data = open_labels(tmp_path, "maps")
    np.testing.assert_array_equal(data.val.labels(0), np.array([-1, 0, 149])[VALUES])
    assert data.train.classes[::149] == ("1", "150")
    assert "named by their ids: there is no objectInfo150.txt" in data.train.findings[0]
    rows = [f"{i}\t0.1\t1\t2\tname{i}, other" for i in range(1, 151)]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]))
    assert open_labels(tmp_path, "maps").train.classes[::149] == ("name1", "name150")


@pytest.mark.parametrize(("images", "maps"), [("", "stuffthingmaps"), ("images", "annotations")])
def test_coco_stuff(tmp_path: Path, picture: Any, class_map: Any, images: str, maps: str) -> None:
    for split in ("train2017", "val2017"):
        picture(tmp_path / images / split / f"{split}.jpg")
        class_map(tmp_path / maps / split / f"{split}.png", np.array([0, 181, 255])[VALUES])
    data = open_labels(tmp_path, "maps")
    assert len(data.train.classes) == 171
    np.testing.assert_array_equal(data.val.labels(0), np.array([0, 170, -1])[VALUES])
    lines = ["0: unlabeled", *(f"{i}: name {i}" for i in range(1, 183))]
    (tmp_path / "labels.txt").write_text("\n".join(lines))
    classes = open_labels(tmp_path, "maps").train.classes
    assert classes[10:12] == ("name 11", "name 13")
    assert classes[-1] == "name 182"
    class_map(tmp_path / maps / "val2017" / "val2017.png", VALUES + 11)
    with pytest.raises(InputError, match=re.escape("holds the values [11]")):
        open_labels(tmp_path, "maps")


@pytest.fixture
def cub(tmp_path: Path, picture: Any, class_map: Any) -> Path:
    """Six birds of two classes, two each to train on, left over and scored on; grey where annotators disagree."""
    rows, marks = [], []
    for number in range(1, 7):
        stem = f"00{number % 2 + 1}.Bird_{number % 2}/Bird_{number:04d}"
        picture(tmp_path / "images" / f"{stem}.jpg")
        class_map(tmp_path / "segmentations" / f"{stem}.png", np.array([0, 102, 255])[VALUES])
        rows.append(f"{number} {stem}.jpg")
        marks.append(f"{number} {(number - 1) // 2}")
    (tmp_path / "images.txt").write_text("\n".join(rows) + "\n")
    (tmp_path / "train_val_test_split.txt").write_text("\n".join(marks) + "\n")
    return tmp_path


def test_cub(cub: Path) -> None:
    data = open_labels(cub, "maps")
    assert [name[-6:] for name in data.train.images.names] == ["02.jpg", "01.jpg"]  # by class, then number
    assert [name[-6:] for name in data.val.images.names] == ["06.jpg", "05.jpg"]
    assert data.train.classes == data.val.classes == ("background", "bird")
    assert data.val.grey
    np.testing.assert_array_equal(data.val.stored(0), np.array([0, 102, 255])[VALUES])
    np.testing.assert_array_equal(data.val.labels(0), VALUES == 2)
    np.testing.assert_array_equal(data.val.class_counts(), [[800, 400]] * 2)
    assert "maps are grey" in data.val.findings[0]
    assert data.val.subset([1]).grey


@pytest.mark.parametrize(("value", "label"), [(127, 0), (128, 1)])
def test_grey_above_a_half_is_foreground(cub: Path, class_map: Any, value: int, label: int) -> None:
    for file in cub.glob("segmentations/*/*.png"):
        class_map(file, np.array([0, value, 255])[VALUES])
    assert set(open_labels(cub, "maps").val.labels(0)[VALUES == 1]) == {label}


@pytest.mark.parametrize("mode", ["LA", "RGB", "RGBA", "P"])
def test_grey_maps_may_be_written_as_colours(cub: Path, mode: str) -> None:
    for file in cub.glob("segmentations/*/*.png"):
        Image.open(file).convert(mode).save(file)
    np.testing.assert_array_equal(open_labels(cub, "maps").val.stored(0), np.array([0, 102, 255])[VALUES])


def test_cub_without_a_list_or_training_images_is_one_set(cub: Path) -> None:
    for file in [*cub.glob("images/*/*_0001.jpg"), *cub.glob("images/*/*_0002.jpg")]:
        file.unlink()
    data = open_labels(cub, "maps", val_share=None)
    assert data.train is data.val
    assert [name[-6:] for name in data.val.images.names] == ["06.jpg", "05.jpg"]
    assert "none of the images is there that train_val_test_split.txt marks 0" in data.val.findings[1]
    (cub / "train_val_test_split.txt").unlink()
    (cub / "images.txt").unlink()
    data = open_labels(cub, "maps", val_share=None)
    assert len(data.val) == 4
    assert "there is no train_val_test_split.txt" in data.val.findings[1]


def test_missing_images_of_cubs_list_are_an_error(cub: Path) -> None:
    next(cub.glob("images/*/*_0005.jpg")).unlink()
    with pytest.raises(InputError, match="1 of the 2 images"):
        open_labels(cub, "maps")


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("train_val_test_split.txt", "1 0\n2 3\n", "0 (train), 1 (val) or 2 (test)"),
        ("train_val_test_split.txt", "1 0\n77 2\n", "0 (train), 1 (val) or 2 (test)"),
        ("train_val_test_split.txt", "1 0\n2\n", "0 (train), 1 (val) or 2 (test)"),
        ("train_val_test_split.txt", "1 0\n2 1\n", "marks no image 2"),
        ("images.txt", "1\n", "0 (train), 1 (val) or 2 (test)"),
    ],
)
def test_other_lists_of_cub_are_refused(cub: Path, file: str, content: str, says: str) -> None:
    (cub / file).write_text(content)
    with pytest.raises(InputError, match=re.escape(says)):
        open_labels(cub, "maps")
