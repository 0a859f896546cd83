"""A comparison of starts whose skills are known."""

from pathlib import Path

import pytest
from fake_evaluator import FakeTask, labelled_images, start

from regionssl.evaluation.start import Start
from regionssl.labels.sets import Split
from regionssl.proof.carry_out import Effort, carry_out
from regionssl.proof.comparison import Comparison, compare
from regionssl.proof.plan import Plan
from regionssl.proof.store import Store


def comparison(folder: Path, starts: tuple[Start, ...], runs: int, noise: float = 1.0) -> Comparison:
    train, val = labelled_images(folder / "train", 20), labelled_images(folder / "val", 30, seed=1)
    plan = Plan(starts, runs, FakeTask(noise=noise), Split(train, val), (0.1, 1.0), 3, 200, 0)
    carried = carry_out(plan, Store(folder / "cells"), Effort("cpu", 1, (1.0,), 0.25, None), lambda *_: None, print)
    return compare(plan, carried.results, carried.blocks)


def test_a_better_run_is_found_out(tmp_path: Path) -> None:
    found = comparison(tmp_path, (start("run", "run", 50), start("random")), 1)
    assert found.metric == "hits"
    points = {(point.start, point.fraction): point for point in found.points}
    assert points["run", 1.0].images == 20
    assert points["run", 0.1].images == 2
    assert len(points["run", 0.1].values) == 3
    assert points["run", 1.0].interval.mean - points["run", 0.1].interval.mean == pytest.approx(20, abs=0.01)
    leads = {lead.fraction: lead.interval for lead in found.leads}
    assert set(leads) == {0.1, 1.0, None}
    for lead in leads.values():
        assert lead.mean == pytest.approx(5)  # the same luck on both sides
        assert lead.low == pytest.approx(5)
    assert found.verdict.rule == 3
    assert "run helps: it leads random by +5.0 hits" in found.verdict.sentence
    assert set(found.classes) == {"class0", "class1"}
    assert found.classes["class1"]["run"] - found.classes["class0"]["run"] == pytest.approx(1)


def test_imagenet_and_equal_starts(tmp_path: Path) -> None:
    use = comparison(tmp_path / "a", (start("run", "run", 50), start("random"), start("imagenet")), 1)
    assert use.verdict.rule == 1
    same = comparison(tmp_path / "b", (start("run", "run", 0), start("random")), 1)
    assert same.verdict.rule == 6
    assert "no evidence that run helps" in same.verdict.sentence


def test_the_best_run_speaks_and_more_pairs_widen_its_interval(tmp_path: Path) -> None:
    starts = (start("weak", "weak", 10), start("strong", "strong", 40), start("random"))
    found = comparison(tmp_path, starts, 2)
    assert found.run == "strong"
    assert "97.5 % interval" in found.verdict.sentence
    assert {(lead.run, lead.other) for lead in found.leads} == {("weak", "random"), ("strong", "random")}
