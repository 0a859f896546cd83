"""The lamp, on made-up logs: every rule on both sides of its thresholds, hysteresis, and what a run folder tells."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from regionssl import InputError
from regionssl.engine.health import FALL, GREEN, RISE, HealthMonitor, Lamp, loss_bands, read_health
from regionssl.engine.health_rules import BLACK, FEW, GRACE, MANY, WHITE
from regionssl.engine.log import JsonLines

SOUND: dict[str, float] = {
    "loss": 1.8,
    "valid": 0.6,
    "health/view_min": -2.1,
    "health/view_max": 2.6,
    "health/update": 0.002,
    "health/slow_pull": 0.01,
    "health/queue_share": 0.25,
    "health/image_target_std": 0.75,
    "health/image_target_rank": 6.0,
    "health/image_positive": 0.5,
    "health/image_negative": 0.5,  # predictions: alike at first, and not judged
    "health/image_slow_positive": 0.4,
    "health/image_slow_negative": 0.3,
    "health/boxes_positive": 0.6,
    "health/boxes_negative": 0.3,
    "health/boxes_elsewhere": 0.5,
    "health/teacher_entropy": 0.9,
    "health/loss_orthogonal": 4.0,
}


def judged(changes: dict[str, float], first: int = GRACE, count: int = 2 * MANY) -> HealthMonitor:
    """The monitor after ``count`` records of every step, all with the same changes to a sound one."""
    monitor = HealthMonitor()
    for step in range(first, first + count):
        monitor.observe({"step": step, "epoch": 0.1, **SOUND, **changes})
    return monitor


@pytest.mark.parametrize(
    ("changes", "level", "measure"),
    [
        ({}, "green", None),
        ({"health/view_min": -0.01, "health/view_max": 1.0}, "red", "view_min"),
        ({"health/view_min": -0.1, "health/view_max": 1.0}, "green", None),  # dull images, normalised
        ({"health/view_max": 255.0}, "red", "view_max"),
        ({"health/view_min": BLACK - 0.5}, "red", "view_min"),
        ({"health/view_min": BLACK, "health/view_max": WHITE}, "green", None),
        ({"health/queue_share": 0.5}, "green", None),
        ({"health/queue_share": 0.7}, "amber", "queue_share"),
        ({"health/queue_share": 1.01}, "red", "queue_share"),
        ({"health/slow_pull": 0.0}, "red", "slow_pull"),
        ({"health/slow_pull": 0.0, "health/update": 0.0}, "green", None),  # a rate of 0: nothing can be told
        ({"health/slow_pull": 1e-6}, "green", None),
        ({"health/slow_pull": 0.95}, "amber", "slow_pull"),
        ({"health/slow_pull": 1.0}, "red", "slow_pull"),
        ({"health/update": 0.04}, "green", None),
        ({"health/update": 0.07}, "amber", "update"),
        ({"health/update": 0.2}, "red", "update"),
        ({"health/image_target_std": 0.15}, "green", None),
        ({"health/image_target_std": 0.15, "health/image_slow_positive": 0.3}, "green", None),  # all are alike for now
        ({"health/image_target_std": 0.08}, "amber", "image_target_std"),
        ({"health/image_target_std": 0.04}, "red", "image_target_std"),
        ({"health/image_target_rank": 1.2}, "amber", "image_target_rank"),
        ({"health/image_target_rank": 1.0}, "red", "image_target_rank"),
        ({"health/image_slow_positive": 0.317}, "amber", "image_slow_positive over negative"),
        ({"health/image_slow_positive": 0.3}, "red", "image_slow_positive over negative"),
        ({"health/boxes_elsewhere": 0.599}, "amber", "boxes_positive over elsewhere"),
        ({"health/boxes_elsewhere": 0.61}, "red", "boxes_positive over elsewhere"),
        ({"health/boxes_elsewhere": 0.61, "health/p4_positive": 0.5, "health/p4_elsewhere": 0.4}, "green", None),
        (
            {"health/boxes_elsewhere": 0.61, "health/p4_positive": 0.4, "health/p4_elsewhere": 0.4},
            "red",
            "boxes_positive and p4_positive over elsewhere",
        ),
        ({"valid": 0.05}, "amber", "valid"),
        ({"valid": 0.0}, "red", "valid"),
        ({"health/teacher_entropy": 0.1}, "amber", "teacher_entropy"),
        ({"health/teacher_entropy": 0.01}, "red", "teacher_entropy"),
        ({"loss": 0.15}, "amber", "loss over orthogonal"),
        ({"loss": 0.01}, "red", "loss over orthogonal"),
        ({"loss": 5.5}, "amber", "loss over orthogonal"),
        ({"loss": 7.0}, "red", "loss over orthogonal"),
        ({"loss": 0.0, "health/loss_orthogonal": 0.0}, "green", None),  # a loss of weight 0
        ({"image": 6.2, "health/image_chance": 6.24}, "green", None),
        ({"image": 9.0, "health/image_chance": 6.24}, "amber", "image over chance"),
        ({"image": 9.5, "health/image_chance": 6.24}, "red", "image over chance"),
        ({"loss": math.inf}, "red", "loss"),
        ({"health/gradient": math.nan}, "red", "gradient"),
    ],
)
def test_each_rule_on_both_sides_of_its_thresholds(changes: dict[str, float], level: str, measure: str | None) -> None:
    lamp = judged(changes).lamp
    assert (lamp.level, lamp.measure) == (level, measure)
    assert str(lamp) == "health: green" if level == "green" else lamp.sentence in str(lamp)


def test_features_and_losses_are_not_judged_in_the_period_of_grace() -> None:
    collapsed = {"health/image_target_std": 0.0, "loss": 0.0}
    assert judged(collapsed, first=0, count=GRACE).lamp is GREEN
    assert judged(collapsed, first=0, count=GRACE + FEW).lamp.level == "red"
    assert judged({"health/update": 0.2}, first=0, count=RISE).lamp.level == "red", (
        "what is wrong at once is said at once"
    )


def test_one_odd_record_turns_nothing_and_a_lamp_turns_back() -> None:
    monitor = judged({}, count=MANY)
    levels = []
    odd = {"health/update": 0.2}
    changes = [odd, {}, odd, odd, {}, odd, odd, odd, *[{}] * (FALL - 1), odd, *[{}] * FALL]
    for step, change in enumerate(changes):
        monitor.observe({"step": GRACE + MANY + step, **SOUND, **change})
        levels.append(monitor.lamp.level)
    assert levels == ["green"] * 7 + ["red"] * (FALL + FALL) + ["green"]
    assert monitor.worst.level == "red", "the worst is kept"
    assert monitor.worst.step == GRACE + MANY + 7


def test_amber_becomes_red_and_red_amber() -> None:
    monitor = judged({"health/update": 0.07}, count=RISE)
    turned = [monitor.lamp.level]
    for step, update in enumerate([0.2] * RISE + [0.07] * FALL, start=GRACE + RISE):
        if (lamp := monitor.observe({"step": step, **SOUND, "health/update": update})) is not None:
            turned.append(lamp.level)
    assert turned == ["amber", "red", "amber"]


def test_a_network_that_moved_once_is_not_dead() -> None:
    """The momentum of BYOL ends at 1, where the slow network rightly stands still."""
    monitor = HealthMonitor()
    for step in range(GRACE, GRACE + MANY):
        monitor.observe({"step": step, **SOUND, "health/slow_pull": 0.01 if step == GRACE else 0.0})
    assert monitor.lamp is GREEN


def test_records_of_a_method_without_measures_are_healthy() -> None:
    monitor = HealthMonitor()
    for step in range(MANY):
        monitor.observe({"step": step, "loss": 3.0, "lr": 0.1})
    assert monitor.lamp is GREEN


def test_the_usual_band_of_each_loss() -> None:
    record = {"loss": 5.0, "health/loss_chance": 6.0, "health/intra_orthogonal": 4.0, "health/gradient": 1.0}
    bands = loss_bands(record)
    assert bands.keys() == {"loss", "intra"}
    assert bands["loss"] == pytest.approx((0.6 * 6, 1.03 * 6))
    assert bands["intra"] == pytest.approx((0.4, 2.6))


def test_a_run_folder_tells_its_lamps(tmp_path: Path) -> None:
    lamps = [
        Lamp(9, "amber", "why", "update", 0.07),
        Lamp(20, "red", "why not", "loss", math.nan),
        Lamp(30, "green", "well"),
    ]
    lines = JsonLines(tmp_path / "log.jsonl", 0)
    records: list[dict[str, Any]] = [{"step": 8, "loss": 1.0}]
    records += [{"event": "health", **lamp.to_plain()} for lamp in lamps]
    records += [{"step": 40, "loss": 1.0, "health/loss_orthogonal": 4.0}]
    for record in records:
        lines.write(record)
    lines.file.write('{"event": "health", "step": 41, "lev')
    lines.close()
    found = read_health(tmp_path)
    assert [lamp.level for lamp in found.lamps] == ["green", "amber", "red", "green"]
    assert found.worst.value is None
    assert str(found.worst) == "health: red at step 21: loss = not finite: why not"
    assert found.bands == {"loss": pytest.approx((0.4, 2.6))}
    for line in (tmp_path / "log.jsonl").read_text().splitlines()[:-1]:
        json.loads(line, parse_constant=pytest.fail)  # no NaN, which is not JSON


def test_a_folder_without_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no log\.jsonl"):
        read_health(tmp_path)
