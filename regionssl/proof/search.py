"""One short search of the learning rate for each start, the same for all, so that none is handicapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from regionssl.evaluation.tasks import Evaluator, with_settings
from regionssl.proof.plan import Plan, Training

RATES = (0.3, 1.0, 3.0)
SHARE = 0.25
EQUAL = 0.1
"""Points of the metric by which two rates must differ for one to be better."""


@dataclass(frozen=True)
class Choice:
    """The factor of the protocol's learning rate that a start is trained with, and the hold-out score of each tried."""

    factor: float
    scores: Mapping[float, float]

    def remark(self, start: str) -> str:
        """A sentence if the best lies at the end of what was tried; else nothing."""
        if len(self.scores) > 1 and self.factor in (min(self.scores), max(self.scores)):
            return (
                f"the best learning rate of {start}, {self.factor:g} times the protocol's, is at the end of the search"
            )
        return ""


def searched_setting(evaluator: Evaluator) -> str | None:
    """Name of the setting that is searched, None where the evaluator has no learning rate."""
    return "lr" if "lr" in type(evaluator).model_fields else None


def scaled(evaluator: Evaluator, factor: float) -> Evaluator:
    """The evaluator at another learning rate."""
    name = searched_setting(evaluator)
    return (
        evaluator
        if name is None or factor == 1
        else with_settings(evaluator, {name: getattr(evaluator, name) * factor})
    )


def shortened(evaluator: Evaluator, share: float) -> Evaluator:
    """The evaluator with this share of its iterations or epochs, and of all that is stated in them."""
    fields = type(evaluator).model_fields
    changes: dict[str, object] = {
        name: max(1, round(getattr(evaluator, name) * share)) for name in ("iterations", "epochs") if name in fields
    }
    if "warmup" in fields:
        changes["warmup"] = round(evaluator.warmup * share)  # type: ignore[attr-defined]
    if "drops" in fields:
        drops = evaluator.drops  # type: ignore[attr-defined]
        changes["drops"] = [drop if drop < 1 else max(1, round(drop * share)) for drop in drops]
    return with_settings(evaluator, changes) if changes else evaluator


def trials(plan: Plan, rates: Sequence[float], share: float) -> dict[tuple[str, float], Training]:
    """The trainings of the search by start and factor: one seed, on a hold-out of the largest fraction's labels.

    None where there is nothing to choose.
    """
    if searched_setting(plan.evaluator) is None or len(rates) < 2:
        return {}
    short = shortened(plan.evaluator, share)
    return {
        (start.name, rate): plan.hold_out(start, scaled(short, rate), f"{start.name}, learning rate x {rate:g}, search")
        for start in plan.starts
        for rate in sorted(rates)
    }


def choose(
    names: Sequence[str], rates: Sequence[float], scores: Mapping[tuple[str, float], float]
) -> dict[str, Choice]:
    """The best factor of each start; of those less than a tenth of a point behind it the nearest to 1."""
    if not scores:
        return {name: Choice(rates[0] if len(rates) == 1 else 1.0, {}) for name in names}
    chosen = {}
    for name in names:
        own = {rate: scores[name, rate] for rate in sorted(rates)}
        good = [rate for rate, score in own.items() if score > max(own.values()) - EQUAL]
        best = min(good, key=lambda rate: max(rate, 1 / rate))
        chosen[name] = Choice(best, own)
    return chosen
