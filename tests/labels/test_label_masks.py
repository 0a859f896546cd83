"""Masks: run lengths and polygons against pycocotools."""

import re
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco_mask

from regionssl import run_lengths
from regionssl.errors import InputError
from regionssl.labels.masks import checked_segmentation, decode

masks = arrays.arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 20)), elements=st.booleans())


def compressed(mask: np.ndarray) -> dict[str, object]:
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


@given(masks)
@settings(max_examples=50)
def test_both_forms_of_run_lengths_give_the_mask_back(mask: np.ndarray) -> None:
    height, width = mask.shape
    plain = {"size": [height, width], "counts": run_lengths.encode(mask)}
    for found in (plain, compressed(mask)):
        np.testing.assert_array_equal(decode(checked_segmentation(found, width, height, "x"), width, height), mask)
    assert run_lengths.unpack(str(compressed(mask)["counts"])) == plain["counts"]


def test_long_runs_of_a_large_mask_give_the_mask_back() -> None:
    mask = np.zeros((900, 1100), bool)
    mask[100:850, 3:1000] = True
    mask[400, 200] = False
    np.testing.assert_array_equal(decode(compressed(mask), 1100, 900), mask)


polygon = st.lists(st.floats(-5, 45, width=32), min_size=6, max_size=16).filter(lambda p: len(p) % 2 == 0)


@given(st.lists(polygon, min_size=1, max_size=3))
@settings(max_examples=40)
def test_polygons_are_filled_as_pycocotools_fills_each_of_them(polygons: list[list[float]]) -> None:
    expected = np.zeros((30, 40), bool)
    for one in polygons:
        expected |= coco_mask.decode(coco_mask.frPyObjects([one], 30, 40))[:, :, 0].astype(bool)
    kept = checked_segmentation(polygons, 40, 30, "x")
    np.testing.assert_array_equal(decode(kept, 40, 30), expected)


def test_polygons_without_pycocotools_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(InputError, match=re.escape("pip install 'regionssl[evaluation]'")):
        decode([[0, 0, 9, 0, 9, 9]], 40, 30)
    assert decode({"size": [30, 40], "counts": [0, 1200]}, 40, 30).all()


def test_polygons_that_enclose_nothing_are_left_out() -> None:
    good = [0, 0, 9, 0, 9, 9]
    bad = [[1, 2, 3, 4], [0, 0, 9, 0, 9], [0, 0, float("nan"), 0, 9, 9], [0, 0, "9", 0, 9, 9], 5, []]
    assert checked_segmentation([*bad, good], 40, 30, "x") == [good]
    for nothing in (bad, [], None, "text", 3):
        assert checked_segmentation(nothing, 40, 30, "x") is None


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"size": [40, 30], "counts": [1200]}, r"mask of annotation 7 of a.jpg has the size [40, 30]"),
        ({"size": [30, 40], "counts": [1199]}, "add up to 1199 pixels, and 30 x 40 are 1200"),
        ({"size": [30, 40], "counts": [1300, -100]}, "write the mask again"),
        ({"size": [30, 40], "counts": "P"}, "end within a number"),
        ({"size": [30, 40], "counts": "a b"}, "the character ' ' does not occur"),
        ({"size": [30, 40], "counts": ["x"]}, "broken run lengths"),
        ({"size": [30, 40], "counts": 5}, "broken run lengths"),
        ({"size": [30, 40]}, "add up to 0"),
        ({}, "has the size None"),
    ],
)
def test_run_lengths_that_do_not_fit_are_refused(found: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        checked_segmentation(found, 40, 30, "annotation 7 of a.jpg")


def test_a_wrong_total_of_compressed_run_lengths_is_refused() -> None:
    mask = np.zeros((30, 40), bool)
    mask[3:9, 5:20] = True
    found = compressed(mask)
    found["size"] = [30, 41]
    with pytest.raises(InputError, match="add up to 1200 pixels, and 30 x 41 are 1230"):
        checked_segmentation(found, 41, 30, "x")
