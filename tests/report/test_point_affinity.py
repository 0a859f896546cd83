"""Point affinities: what matches a point within and across views, in few bits, and where its place is."""

import base64
import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from regionssl.geometry import Crops
from regionssl.report.affinity import (
    HEAT,
    LEVELS,
    PointViews,
    affinity,
    affinity_strips,
    first_point,
    heat,
    on_points,
    places_between,
    spread_of,
    unit_about_mean,
)
from regionssl.report.affinity_picker import affinity_picker


def features(seed: int, side: int, channels: int = 5) -> torch.Tensor:
    return torch.randn(4, channels, side, side, generator=torch.Generator().manual_seed(seed)) + 2.0


def slow_cosines(maps: np.ndarray, one: int, other: int) -> np.ndarray:
    """Cosines of all pairs of cells of two maps, one pair at a time; the mean of all cells taken away."""
    mean = maps.mean((0, 2, 3))
    side = maps.shape[2]
    table = np.zeros((side * side, side * side))
    for p in range(side * side):
        for q in range(side * side):
            a = maps[one, :, p // side, p % side] - mean
            b = maps[other, :, q // side, q % side] - mean
            table[p, q] = a @ b / np.sqrt((a @ a) * (b @ b))
    return table


@given(seed=st.integers(0, 10**6), side=st.integers(1, 4))
def test_similarities_are_cosines_about_the_mean_to_half_a_level(seed: int, side: int) -> None:
    maps = features(seed, side)
    points = on_points(unit_about_mean(maps), 14)
    found = affinity(points[0], points[3])
    for view, other, image in ((0, 0, (0, 0)), (1, 1, (3, 3)), (0, 1, (0, 3)), (1, 0, (3, 0))):
        expected = slow_cosines(maps.double().numpy(), *image)
        rows = np.stack([found.row(view, point, other) for point in range(side * side)])
        assert np.abs(rows - expected).max() <= 0.5 / LEVELS + 1e-12
        assert rows.shape == expected.shape
    assert found.across.dtype == np.int8


def test_finer_maps_are_interpolated_and_not_made_unit_vectors_again() -> None:
    units = unit_about_mean(features(1, 6))
    points = on_points(units, 3)
    means = torch.stack([units[:, :, y : y + 2, x : x + 2].mean((2, 3)) for y in (0, 2, 4) for x in (0, 2, 4)], -1)
    torch.testing.assert_close(points.flatten(2), means)
    assert float(points.norm(dim=1).max()) < 1
    assert on_points(units, 6) is units


def test_constant_features_are_like_nothing() -> None:
    points = unit_about_mean(torch.ones(2, 3, 2, 2))
    assert not affinity(points[0], points[1]).across.any()


def test_places_are_where_the_same_pixel_lies() -> None:
    source = Crops(torch.tensor([[0.0, 0.0, 8.0, 8.0]], dtype=torch.float64), torch.tensor([False]), 64)
    target = Crops(torch.tensor([[4.0, 0.0, 12.0, 4.0]], dtype=torch.float64), torch.tensor([True]), 64)
    places = places_between(source, target, 4)[0].reshape(4, 4, 2)
    assert np.isnan(places[:, :2]).all()
    assert np.isnan(places[2:]).all()
    # the centre of row 0, column 2 is image pixel (5, 1): a share of 1/8 from the crop's left, mirrored 7/8
    np.testing.assert_allclose(places[0, 2], [0.875, 0.25])
    np.testing.assert_allclose(places[1, 3], [0.625, 0.75])


def test_the_first_point_is_the_most_central_that_both_views_see() -> None:
    blank = Image.new("RGB", (8, 8))
    seen = np.zeros((9, 2))
    assert first_point(PointViews("a", (blank, blank), (seen, seen)), 3) == 4
    corner = np.full((9, 2), np.nan)
    corner[8] = 0.5
    assert first_point(PointViews("a", (blank, blank), (corner, seen)), 3) == 8
    assert first_point(PointViews("a", (blank, blank), (np.full((9, 2), np.nan), seen)), 3) == 4


def test_heat_runs_through_its_colours() -> None:
    stops = heat(np.linspace(-1, 1, len(HEAT)), -1, 1)
    np.testing.assert_allclose(stops, HEAT)
    np.testing.assert_allclose(heat(np.array([-9.0, 9.0]), -1, 1), [HEAT[0], HEAT[-1]])
    np.testing.assert_allclose(heat(np.array([0.3]), 0.3, 0.3), [HEAT[0]])
    assert spread_of(np.array([0.1, 1.0, 0.4]), np.array([-0.2, 0.3])) == (-0.2, 0.4)


@pytest.fixture
def shown() -> tuple[list[PointViews], dict[str, list]]:
    pictures = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    places = np.full((4, 2), np.nan), np.full((4, 2), 0.25)
    places[0][1] = 0.75, 0.25
    points = unit_about_mean(features(5, 2))
    tables = {name: [affinity(points[i], points[i + 1])] for i, name in enumerate(("start", "</script><b>"))}
    return [PointViews("</script>.jpg", pictures, places)], tables


def test_a_strip_shows_both_views_and_two_maps_of_each_network(shown: tuple) -> None:
    (strip,) = affinity_strips(*shown)
    captions = ["view 1, a point", "view 2, its place", "start, within", "start, across"]
    assert [tile.caption for tile in strip.tiles][:4] == captions
    assert len(strip.tiles) == 6
    first, ring = np.asarray(strip.tiles[0].image), np.asarray(strip.tiles[1].image)
    assert (first[2:110, 120:230] == (255, 0, 0)).all(2).mean() > 0.8
    assert (first[:, :110] == (255, 0, 0)).all(), "point 1 is at the top right"
    assert (first[0, 118:230] == 255).all()
    assert (ring[:, :90] == (0, 0, 255)).all()
    assert not (ring[:110, 110:] == (0, 0, 255)).all()


def test_the_picker_holds_the_same_numbers_and_ends_where_it_should(shown: tuple) -> None:
    html = affinity_picker(*shown, "<p>no script</p>")
    (text,) = re.findall(r'<script type="application/json" id="affinity-data">(.*?)</script>', html)
    content = json.loads(text)
    assert content["images"][0]["name"] == "</script>.jpg"
    assert content["images"][0]["side"] == 2
    assert content["images"][0]["first"] == 1
    assert content["images"][0]["places"] == [[None, [0.75, 0.25], None, None], [[0.25, 0.25]] * 4]
    for tables, found in zip(content["networks"], shown[1].values(), strict=True):
        for coded, table in zip(tables[0], (*found[0].within, found[0].across), strict=True):
            decoded = np.frombuffer(base64.b64decode(coded), np.int8).reshape(4, 4)
            np.testing.assert_array_equal(decoded, table)
    assert html.count('tabindex="0"') == 2
    assert '<option value="1" selected>&lt;/script&gt;&lt;b&gt;</option>' in html
    assert html.endswith("<noscript><p>no script</p></noscript>")
