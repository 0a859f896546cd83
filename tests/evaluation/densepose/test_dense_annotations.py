"""COCO's dense-pose fields."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from body_scenes import dense_fields, surface_at
from pycocotools import mask

from regionssl.errors import InputError
from regionssl.evaluation.densepose.annotations import COARSE_FLIPS, read_dense_pose

FIELDS = dense_fields(np.random.default_rng(1))


def test_points_are_what_the_body_shows_there() -> None:
    dense = read_dense_pose(FIELDS, "x")
    shown = surface_at(dense.places)
    assert dense.places.shape == (40, 2)
    assert (dense.points.part == shown.part).all()
    np.testing.assert_allclose(dense.points.u, shown.u, atol=1e-9)
    np.testing.assert_allclose(dense.points.v, shown.v, atol=1e-9)


def test_body_parts_from_plain_and_packed_run_lengths() -> None:
    body = read_dense_pose(FIELDS, "x").body()
    assert body.shape == (256, 256)
    assert (body[0, 0], body[0, -1], body[-1, 0], body[-1, -1]) == (2, 3, 6, 7)
    packed = [one and mask.frPyObjects(one, 256, 256) for one in FIELDS["dp_masks"]]
    texts = [one and {**one, "counts": one["counts"].decode()} for one in packed]
    np.testing.assert_array_equal(read_dense_pose(FIELDS | {"dp_masks": texts}, "x").body(), body)


def test_points_without_a_part_are_left_out() -> None:
    parts = [0.0, *FIELDS["dp_I"][1:]]
    dense = read_dense_pose(FIELDS | {"dp_I": parts}, "x")
    whole = read_dense_pose(FIELDS, "x")
    np.testing.assert_array_equal(dense.places, whole.places[1:])


def test_mirrored_coarse_parts_come_in_pairs() -> None:
    assert (COARSE_FLIPS[COARSE_FLIPS] == np.arange(15)).all()
    dense = read_dense_pose(FIELDS, "x")
    np.testing.assert_array_equal(replace(dense, mirrored=True).body(), dense.body())  # a symmetric body
    lopsided = replace(dense, masks=(*dense.masks[:2], None, *dense.masks[3:]))  # its part 3 is not seen
    assert (lopsided.body()[0, 0], lopsided.body()[0, -1]) == (2, 0)
    assert (replace(lopsided, mirrored=True).body()[0, 0], replace(lopsided, mirrored=True).body()[0, -1]) == (0, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dp_x": [1.0]}, "equally long"),
        ({"dp_I": [25.0] * 40}, "at most 24"),
        ({"dp_I": [1.5] * 40}, "whole"),
        ({"dp_U": [1.5] * 40}, "0..1"),
        ({"dp_U": [float("nan")] * 40}, "0..1"),
        ({"dp_y": [256.0] * 40}, "0..255"),
        ({"dp_V": ["a"] * 40}, "lists of numbers"),
        ({"dp_masks": [[]]}, "14 run lengths"),
        ({"dp_masks": [{"size": [2, 2], "counts": [4]}] * 14}, "256 x 256"),
        ({"dp_masks": [{"size": [256, 256], "counts": [4]}] * 14}, "add up to 4 pixels"),
    ],
)
def test_bad_fields(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"person 3.*{message}"):
        read_dense_pose(FIELDS | change, "person 3")


def test_missing_fields() -> None:
    with pytest.raises(InputError, match="without dp_V, dp_masks"):
        read_dense_pose({key: FIELDS[key] for key in ("dp_x", "dp_y", "dp_I", "dp_U")}, "person 3")
