"""The figure of a log."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regionssl.report.curves import curves_figure, number_text, points_of, smoothed
from regionssl.report.drawing import BLUE, ticks


def bluish(picture: np.ndarray) -> np.ndarray:
    return (np.abs(picture.astype(int) - BLUE) < 60).all(-1)


def test_only_steps_with_finite_values_are_points() -> None:
    records = [
        {"event": "set_aside", "step": 0, "image": "a"},
        {"step": 0, "loss": 2},
        {"step": 1, "loss": math.nan},
        {"step": 2, "loss": math.inf},
        {"step": 3, "loss": "x"},
        {"loss": 4.0},
        {"step": 9, "loss": 1.5},
    ]
    assert points_of(records, "loss") == [(1.0, 2.0), (10.0, 1.5)]


@given(st.integers(1, 60), st.integers(0, 80), st.floats(-5, 5), st.floats(-5, 5))
def test_smoothing_keeps_straight_lines_to_their_ends(count: int, reach: int, slope: float, start: float) -> None:
    line = [(float(x), start + slope * x) for x in range(count)]
    for (x, y), (expected_x, expected_y) in zip(smoothed(line, reach), line, strict=True):
        assert x == expected_x
        assert y == pytest.approx(expected_y, abs=1e-9)


def test_smoothing_is_the_mean_of_the_neighbours() -> None:
    points = [(float(x), y) for x, y in enumerate((1.0, 5.0, 0.0, 2.0, 9.0))]
    assert [y for _, y in smoothed(points, 1)] == pytest.approx([1, 2, 7 / 3, 11 / 3, 9])


@pytest.mark.parametrize("count", [20, 400])
def test_a_falling_loss_falls_on_the_picture(count: int) -> None:
    records = [{"step": step, "loss": 10.0 - step / count} for step in range(count)]
    blue = bluish(np.asarray(curves_figure(records, ["loss"]))[:, :480])
    rows, columns = blue.nonzero()
    assert (columns.min(), columns.max()) == pytest.approx((28 + 66, 28 + 66 + 379), abs=2)
    heights = [rows[columns == column].mean() for column in range(columns.min() + 2, columns.max() - 2, 20)]
    steps = np.diff(heights)
    assert (steps > 0).all()
    assert steps == pytest.approx(steps.mean(), rel=0.35)


def test_a_plot_per_term_and_the_speed_in_rows_of_three() -> None:
    records = [{"step": step, "a": 1.0, "images_per_second": 5.0} for step in range(4)]
    sizes = [curves_figure(records, terms).size for terms in (["a"], ["a"] * 2, ["a"] * 3, ["a"] * 5)]
    widths, heights = zip(*sizes, strict=True)
    assert widths[0] < widths[1] == widths[2] == widths[3]
    assert heights[0] == heights[1] < heights[2] == heights[3]


def test_one_point_is_a_dot_and_no_point_is_said() -> None:
    dot = bluish(np.asarray(curves_figure([{"step": 3, "loss": 0.0}], ["loss"]))[:, :480])
    assert 30 < dot.sum() < 80
    empty = np.asarray(curves_figure([], ["loss"]))
    assert not bluish(empty).any()
    assert (empty < 128).any()


@given(st.floats(-1e6, 1e6), st.floats(1e-5, 1e7))
def test_ticks_are_round_and_few(low: float, extent: float) -> None:
    numbers = ticks(low, low + extent)
    assert 2 <= len(numbers) <= 9
    step = numbers[1] - numbers[0]
    digits = step / 10 ** math.floor(math.log10(step * 1.0001))
    assert min(abs(digits - round_one) for round_one in (1, 2, 5)) < 1e-3
    slack = 1e-6 * extent + 1e-9
    assert all(low - slack <= number <= low + extent + slack for number in numbers)
    assert all(b - a == pytest.approx(step, rel=1e-3) for a, b in pairwise(numbers))


def test_numbers_are_short() -> None:
    assert [number_text(value) for value in (0.0, 0.25, 40.0, 12_000.0, 2.5e6, 3e-5)] == [
        "0", "0.25", "40", "12k", "2.5M", "3e-05",
    ]  # fmt: skip
