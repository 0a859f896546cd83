"""One sentence, by stated rules.

A run is judged by the mean over the label fractions of its lead over each start that it is compared with. The best run
by mean speaks for all, and the chance of a false word stays below 5 % in all. Of r runs and n other starts a lead is
judged by an interval of 1 - 0.05 / r, since no good word is said without the one lead over random weights, or else over
every other start; that another start leads, which any of them may, by one of 1 - 0.05 / (r n). The first rule that
applies:

1. ImageNet's weights are among the others and their lead over the run is sure: use ImageNet.
2. Another start's lead over the run is sure: use that one.
3. The run's lead over every other start is sure: it helps (where random weights are not among them: it is better).
4. Its lead over random weights is sure, that over ImageNet's is not: it helps, but use ImageNet, which costs nothing.
5. Its lead over random weights is sure, that over another start is not: it helps, no more than that one.
6. Otherwise there is no evidence that it helps.

"Sure" means that the interval leaves 0 out, and that there are two seeds or more: one says nothing of the spread of
trainings, and two or three little, so that their intervals are wide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from regionssl.proof.statistics import Interval


@dataclass(frozen=True)
class Verdict:
    """The sentence, and the number of the rule that it follows."""

    sentence: str
    rule: int


@dataclass(frozen=True)
class Setting:
    """What the sentence must say of the comparison: metric, images, seeds, label fractions, confidence levels.

    Attributes:
        seeds: of the fraction that has the fewest.
        level, lag_level: of the intervals of leads, and of those by which another start leads.
    """

    metric: str
    images: int
    seeds: int
    fractions: int
    level: float
    lag_level: float

    def __str__(self) -> str:
        seeds = f"{self.seeds} seeds" if self.seeds > 1 else "one seed, so nothing is known of the spread of trainings"
        over = f"mean over {self.fractions} label fractions, " if self.fractions > 1 else ""
        return f"{over}{self.images} validation images, {seeds}"


def judge(
    run: str,
    others: Mapping[str, str],
    leads: Mapping[str, Interval],
    lags: Mapping[str, Interval],
    setting: Setting,
) -> Verdict:
    """The verdict on one run.

    Args:
        run: its name.
        others: source of each other start by its name.
        leads: of the run over each of them, with intervals of ``setting.level``.
        lags: the same leads with intervals of ``setting.lag_level``.
    """
    imagenet = next((name for name, source in others.items() if source == "imagenet"), None)
    random = next((name for name, source in others.items() if source == "random"), None)
    several = setting.seeds > 1
    behind = [name for name in others if several and lags[name].below]
    unsure = [name for name in others if not (several and leads[name].above)]

    def said(name: str) -> str:
        return _numbers(leads[name], setting.metric, setting.level)

    def said_of(name: str) -> str:
        lag = lags[name]
        turned = Interval(-lag.mean, -lag.high, -lag.low)
        return _numbers(turned, setting.metric, setting.lag_level).removeprefix("+")

    end = f"; {setting}."
    if imagenet is not None and imagenet in behind:
        return Verdict(f"Use ImageNet: its weights lead {run} by {said_of(imagenet)}{end}", 1)
    if behind:
        best = min(behind, key=lambda name: leads[name].mean)
        return Verdict(f"Use {best}: it leads {run} by {said_of(best)}{end}", 2)
    if not unsure:
        closest = min(others, key=lambda name: leads[name].mean)
        among = "" if len(others) == 1 else ", the best start it is held against,"
        helps = "helps: it leads" if random is not None else "is better: it leads"
        return Verdict(f"{run} {helps} {closest}{among} by {said(closest)}{end}", 3)
    if random is not None and random not in unsure:
        beside = f"{run} helps, leading {random} by {said(random)}, but there is no evidence that it beats"
        if imagenet in unsure:
            return Verdict(f"{beside} ImageNet (lead {said(str(imagenet))}): use ImageNet, which costs nothing{end}", 4)
        other = min(unsure, key=lambda name: leads[name].mean)
        return Verdict(f"{beside} {other} (lead {said(other)}){end}", 5)
    shown = min(unsure, key=lambda name: leads[name].mean)
    helps = "helps" if random is not None else "is better"
    return Verdict(f"There is no evidence that {run} {helps}: its lead over {shown} is {said(shown)}{end}", 6)


def _numbers(lead: Interval, metric: str, level: float) -> str:
    sign = "+" if lead.mean > 0 else ""
    return f"{sign}{bound(lead.mean)} {metric} ({100 * level:.3g} % interval {bound(lead.low)} to {bound(lead.high)})"


def bound(value: float) -> str:
    """A number with one decimal, or as many as tell it from 0."""
    return f"{value:.1g}" if 1e-9 < abs(value) < 0.05 else f"{value + 0.0:.1f}"
