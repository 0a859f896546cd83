"""The page of a comparison: well-formed, whole in one file, and its numbers where a keyboard finds them."""

import math
import re
from xml.etree import ElementTree

import pytest
from PIL import Image

from regionssl.report.learning_curve import Curve, CurvePoint, learning_curves, swatch
from regionssl.report.page import Picture, Table
from regionssl.report.proof_page import ProofPage, proof_page

from page_reader import Reader

CURVES = [
    Curve("run <1>", [CurvePoint(4, 0.1, 8.0, 7.0, 9.2), CurvePoint(40, 1.0, 12.0, 11.0, 13.0)]),
    Curve("random", [CurvePoint(4, 0.1, 8.8, math.nan, math.nan), CurvePoint(40, 1.0, 8.0, 6.9, 8.8)]),
]


@pytest.fixture
def page() -> Reader:
    table = Table("Scores & more", ["start", "10 %"], [["run <1>", "8.0"], ["random", "8.8"]], "a note")
    cases = [("What one gets", [Picture(Image.new("RGB", (30, 20), "red"), 'an "image"')]), ("Nothing", [])]
    content = ProofPage("Title", "A < B.", [("task", "x")], ["few & small"], "mIoU", CURVES, [table], cases)
    return Reader(proof_page(content))


def test_the_page_is_well_formed_and_needs_nothing_else(page: Reader) -> None:
    assert page.open == []
    for _, attributes in page.found:
        for name in ("src", "href"):
            assert attributes.get(name) is None or str(attributes[name]).startswith("data:image/jpeg;base64,")
    assert not re.search(r"https?://|@import|url\(", page.text)
    assert "A < B." in page.text
    assert "few & small" in page.text
    assert "Nothing" not in page.text


def test_what_scrolls_or_holds_numbers_takes_the_focus(page: Reader) -> None:
    stops = [attributes for _, attributes in page.found if attributes.get("tabindex") == "0"]
    labels = [str(one["aria-label"]) for one in stops if "aria-label" in one]
    assert labels == [
        "run <1>, 4 images: 8.0, 95 % interval 7.0 to 9.2",
        "run <1>, 40 images: 12.0, 95 % interval 11.0 to 13.0",
        "random, 4 images: 8.8",
        "random, 40 images: 8.0, 95 % interval 6.9 to 8.8",
    ]
    assert [one["aria-labelledby"] for one in stops if "aria-labelledby" in one] == ["table0"]
    assert [attributes["alt"] for tag, attributes in page.found if tag == "img"] == ['an "image"']


def test_the_page_suits_phones_and_the_dark(page: Reader) -> None:
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.found
    assert "prefers-color-scheme: dark" in page.text
    assert {str(a.get("scope")) for tag, a in page.found if tag == "th"} == {"col", "row"}


def test_places_in_the_picture_follow_the_numbers() -> None:
    svg = ElementTree.fromstring(learning_curves(CURVES, "mIoU"))
    lines = [
        [tuple(map(float, pair.split(","))) for pair in str(line.get("points")).split()]
        for line in svg.iter("polyline")
    ]
    (first, second) = lines
    assert len(first) == len(second) == 2
    assert first[0][0] < first[1][0]
    heights = {8.0: first[0][1], 12.0: first[1][1], 8.8: second[0][1]}
    scale = (heights[8.0] - heights[12.0]) / 4
    assert scale > 0
    assert heights[8.0] - heights[8.8] == pytest.approx(0.8 * scale, abs=0.2)
    assert second[1][1] == pytest.approx(heights[8.0], abs=0.1)
    assert all(0 <= x <= 480 and 0 <= y <= 330 for line in lines for x, y in line)


def test_one_fraction_and_many_starts_can_be_drawn() -> None:
    curves = [Curve(str(i), [CurvePoint(7, 1.0, 5.0, 5.0, 5.0)]) for i in range(8)]
    svg = ElementTree.fromstring(learning_curves(curves, "ap"))
    assert len(list(svg.iter("polyline"))) == 8
    assert ElementTree.fromstring(swatch(7)).get("class") == "swatch s1"
    assert len({swatch(number) for number in range(24)}) == 24
