"""The order of the parts of a plan, what identifies a training, the search and the budget."""

from dataclasses import replace
from pathlib import Path

import pytest
from fake_evaluator import FakeTask, labelled_images, start

from regionssl.errors import InputError
from regionssl.labels.sets import Split
from regionssl.proof.budget import blocks_that_fit, parse_time
from regionssl.proof.plan import Plan, small_fractions
from regionssl.proof.search import choose, scaled, searched_setting, shortened, trials


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    train, val = labelled_images(tmp_path / "train", 20), labelled_images(tmp_path / "val", 6, seed=1)
    starts = (start("run", "run", 300), start("random"), start("imagenet"))
    return Plan(starts, 1, FakeTask(), Split(train, val), (0.1, 0.2, 0.5, 0.75, 1.0), 2, 100, 7)


def test_blocks_go_from_the_ends_inwards_with_all_seeds(plan: Plan) -> None:
    one = [1.0, 0.1, 0.75, 0.2, 0.5]
    assert plan.blocks == [(f, seed) for f in one for seed in (0, 1)]
    assert plan.pairs == [("run", "random"), ("run", "imagenet")]


def test_all_starts_see_the_same_nested_images_and_seeds_others(plan: Plan) -> None:
    small, large = set(plan.positions[0.1, 0]), set(plan.positions[0.5, 0])
    assert small < large
    assert len(small) == 2
    assert set(plan.positions[0.1, 1]) != small
    first, second = (plan.training(one, (0.5, 1), plan.evaluator) for one in plan.starts[:2])
    assert list(first.data.train.images.names) == list(second.data.train.images.names)
    assert first.seed == second.seed == 8
    assert first.key != second.key


def test_a_key_names_all_that_decides_a_result_and_nothing_else(plan: Plan) -> None:
    training = plan.training(plan.starts[0], (0.5, 0), plan.evaluator)
    assert training.key == replace(training, name="another name").key
    others = [
        plan.training(plan.starts[0], (0.5, 1), plan.evaluator),
        plan.training(plan.starts[0], (0.2, 0), plan.evaluator),
        plan.training(plan.starts[0], (0.5, 0), FakeTask(lr=2)),
        replace(training, weights="run 123"),
        replace(training, draws=200),
        replace(training, start=replace(training.start, mean=(0.5, 0.5, 0.5))),
    ]
    assert len({training.key, *(other.key for other in others)}) == 7
    again = replace(plan, data=Split(plan.data.train, plan.data.val.subset([0, 1])))
    assert again.training(plan.starts[0], (0.5, 0), plan.evaluator).key != training.key


def test_fractions_with_fewer_images_than_classes_are_said(tmp_path: Path) -> None:
    many = labelled_images(tmp_path / "many", 20, classes=5)
    plan = Plan((start("run"),), 1, FakeTask(), Split(many, many), (0.05, 0.1, 1.0), 1, 100, 0)
    assert [line.split(":")[0] for line in small_fractions(plan)] == [
        "0.05 of the labels is 1 image for 5 classes",
        "0.1 of the labels is 2 images for 5 classes",
    ]


def test_the_search_is_equal_for_all_and_on_training_labels_alone(plan: Plan) -> None:
    found = trials(plan, (0.3, 1.0, 3.0), 0.25)
    assert set(found) == {(name, rate) for name in ("run", "random", "imagenet") for rate in (0.3, 1.0, 3.0)}
    parts = {
        (tuple(one.data.train.images.names), tuple(one.data.val.images.names), one.evaluator.iterations, one.seed)
        for one in found.values()
    }
    assert len(parts) == 1
    train, val, iterations, _ = parts.pop()
    assert len(train) == 16
    assert len(val) == 4
    assert not set(train) & set(val)
    assert set(train) | set(val) == set(plan.data.train.images.names)
    assert iterations == 25
    assert [found["run", rate].evaluator.lr for rate in (0.3, 1.0, 3.0)] == [0.3, 1.0, 3.0]


def test_shortening_keeps_what_is_stated_in_shares(plan: Plan) -> None:
    short = shortened(FakeTask(), 0.25)
    assert (short.iterations, short.warmup, short.drops) == (25, 2, (12, 0.9))
    assert scaled(FakeTask(lr=0.02), 3).lr == pytest.approx(0.06)


def test_evaluators_without_a_learning_rate_are_not_searched(plan: Plan) -> None:
    from regionssl.evaluation.segmentation.pixel_probe import PixelProbeTask

    probe = PixelProbeTask()
    assert searched_setting(probe) is None
    assert trials(replace(plan, evaluator=probe), (0.3, 1.0), 0.25) == {}
    assert shortened(probe, 0.5) == scaled(probe, 3) == probe
    assert choose(["run"], (0.3, 1.0), {})["run"].factor == 1


def test_the_best_rate_wins_and_ties_go_to_the_protocols_own() -> None:
    rates = (0.3, 1.0, 3.0)
    scores = {("a", 0.3): 5.0, ("a", 1.0): 7.0, ("a", 3.0): 7.0, ("b", 0.3): 9.0, ("b", 1.0): 1.0, ("b", 3.0): 1.0}
    chosen = choose(["a", "b"], rates, scores)
    assert (chosen["a"].factor, chosen["b"].factor) == (1.0, 0.3)
    assert chosen["a"].remark("a") == ""
    assert "at the end of the search" in chosen["b"].remark("b")
    hopeless = {("c", 0.3): 0.05, ("c", 1.0): 0.0, ("c", 3.0): 0.02}
    assert choose(["c"], rates, hopeless)["c"].factor == 1.0
    assert choose(["a"], (3.0,), {})["a"].factor == 3.0


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30min", 1800), ("2h", 7200), ("1.5h", 5400), ("1h30m", 5400), ("1d", 86400)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2 weeks", "0h", "-1h", "1h later"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match=r"expected a time|above 0"):
        parse_time(text)


def test_a_budget_keeps_one_block_at_least() -> None:
    assert blocks_that_fit(10, spent=100, first=50, budget=80) == 1
    assert blocks_that_fit(10, spent=100, first=50, budget=249) == 3
    assert blocks_that_fit(10, spent=100, first=50, budget=1e9) == 10
