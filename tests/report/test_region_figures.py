"""Figures of regions that were found, and of boxes matched across images."""

import numpy as np
from PIL import Image

from regionssl.report.drawing import BLUE, VERMILLION
from regionssl.report.pairs import Matched, pairs_figure
from regionssl.report.regions import palette, region_maps_figure, tinted


def test_each_region_has_its_colour_and_none_is_black() -> None:
    labels = np.array([[0, 1], [-1, 5]])
    tile = np.asarray(tinted(np.full((6, 8, 3), 255, np.uint8), labels))
    expected = palette(6).round().astype(np.uint8)
    assert (tile[:3, :4] == expected[0]).all()
    assert (tile[:3, 4:] == expected[1]).all()
    assert (tile[3:, :4] == 0).all()
    assert (tile[3:, 4:] == expected[5]).all()


def test_colours_differ() -> None:
    colours = palette(24)
    apart = np.abs(colours[:, None] - colours[None]).max(2) + 255 * np.eye(24)
    assert apart.min() > 15
    assert palette(0).shape == (0, 3)


def test_dark_pictures_stay_darker_than_bright_ones() -> None:
    labels = np.zeros((1, 1), np.int64)
    dark, bright = (np.asarray(tinted(np.full((2, 2, 3), value, np.uint8), labels)).mean() for value in (0, 255))
    assert 0 < dark < bright


def test_rows_of_the_figure_are_named_states() -> None:
    images = [Image.new("RGB", (40, 40), (9, 9, 9))] * 3
    maps = np.zeros((3, 4, 4), np.int64)
    one = region_maps_figure(images, {"given": (maps, "1.0 an image")})
    two = region_maps_figure(images, {"given": (maps, "1.0 an image"), "step 1": (maps - 1, "")})
    assert two.width >= one.width
    assert two.height > one.height
    assert (np.asarray(two)[-230:, -230:] == 0).any()
    assert not (np.asarray(one)[-230:, -230:] == 0).all(2).any()


def test_a_pair_is_outlined_in_both_images_in_one_colour() -> None:
    own, near, far = (Image.new("RGB", (100, 100), (value,) * 3) for value in (10, 20, 30))
    pairs = [((0, 0, 50, 50), (50, 50, 100, 100)), ((50, 0, 100, 100), (0, 0, 100, 50))]
    figure = np.asarray(pairs_figure([Matched(own, [near, far], pairs, "a.jpg")]))
    for colour, number in ((BLUE, 0), (VERMILLION, 1)):
        columns = np.flatnonzero((figure == colour).all(2).any(0))
        panels = {int(column - 28) // 242 for column in columns}
        assert panels == {0, number + 1}


def test_images_without_a_second_neighbour_leave_its_place_empty() -> None:
    own = Image.new("RGB", (60, 30), (10, 10, 10))
    pair = ((0, 0, 30, 30), (30, 0, 60, 30))
    both = pairs_figure([Matched(own, [own, own], [pair, pair]), Matched(own, [own], [pair])])
    assert (np.asarray(both)[-200:, -200:] == 255).all()
