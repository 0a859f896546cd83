"""A plan, carried out: the search of learning rates, the most telling block, and then as many as fit the time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from regionssl.errors import TooFewLabels
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
        remarks: sentences on what was chosen and left out.
        choices: the learning rate of each start.
        seconds: of search and trainings, by start.
    """

    results: Mapping[tuple[str, Block], Result]
    blocks: Sequence[Block]
    left_out: Sequence[Block]
    remarks: Sequence[str]
    choices: Mapping[str, Choice]
    seconds: Mapping[str, float]


def carry_out(plan: Plan, store: Store, effort: Effort, report: Report, say: Callable[[str], None]) -> CarriedOut:
    """Do what has not been done, and read what has.

    Args:
        report: told of every training.
        say: told sentences on what was chosen and left out.

    Raises:
        InputError: a training failed; those that are done stay.
        TooFewLabels: not even the largest fraction can be trained on.
    """
    remarks: list[str] = []

    def remark(sentence: str) -> None:
        remarks.append(sentence)
        say(sentence)

    names = [start.name for start in plan.starts]
    tried = trials(plan, effort.rates, effort.share)
    found = dict[tuple[str, float], Result]()
    scored = run_all(store, list(tried.values()), effort.device, effort.processes, report)
    for key, result in zip(tried, scored, strict=True):
        if isinstance(result, TooFewLabels):
            raise result
        found[key] = result
    choices = choose(names, effort.rates, {key: result.value for key, result in found.items()})
    for sentence in filter(None, (choice.remark(name) for name, choice in choices.items())):
        remark(sentence)
    results: dict[tuple[str, Block], Result] = {}
    lacking: dict[float, TooFewLabels] = {}

    def train(blocks: Sequence[Block]) -> float:
        wanted = {
            (start.name, block): _training(plan, start.name, block, choices[start.name])
            for block in blocks
            for start in plan.starts
        }
        seconds, done = 0.0, run_all(store, list(wanted.values()), effort.device, effort.processes, report)
        for key, result in zip(wanted, done, strict=True):
            if isinstance(result, TooFewLabels):
                lacking.setdefault(key[1][0], result)
            else:
                results[key] = result
                seconds += result.seconds
        return seconds / effort.processes

    blocks = plan.blocks
    first = train(blocks[:1])
    if lacking:  # the smaller fractions are parts of this one
        raise next(iter(lacking.values()))
    count = len(blocks)
    if effort.budget is not None:
        spent = effort.spent + sum(result.seconds for result in found.values()) / effort.processes + first
        fit = blocks_that_fit(len(blocks), spent, first, effort.budget)
        count = fit - fit % plan.seeds if fit > plan.seeds else fit  # the verdict needs all seeds of a fraction
    if count < len(blocks):
        remark(left_out_sentence(blocks[count:], plan))
    train(blocks[1:count])
    seconds = dict.fromkeys(names, 0.0)
    for (name, _), result in [*found.items(), *results.items()]:
        seconds[name] += result.seconds
    for fraction, error in lacking.items():
        remark(f"{fraction:.4g} of the labels is left out, for every start: {error}")
    trained = [block for block in blocks[:count] if block[0] not in lacking]
    if not trained:
        raise next(iter(lacking.values()))
    kept = {key: result for key, result in results.items() if key[1] in trained}
    return CarriedOut(kept, trained, blocks[count:], remarks, choices, seconds)


def _training(plan: Plan, name: str, block: Block, choice: Choice) -> Training:
    start = next(start for start in plan.starts if start.name == name)
    return plan.training(start, block, scaled(plan.evaluator, choice.factor))


def left_out_sentence(blocks: Sequence[Block], plan: Plan) -> str:
    """Which blocks did not fit the time."""
    listed = ", ".join(f"{fraction:.4g} of the labels with seed {plan.seed + seed}" for fraction, seed in blocks)
    return f"the budget leaves out {len(blocks)} of {len(plan.blocks)} parts of the plan, for every start: {listed}"
