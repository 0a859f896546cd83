"""One sentence, by the rules in the order in which they are stated."""

import pytest

from regionssl.proof.statistics import Interval
from regionssl.proof.verdict import Setting, judge

SETTING = Setting("box_ap", 42, 3, 5, 0.975, 0.9875)
UP, DOWN, NONE = Interval(3.0, 1.0, 5.0), Interval(-3.0, -5.0, -1.0), Interval(0.4, -1.0, 2.0)


@pytest.mark.parametrize(
    ("leads", "rule", "says"),
    [
        (
            {"random": UP, "imagenet": DOWN},
            1,
            "Use ImageNet: its weights lead run by 3.0 box_ap (98.8 % interval 1.0 to",
        ),
        ({"random": DOWN, "imagenet": DOWN}, 1, "Use ImageNet"),
        ({"random": UP, "moco": DOWN}, 2, "Use moco: it leads run by 3.0"),
        ({"random": DOWN}, 2, "Use random"),
        ({"random": UP}, 3, "run helps: it leads random by +3.0 box_ap (97.5 % interval 1.0 to 5.0)"),
        (
            {"random": UP, "imagenet": Interval(1.0, 0.5, 1.5)},
            3,
            "it leads imagenet, the best start it is held against, by +1.0",
        ),
        ({"moco": UP}, 3, "run is better: it leads moco"),
        ({"random": UP, "imagenet": NONE}, 4, "run helps, leading random by +3.0"),
        ({"random": UP, "imagenet": NONE}, 4, "use ImageNet, which costs nothing"),
        ({"random": UP, "moco": NONE}, 5, "but there is no evidence that it beats moco (lead +0.4"),
        ({"random": NONE}, 6, "There is no evidence that run helps: its lead over random is +0.4 box_ap"),
        ({"random": NONE, "imagenet": NONE}, 6, "no evidence that run helps"),
        ({"moco": NONE}, 6, "no evidence that run is better"),
    ],
)
def test_the_first_rule_that_applies(leads: dict[str, Interval], rule: int, says: str) -> None:
    sources = {name: name if name in ("random", "imagenet") else f"runs/{name}" for name in leads}
    verdict = judge("run", sources, leads, leads, SETTING)
    assert verdict.rule == rule
    assert says in verdict.sentence
    assert verdict.sentence.endswith("; mean over 5 label fractions, 42 validation images, 3 seeds.")
    assert verdict.sentence.count(". ") == 0  # one sentence


def test_one_seed_is_said() -> None:
    verdict = judge("run", {"random": "random"}, {"random": UP}, {"random": UP}, Setting("miou", 10, 1, 1, 0.95, 0.95))
    assert verdict.rule == 6, "one seed is no evidence"
    assert verdict.sentence.endswith(
        "; 10 validation images, one seed, so nothing is known of the spread of trainings."
    )
    assert "95 % interval" in verdict.sentence


def test_a_bound_that_rounds_to_zero_shows_its_side() -> None:
    lead = {"random": Interval(0.1, 0.0123, 0.3)}
    verdict = judge("run", {"random": "random"}, lead, lead, SETTING)
    assert "97.5 % interval 0.01 to 0.3" in verdict.sentence
    assert verdict.rule == 3


def test_that_another_start_leads_needs_the_stricter_interval() -> None:
    sources = {"random": "random", "moco": "runs/moco"}
    leads = {"random": UP, "moco": DOWN}
    unsure = {"random": NONE, "moco": Interval(-3.0, -6.5, 0.5)}
    assert judge("run", sources, leads, unsure, SETTING).rule == 5
    assert judge("run", sources, leads, leads, SETTING).rule == 2
