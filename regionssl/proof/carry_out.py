"""A plan, carried out: the search of learning rates, the most telling block, and then as many as fit the time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from regionssl.proof.budget import blocks_that_fit
from regionssl.proof.cells import Report, run_all
from regionssl.proof.plan import Block, Plan, Training
from regionssl.proof.search import Choice, choose, scaled, trials
from regionssl.proof.store import Result, Store


@dataclass(frozen=True)
class Effort:
    """How a plan is carried out.

    Attributes:
        device: "cpu" or "cuda".
        processes: trainings side by side.
        rates: factors of the protocol's learning rate that are tried for each start.
        share: of the protocol's iterations, for each trial.
        budget: seconds, or None for no limit.
        spent: seconds of it that are gone.
    """

    device: str
    processes: int
    rates: Sequence[float]
    share: float
    budget: float | None
    spent: float = 0.0


@dataclass(frozen=True)
class CarriedOut:
    """What came of it.

    Attributes:
        results: by start and block.
        blocks: that were trained, the most telling first.
        left_out: blocks that did not fit the time.
        choices: the learning rate of each start.
        seconds: of search and trainings, by start.
    """

    results: Mapping[tuple[str, Block], Result]
    blocks: Sequence[Block]
    left_out: Sequence[Block]
    choices: Mapping[str, Choice]
    seconds: Mapping[str, float]


def carry_out(plan: Plan, store: Store, effort: Effort, report: Report, say: Callable[[str], None]) -> CarriedOut:
    """Do what has not been done, and read what has.

    Args:
        report: told of every training.
        say: told sentences on what was chosen and left out.

    Raises:
        InputError: a training failed; those that are done stay.
    """
    names = [start.name for start in plan.starts]
    tried = trials(plan, effort.rates, effort.share)
    found = dict(zip(tried, run_all(store, list(tried.values()), effort.device, effort.processes, report), strict=True))
    choices = choose(names, effort.rates, {key: result.value for key, result in found.items()})
    for remark in filter(None, (choice.remark(name) for name, choice in choices.items())):
        say(remark)
    results: dict[tuple[str, Block], Result] = {}

    def train(blocks: Sequence[Block]) -> float:
        wanted = {
            (start.name, block): _training(plan, start.name, block, choices[start.name])
            for block in blocks
            for start in plan.starts
        }
        done = run_all(store, list(wanted.values()), effort.device, effort.processes, report)
        results.update(zip(wanted, done, strict=True))
        return sum(result.seconds for result in done) / effort.processes

    blocks = plan.blocks
    first = train(blocks[:1])
    count = len(blocks)
    if effort.budget is not None:
        spent = effort.spent + sum(result.seconds for result in found.values()) / effort.processes + first
        count = blocks_that_fit(len(blocks), spent, first, effort.budget)
    if count < len(blocks):
        say(left_out_sentence(blocks[count:], plan))
    train(blocks[1:count])
    seconds = dict.fromkeys(names, 0.0)
    for (name, _), result in [*found.items(), *results.items()]:
        seconds[name] += result.seconds
    return CarriedOut(results, blocks[:count], blocks[count:], choices, seconds)


def _training(plan: Plan, name: str, block: Block, choice: Choice) -> Training:
    start = next(start for start in plan.starts if start.name == name)
    return plan.training(start, block, scaled(plan.evaluator, choice.factor))


def left_out_sentence(blocks: Sequence[Block], plan: Plan) -> str:
    """Which blocks did not fit the time."""
    listed = ", ".join(f"{fraction:.4g} of the labels with seed {plan.seed + seed}" for fraction, seed in blocks)
    return f"the budget leaves out {len(blocks)} of {len(plan.blocks)} parts of the plan, for every start: {listed}"
