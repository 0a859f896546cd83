"""Plots over steps: places follow numbers, bands and lamps are where they belong."""

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regionssl.report.step_plot import Plot, Turn, step_plot, thinned


def svg_of(plot: Plot) -> ElementTree.Element:
    figure = ElementTree.fromstring(step_plot(plot))
    svg = figure.find("svg")
    assert svg is not None
    return svg


def places(line: ElementTree.Element) -> list[tuple[float, ...]]:
    return [tuple(map(float, pair.split(","))) for pair in str(line.get("points")).split()]


def test_places_follow_the_numbers() -> None:
    plot = Plot("loss", [("run", [(1.0, 4.0), (11.0, 2.0), (21.0, 3.0)])], (1.0, 5.0), [Turn(11, "red")])
    svg = svg_of(plot)
    (line,) = svg.iter("polyline")
    (x0, y0), (x1, y1), (x2, y2) = places(line)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    scale = (y1 - y0) / 2
    assert y2 - y0 == pytest.approx(scale, abs=0.2)
    (band,) = svg.iter("rect")
    assert float(str(band.get("height"))) == pytest.approx(4 * scale, abs=0.3)
    assert float(str(band.get("y"))) == pytest.approx(y0 - scale, abs=0.3)
    (turn,) = [one for one in svg.iter("line") if "turn" in str(one.get("class"))]
    assert turn.get("class") == "turn red"
    assert float(str(turn.get("x1"))) == pytest.approx(x1, abs=0.1)


def test_a_plot_tells_its_numbers_in_words_and_escapes_names() -> None:
    plot = Plot("a & b", [("<one>", [(1.0, 4.0), (9.0, 2.5)]), ("two", [])], (1, 2))
    figure = ElementTree.fromstring(step_plot(plot))
    assert "".join(figure.itertext()).startswith("a & b <one>: 2.5; usual 1 to 2")
    said = str(figure.find("svg").get("aria-label"))  # type: ignore[union-attr]
    assert "<one>: from 4 at step 1 to 2.5 at step 9, least 2.5, greatest 4" in said
    assert step_plot(Plot("nothing", [("a", []), ("b", [])])) == ""


def test_each_run_keeps_its_colour() -> None:
    points = [(1.0, 1.0), (2.0, 2.0)]
    svg = svg_of(Plot("loss", [("a", []), *((name, points) for name in "bcdefgh")]))
    assert [group.get("class") for group in svg.iter("g")] == ["s1", "s2", "s3", "s4", "s5", "s0", "s1"]


def test_one_point_is_a_dot_and_many_are_thinned_below_their_mean() -> None:
    assert len(list(svg_of(Plot("x", [("a", [(3.0, 0.0)])])).iter("circle"))) == 1
    many = [(float(step), math.sin(step)) for step in range(5000)]
    raw, mean = svg_of(Plot("x", [("a", many)])).iter("polyline")
    assert (raw.get("class"), mean.get("class")) == ("raw", "mean")
    assert len(places(raw)) <= 240
    heights = [y for _, y in places(raw)]
    smooth = [y for _, y in places(mean)]
    assert max(smooth) - min(smooth) < max(heights) - min(heights)


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=900), most=st.integers(2, 300))
def test_thinning_keeps_peaks_and_order(values: list[float], most: int) -> None:
    points = [(float(step), value) for step, value in enumerate(values)]
    kept = thinned(points, most)
    assert len(kept) <= max(most, 1)
    assert kept == sorted(set(kept))
    assert set(kept) <= set(points)
    assert max(y for _, y in kept) == max(values)
    assert min(y for _, y in kept) == min(values)


def test_the_numbers_of_an_axis_differ_and_noise_of_rounding_fills_no_picture() -> None:
    close = svg_of(Plot("momentum", [("a", [(1.0, 0.99), (100.0, 0.9901)])]))
    numbers = [text.text for text in close.iter("text") if text.get("text-anchor") == "end"]
    assert len(set(numbers)) == len(numbers) > 2
    noise = [(float(step), 0.99 + 1e-7 * (step % 3)) for step in range(30)]
    (line,) = svg_of(Plot("momentum", [("a", noise)])).iter("polyline")
    heights = [y for _, y in places(line)]
    assert max(heights) - min(heights) < 0.2
