"""Trainings on disk: whole or not at all, once, side by side, and the same after a kill."""

import json
import multiprocessing
import re
import time
from pathlib import Path

import numpy as np
import pytest
from fake_evaluator import FakeTask, labelled_images, start

from regionssl.errors import InputError, TooFewLabels
from regionssl.labels.sets import Split
from regionssl.proof.carry_out import CarriedOut, Effort, carry_out
from regionssl.proof.cells import run_all
from regionssl.proof.comparison import compare
from regionssl.proof.plan import Plan
from regionssl.proof.store import Result, Store

RATES = (0.5, 1.0)


def make_plan(folder: Path, evaluator: FakeTask, seeds: int = 2) -> Plan:
    train, val = labelled_images(folder / "train", 12), labelled_images(folder / "val", 6, seed=1)
    starts = (start("run", "run", 300), start("random"))
    return Plan(starts, 1, evaluator, Split(train, val), (0.25, 0.5, 1.0), seeds, 100, 0)


def done(plan: Plan, folder: Path, processes: int = 1, budget: float | None = None) -> tuple[CarriedOut, list[str]]:
    said: list[str] = []
    effort = Effort("cpu", processes, RATES, 0.25, budget)
    return carry_out(plan, Store(folder), effort, lambda training, result, found: None, said.append), said


def table(carried: CarriedOut) -> dict[str, list[float]]:
    """All numbers, to the last digit."""
    return {
        f"{name} {block}": [
            result.value,
            *result.drawn.tolist(),
            *result.per_image.tolist(),
            *result.per_class.values(),
        ]
        for (name, block), result in carried.results.items()
    }


def journal(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_plan_is_carried_out_once_and_read_afterwards(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, FakeTask(journal=str(tmp_path / "journal")))
    carried, _ = done(plan, tmp_path / "cells")
    lines = journal(tmp_path / "journal")
    assert [line["iterations"] for line in lines] == [25] * 4 + [100] * 12
    assert [line["start"] for line in lines[4:8]] == ["run", "random", "run", "random"]
    assert [line["train"] for line in lines[4:]] == [12] * 4 + [3] * 4 + [6] * 4
    assert [line["seed"] for line in lines[4:]] == [0, 0, 1, 1] * 3
    assert {name: choice.factor for name, choice in carried.choices.items()} == {"run": 1.0, "random": 1.0}
    again, _ = done(plan, tmp_path / "cells")
    assert table(again) == table(carried)
    assert len(journal(tmp_path / "journal")) == 16
    other, _ = done(plan, tmp_path / "others")  # elsewhere, from the beginning
    assert table(other) == table(carried)


def test_a_result_holds_what_intervals_and_pictures_need(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, FakeTask())
    training = plan.training(plan.starts[0], (1.0, 0), plan.evaluator)
    store = Store(tmp_path / "cells")
    assert store.find(training) is None
    result = store.run(training, "cpu")
    evidence = np.load(result.folder / "evidence.npz")
    assert result.per_image == pytest.approx(100 * evidence["hits"])
    assert result.value == pytest.approx(result.per_image.mean())
    assert len(result.drawn) == 100
    assert result.artefacts["log"].read_text() == "trained"
    assert (result.folder / "artefacts" / "log.txt").is_file()
    again = store.find(training)
    assert again is not None
    assert again.metrics == result.metrics


def test_half_written_trainings_do_not_count(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, FakeTask())
    training = plan.training(plan.starts[0], (1.0, 0), plan.evaluator)
    store = Store(tmp_path / "cells")
    partial = store.folder / f".{training.key}.partial"
    (partial / "artefacts").mkdir(parents=True)
    (partial / "result.json").write_text("{}")
    assert store.find(training) is None
    assert store.run(training, "cpu").value > 0
    assert not partial.exists()


def test_a_failed_training_names_itself_and_keeps_the_others(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, FakeTask(diverges="random", journal=str(tmp_path / "journal")))
    with pytest.raises(InputError, match=r"random, learning rate x 0.5, search: the loss is not finite at iteration 3"):
        done(plan, tmp_path / "cells")
    assert {line["start"] for line in journal(tmp_path / "journal")} == {"run"}


def test_a_lost_loader_process_names_its_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*arguments: object) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr(FakeTask, "run", lost)
    with pytest.raises(InputError, match=r"run, learning rate x 0.5, search: a loader process was ended from outside"):
        done(make_plan(tmp_path, FakeTask()), tmp_path / "cells")


def test_a_training_in_the_making_is_not_made_twice(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, FakeTask())
    training = plan.training(plan.starts[0], (1.0, 0), plan.evaluator)
    store = Store(tmp_path / "cells")
    with store.claim(training) as mine, store.claim(training) as also:
        assert mine
        assert not also
        with pytest.raises(InputError, match="another process is at work"):
            run_all(store, [training], "cpu", 1, lambda *_: None)


def test_side_by_side_gives_the_same_numbers_and_does_each_once(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, FakeTask(journal=str(tmp_path / "journal"), pause=0.02), seeds=1)
    heard: list[str] = []

    def report(training: object, result: Result, found: bool) -> None:
        heard.append(result.folder.name)

    trainings = [plan.training(one, block, plan.evaluator) for block in plan.blocks for one in plan.starts]
    beside = run_all(Store(tmp_path / "beside"), trainings, "cpu", 2, report)
    lines = journal(tmp_path / "journal")
    assert len(lines) == len(trainings) == len(set(heard)) == 6
    alone = run_all(Store(tmp_path / "alone"), trainings, "cpu", 1, lambda *_: None)
    for one, other in zip(beside, alone, strict=True):
        assert np.array_equal(one.drawn, other.drawn)
        assert one.metrics == other.metrics


def test_a_budget_leaves_out_middle_fractions(tmp_path: Path) -> None:
    """Each training says that it takes 1 s: 4 for the search, 2 for a block."""
    plan = make_plan(tmp_path, FakeTask())
    carried, said = done(plan, tmp_path / "a", budget=12.5)
    assert carried.blocks == [(1.0, 0), (1.0, 1), (0.25, 0), (0.25, 1)]
    assert carried.left_out == [(0.5, 0), (0.5, 1)]
    assert said[-1].startswith("the budget leaves out 2 of 6 parts of the plan, for every start: 0.5 of the labels")
    fewer, _ = done(plan, tmp_path / "b", budget=10.5)  # three would fit, and the verdict needs all seeds of a fraction
    assert fewer.blocks == [(1.0, 0), (1.0, 1)]
    least, _ = done(plan, tmp_path / "c", budget=0.1)
    assert least.blocks == [(1.0, 0)]
    found = compare(plan, least.results, least.blocks)
    assert [point.fraction for point in found.points] == [1.0, 1.0]
    assert found.verdict.rule == 6
    assert found.verdict.sentence.endswith("one seed, so nothing is known of the spread of trainings.")
    every, said = done(plan, tmp_path / "a", budget=1000)
    assert len(every.blocks) == 6
    assert not [line for line in said if "budget" in line]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_fraction_with_too_few_labels_is_left_out_and_said(processes: int, tmp_path: Path) -> None:
    plan = make_plan(tmp_path, FakeTask(least=4))
    carried, said = done(plan, tmp_path / "cells", processes)
    assert {fraction for fraction, _ in carried.blocks} == {0.5, 1.0}
    assert {fraction for _, (fraction, _) in carried.results} == {0.5, 1.0}
    (line,) = (line for line in said if "is left out, for every start" in line)
    assert re.fullmatch(r"0.25 of the labels is left out, .*: \w+, 0.25 of the labels, seed \d: 3 labels, not 4", line)
    assert line in carried.remarks
    assert compare(plan, carried.results, carried.blocks).verdict.sentence.count("2 label fractions") == 1
    with pytest.raises(TooFewLabels, match="search: 10 labels, not 99"):
        done(make_plan(tmp_path / "none", FakeTask(least=99)), tmp_path / "none")


@pytest.mark.parametrize("name", ["result.json", "drawn.npy", "per_image.npy"])
@pytest.mark.parametrize("content", [b"", b"{"])
def test_a_damaged_training_is_done_again(
    name: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(tmp_path, FakeTask(journal=str(tmp_path / "journal")))
    carried, _ = done(plan, tmp_path / "cells")
    before, trained = table(carried), len(journal(tmp_path / "journal"))
    next(iter(carried.results.values())).folder.joinpath(name).write_bytes(content)
    again, _ = done(plan, tmp_path / "cells")
    assert table(again) == before
    assert len(journal(tmp_path / "journal")) == trained + 1
    assert "was damaged, so it was trained again" in capsys.readouterr().err


def test_a_killed_comparison_ends_with_the_same_table(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, FakeTask(pause=0.1, journal=str(tmp_path / "journal")))
    child = multiprocessing.get_context("fork").Process(target=done, args=(plan, tmp_path / "cells"))
    child.start()
    limit = time.monotonic() + 60
    while not (tmp_path / "journal").exists() or len(journal(tmp_path / "journal")) < 7:
        assert child.is_alive()
        assert time.monotonic() < limit
        time.sleep(0.02)
    child.kill()
    child.join()
    before = len(journal(tmp_path / "journal"))
    carried, _ = done(plan, tmp_path / "cells")
    unbroken, _ = done(plan, tmp_path / "unbroken")
    assert before < 16
    assert table(carried) == table(unbroken)
    comparison, expected = (compare(plan, one.results, one.blocks) for one in (carried, unbroken))
    assert comparison == expected
    assert len(journal(tmp_path / "journal")) <= 16 + 1 + 16  # at most one was begun twice
