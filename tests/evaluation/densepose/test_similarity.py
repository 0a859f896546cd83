"""Similarities against loops and against numbers worked out by hand."""

import math

import numpy as np
import pytest
from body_scenes import Plane, metres, surface_at

from regionssl.evaluation.densepose.similarity import DenseMaps, geodesic_point_similarity, uv_similarity
from regionssl.evaluation.densepose.surface import SurfacePoints

RNG = np.random.default_rng(0)


def test_gps_is_the_mean_over_points_of_a_gaussian_of_the_distance() -> None:
    true, estimated = surface_at(RNG.random((7, 2))), surface_at(RNG.random((3, 7, 2)))
    estimated.part[0, 2] = 0
    expected = []
    for d in range(3):
        total = 0.0
        for j in range(7):
            if estimated.part[d, j]:
                apart = math.dist(metres(estimated)[d, j], metres(true)[j])
                total += math.exp(-(apart**2) / (2 * 0.255**2))
        expected.append(total / 7)
    np.testing.assert_allclose(geodesic_point_similarity(Plane())(estimated, true), expected, rtol=1e-12)


def test_gps_of_thirty_centimetres_is_one_half() -> None:
    true = SurfacePoints(np.array([1]), np.array([0.0]), np.array([0.0]))
    estimated = SurfacePoints(np.array([[1]]), np.array([[0.0]]), np.array([[0.5]]))  # 0.3 m below
    assert geodesic_point_similarity(Plane())(estimated, true)[0] == pytest.approx(0.5, abs=1e-3)


def test_uv_similarity() -> None:
    true = SurfacePoints(np.array([1, 2, 3]), np.zeros(3), np.zeros(3))
    estimated = SurfacePoints(np.array([[1, 2, 1], [0, 0, 0]]), np.array([[0, 0.3, 0], [0] * 3]), np.zeros((2, 3)))
    expected = (1 + math.exp(-(0.3**2) / (2 * 0.255**2))) / 3
    np.testing.assert_allclose(uv_similarity(estimated, true), [expected, 0])


def test_maps_are_read_in_the_frame_of_their_boxes() -> None:
    part = np.arange(1, 17, dtype=np.uint8).reshape(1, 4, 4).repeat(2, 0)
    maps = DenseMaps(part, part * 10, part * 5)
    boxes = np.array([[10.0, 20, 50, 60], [0, 0, 4, 4]])
    places = np.array([[10.0, 20.0], [29.9, 20.0], [30.1, 59.9], [50, 60], [50.1, 30], [2.5, 0.5]])
    found = maps.at(boxes, places)
    assert found.part.tolist() == [[1, 2, 15, 16, 0, 0], [0, 0, 0, 0, 0, 3]]
    assert found.u[0, 1] == 20 / 255
    assert found.v[1, 5] == 15 / 255


def test_a_perfect_map_has_a_gps_near_one() -> None:
    ticks = (np.arange(56) + 0.5) / 56
    shown = surface_at(np.stack(np.meshgrid(ticks, ticks), -1))
    maps = DenseMaps(*(np.round(a)[None].astype(np.uint8) for a in (shown.part, shown.u * 255, shown.v * 255)))
    shares, box = RNG.random((200, 2)), np.array([[5.0, 7, 45, 127]])
    found = maps.at(box, box[0, :2] + shares * (box[0, 2:] - box[0, :2]))
    assert geodesic_point_similarity(Plane())(found, surface_at(shares))[0] > 0.995
