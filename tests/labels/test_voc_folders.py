"""VOC folders: boxes, maps and classes of one or several years."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regionssl.errors import InputError
from regionssl.labels.open import open_labels
from regionssl.labels.voc import VOC_CLASSES, read_voc_classes, read_voc_objects
from regionssl.labels.voc_xml import read_annotation

Described = tuple[str, Sequence[Any], int]


def annotation(objects: Sequence[Described], size: str = "<width>40</width><height>30</height>") -> str:
    rows = [
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox><part><bndbox><xmin>9</xmin></bndbox></part></object>"
        for name, (x0, y0, x1, y1), difficult in objects
    ]
    return f"<annotation><size>{size}</size>{''.join(rows)}</annotation>"


class Year:
    def __init__(self, folder: Path, picture: Any) -> None:
        self.folder, self.picture = folder, picture

    def add(self, name: str, objects: Sequence[Described]) -> None:
        self.picture(self.folder / "JPEGImages" / f"{name}.jpg")
        (self.folder / "Annotations").mkdir(exist_ok=True)
        (self.folder / "Annotations" / f"{name}.xml").write_text(annotation(objects))

    def list(self, name: str, names: Sequence[str], kind: str = "Main") -> None:
        folder = self.folder / "ImageSets" / kind
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text("\n".join(names) + "\n")


CAT, DOG = ("cat", (5, 6, 14, 12), 0), ("dog", (1, 1, 40, 30), 1)


@pytest.fixture
def years(tmp_path: Path, picture: Any) -> tuple[Year, Year]:
    """2007 with train, val and test; 2012 with train and val, and a test list without labels."""
    first, second = (Year(tmp_path / "VOCdevkit" / f"VOC{year}", picture) for year in (2007, 2012))
    for i, name in enumerate(("000001", "000002", "000003")):
        first.add(name, [CAT, DOG] if i else [DOG])
        first.list(("train", "val", "test")[i], [name])
    first.list("trainval", ["000001", "000002"])
    for i, name in enumerate(("2008_1", "2008_2")):
        second.add(name, [CAT])
        second.list(("train", "val")[i], [name])
    second.list("trainval", ["2008_1", "2008_2"])
    second.list("test", ["2008_9"])
    return first, second


def test_two_years_are_trained_on_and_the_first_tested(years: tuple[Year, Year]) -> None:
    root = years[0].folder.parent
    for path in (root, root.parent):
        data = open_labels(path, "objects")
        assert [name.split("/")[-1] for name in data.train.images.names] == [
            "000001.jpg", "000002.jpg", "2008_1.jpg", "2008_2.jpg"
        ]  # fmt: skip
        assert list(data.val.images.names) == ["JPEGImages/000003.jpg"]
        assert data.train.classes == data.val.classes == VOC_CLASSES
        assert data.val.category_ids == ()
        one = data.val.objects[0]
        np.testing.assert_array_equal(one.boxes, [[4, 5, 14, 12], [0, 0, 40, 30]])
        assert one.crowd.tolist() == [False, True]
        assert one.area.tolist() == [70, 1200]
        assert [VOC_CLASSES[c] for c in one.labels] == ["cat", "dog"]
        np.testing.assert_array_equal(data.train.images.load(0).size, data.train.sizes[0])


def test_a_year_without_labelled_test_has_train_and_val(years: tuple[Year, Year]) -> None:
    data = open_labels(years[1].folder, "objects")
    assert list(data.train.images.names) == ["JPEGImages/2008_1.jpg"]
    assert list(data.val.images.names) == ["JPEGImages/2008_2.jpg"]


def test_a_year_with_one_list_is_split(years: tuple[Year, Year]) -> None:
    for name in ("train", "val", "test"):
        (years[1].folder / "ImageSets" / "Main" / f"{name}.txt").unlink()
    data = open_labels(years[1].folder, "objects")
    assert (len(data.train), len(data.val)) == (1, 1)
    (years[1].folder / "ImageSets" / "Main" / "trainval.txt").unlink()
    with pytest.raises(InputError, match=re.escape("has no list train.txt or trainval.txt in ImageSets/Main")):
        open_labels(years[1].folder, "objects")


def test_other_classes_than_vocs_are_those_of_both_splits(years: tuple[Year, Year]) -> None:
    years[1].add("2008_1", [("zebra", (1, 1, 9, 9), 0)])
    years[1].add("2008_2", [("ant", (1, 1, 9, 9), 0), CAT])
    data = open_labels(years[1].folder, "objects")
    assert data.train.classes == data.val.classes
    assert {"ant", "zebra", "cat"} <= {*data.train.classes}
    assert [data.train.classes[c] for c in data.train.objects[0].labels] == ["zebra"]
    assert [data.val.classes[c] for c in data.val.objects[0].labels] == ["ant", "cat"]


def test_classes_come_from_lists_of_classes(years: tuple[Year, Year]) -> None:
    folder = years[0].folder / "ImageSets" / "Main"
    for name in VOC_CLASSES:
        flags = {"cat": ("1", " 0"), "dog": (" 0", "-1")}.get(name, ("-1", "-1"))
        for split in ("trainval", "test"):
            images = ["000001", "000002"] if split == "trainval" else ["000003"]
            rows = [f"{image} {flag}" for image, flag in zip(images, flags, strict=False)]
            (folder / f"{name}_{split}.txt").write_text("\n".join(rows) + "\n")
    data = open_labels(years[0].folder, "classes")
    cat, dog = VOC_CLASSES.index("cat"), VOC_CLASSES.index("dog")
    np.testing.assert_array_equal(data.train.truth[:, [cat, dog]], [[1, -1], [-1, 0]])
    assert np.delete(data.train.truth, [cat, dog], 1).any() == False  # noqa: E712
    assert not data.train.exclusive
    np.testing.assert_array_equal(data.train.class_counts().sum(0)[[cat, dog]], [1, 0])
    (folder / "dog_trainval.txt").write_text("000001 7\n")
    with pytest.raises(InputError, match=r"dog_trainval.txt should give each image"):
        open_labels(years[0].folder, "classes")


def test_classes_come_from_annotations_else(years: tuple[Year, Year]) -> None:
    years[0].add("000002", [("dog", (1, 1, 9, 9), 1), ("dog", (1, 1, 9, 9), 0), ("cat", (1, 1, 9, 9), 0), CAT])
    found = read_voc_classes((years[0].folder, "trainval"))
    cat, dog = VOC_CLASSES.index("cat"), VOC_CLASSES.index("dog")
    np.testing.assert_array_equal(found.truth[:, [cat, dog]], [[0, -1], [1, 1]])


def test_maps_have_twenty_one_classes(years: tuple[Year, Year], class_map: Any) -> None:
    year = years[1]
    values = np.array([0, 20, 255])[np.arange(1200).reshape(30, 40) % 3]
    for name in ("2008_1", "2008_2"):
        class_map(year.folder / "SegmentationClass" / f"{name}.png", values, palette=True)
    year.list("train", ["2008_1"], "Segmentation")
    year.list("val", ["2008_2"], "Segmentation")
    data = open_labels(year.folder.parent, "maps")
    assert data.train.classes == ("background", *VOC_CLASSES)
    np.testing.assert_array_equal(data.val.labels(0), np.where(values == 255, -1, values))
    year.picture(year.folder / "JPEGImages" / "2008_3.jpg")
    year.list("trainaug", ["2008_1", "2008_3"], "Segmentation")
    for name in ("2008_1", "2008_3"):
        class_map(year.folder / "SegmentationClassAug" / f"{name}.png", values)
    data = open_labels(year.folder, "maps")
    assert (len(data.train), len(data.val)) == (2, 1)
    assert data.train.maps.names[0] == "SegmentationClassAug/2008_1.png"


def test_odd_annotations_are_dropped_or_cut(years: tuple[Year, Year]) -> None:
    years[1].add("2008_1", [("cat", (0, 5, 45, 12), 0), ("cat", ("nan", 1, 5, 5), 0), ("cat", (9, 9, 3, 3), 0)])
    found = read_voc_objects((years[1].folder, "train"))
    np.testing.assert_array_equal(found.objects[0].boxes, [[0, 4, 40, 12]])
    assert [finding.split(":")[0].split(",")[0] for finding in found.findings] == [
        "annotations without a box of four finite numbers",
        "boxes that reached outside their image",
        "boxes less than a pixel wide or high inside their image",
    ]


def test_missing_images_are_an_error(years: tuple[Year, Year]) -> None:
    (years[1].folder / "JPEGImages" / "2008_1.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of the 1 images .*\n.*2008_1.jpg: is missing"):
        open_labels(years[1].folder, "objects")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation><folder>&b;</folder></annotation>', "it has a document type"),
        ('<!DOCTYPE annotation SYSTEM "http://localhost/x.dtd"><annotation/>', "it has a document type"),
        ("<annotation>", "is not an annotation in XML"),
        ("", "is not an annotation in XML"),
        ("<other/>", "found <other>"),
        ("<annotation><object><name>a</name></object></annotation>", "the <bndbox> of a needs four numbers"),
        (annotation([("", (1, 2, 3, 4), 0)]), "has no <name>"),
        (annotation([("a", ("x", 2, 3, 4), 0)]), "the <bndbox> of a needs four numbers"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_other_xml_is_refused(tmp_path: Path, content: str, message: str, encoding: str) -> None:
    file = tmp_path / "a.xml"
    file.write_bytes(content.encode(encoding) if content else b"")
    with pytest.raises(InputError, match=re.escape(message)):
        read_annotation(file)


def test_sizes_that_are_not_given_are_not_compared(tmp_path: Path) -> None:
    file = tmp_path / "a.xml"
    for size in ("", "<width>0</width><height>30</height>", "<width>a</width><height>30</height>"):
        file.write_text(annotation([CAT], size))
        assert read_annotation(file).size is None
