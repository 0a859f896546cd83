"""Paired intervals against closed forms, slow oracles and simulated comparisons whose truth is known."""

import math

import numpy as np
import pytest

from regionssl.counted import Stream, generator
from regionssl.evaluation.outcome import Shares
from regionssl.proof.statistics import Scores, drawn_metrics, interval


def scores(metrics: np.ndarray, draws: int = 400, seed: int = 0) -> Scores:
    """Of seeds (S, N): the metric is the mean over images."""
    found = [Shares(row / 100, np.ones(len(row))) for row in metrics]
    everything = np.arange(metrics.shape[1])
    return Scores(
        np.array([one.metric(everything) for one in found]),
        np.stack([drawn_metrics(one, draws, seed) for one in found]),
    )


def test_draws_are_shared_and_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    values = rng.random(17)
    drawn = drawn_metrics(Shares(values, np.ones(17)), 5, seed=3)
    for draw in range(5):
        rows = generator(3, Stream.BOOTSTRAP, draw, 0).integers(0, 17, 17)
        assert drawn[draw] == pytest.approx(100 * values[rows].mean(), abs=1e-12)
    shifted = drawn_metrics(Shares(values + 0.25, np.ones(17)), 5, seed=3)
    assert shifted - drawn == pytest.approx(np.full(5, 25.0))
    assert not np.array_equal(drawn, drawn_metrics(Shares(values, np.ones(17)), 5, seed=4))


def test_a_constant_lead_has_an_interval_of_no_width_however_much_images_differ() -> None:
    images = np.random.default_rng(1).normal(50, 20, 30)
    base = np.stack([images, images + 2, images - 1])
    found = interval([(scores(base + 5), scores(base))], seed=0)
    assert (found.mean, found.low, found.high) == pytest.approx((5, 5, 5))
    alone = interval([(scores(base), None)], seed=0)
    assert alone.high - alone.low > 5


def test_one_seed_gives_the_standard_error_over_images() -> None:
    images = np.random.default_rng(2).normal(10, 8, 200)
    found = interval([(scores(images[None], draws=4000), None)], seed=0)
    half = 1.96 * images.std() / math.sqrt(200)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.06)


def only_seeds(values: np.ndarray, draws: int) -> Scores:
    """Images that are all alike: every draw of them gives the same."""
    return Scores(values, np.repeat(values[:, None], draws, 1))


@pytest.mark.parametrize(("seeds", "quantile"), [(2, 12.706), (3, 4.303), (8, 2.365)])
def test_the_spread_of_seeds_is_students(seeds: int, quantile: float) -> None:
    """Quantiles of t with S - 1 degrees of freedom at 95 %, from a table."""
    values = np.random.default_rng(seeds).normal(0, 1, seeds)
    found = interval([(only_seeds(values, 1000), None)], seed=0)
    error = values.std(ddof=1) / math.sqrt(seeds)
    assert found.high - found.mean == pytest.approx(quantile * error, rel=0.05)
    assert found.mean - found.low == pytest.approx(quantile * error, rel=0.05)


@pytest.mark.parametrize("fractions", [1, 3])
@pytest.mark.parametrize("images", [0.0, 1.0])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_equal_starts_are_seldom_told_apart(seeds: int, images: float, fractions: int) -> None:
    """Two starts that differ by the noise of trainings and of images alone: one interval in twenty leaves 0 out."""
    rng = np.random.default_rng(seeds)
    wrong = 0
    for trial in range(400):
        hard, drawn = rng.normal(0, images), rng.normal(0, images, 100)
        parts = []
        for _ in range(fractions):
            first, second = rng.normal(0, 1, (2, seeds))
            noisy = Scores(first + hard, (first + hard)[:, None] + drawn)
            parts.append((noisy, only_seeds(second, 100)))
        found = interval(parts, trial)
        wrong += found.above or found.below
    assert wrong / 400 < 0.085


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """Leads of 1.0 with independent noise of images and seeds."""
    chosen = np.stack([generator(0, Stream.BOOTSTRAP, draw, 0).integers(0, 60, 60) for draw in range(200)])
    covered = 0
    for trial in range(100):
        rng = np.random.default_rng(trial)
        sides = [rng.normal(0, 1, (5, 1)) + rng.normal(0, 3, (5, 60)) for _ in range(2)]
        hard = rng.normal(0, 10, 60)
        first, second = (
            Scores(metrics.mean(1), metrics[:, chosen].mean(2)) for metrics in (hard + 1.0 + sides[0], hard + sides[1])
        )
        found = interval([(first, second)], seed=0)
        covered += found.low <= 1.0 <= found.high
    assert 0.9 <= covered / 100 <= 1


def test_fractions_are_averaged_draw_by_draw() -> None:
    rng = np.random.default_rng(5)
    low, high = scores(rng.normal(20, 5, (3, 25))), scores(rng.normal(40, 5, (3, 25)))
    both = interval([(low, None), (high, None)], seed=0)
    assert both.mean == pytest.approx((low.values.mean() + high.values.mean()) / 2)
    against_itself = interval([(low, low), (high, high)], seed=0)
    assert (against_itself.low, against_itself.high) == (0, 0)


def test_fractions_with_fewer_seeds_go_together_with_those_that_have_all() -> None:
    rng = np.random.default_rng(6)
    found = interval([(scores(rng.normal(20, 5, (3, 25))), None), (scores(rng.normal(20, 5, (1, 25))), None)], seed=0)
    assert found.low < found.mean < found.high


def test_draws_without_a_value_are_passed_over() -> None:
    evidence = Shares(np.array([0.5, 0.0]), np.array([1.0, 0.0]))  # a draw of the second image alone is 0 / 0
    drawn = drawn_metrics(evidence, 200, 0)
    assert np.isnan(drawn).sum() == pytest.approx(50, abs=25)
    found = interval([(Scores(np.array([50.0]), drawn[None]), None)], seed=0)
    assert (found.mean, found.low, found.high) == (50, 50, 50)
    nothing = interval([(Scores(np.array([50.0]), np.full((1, 10), np.nan)), None)], seed=0)
    assert math.isnan(nothing.low)
    assert not nothing.above
    assert not nothing.below
