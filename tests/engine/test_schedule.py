"""Schedules against those of the authors' schedulers (``golden/*_lr.npz``, ``golden/*_schedules.npz``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from regionssl.engine.schedule import ScheduleConfig, learning_rate
from regionssl.methods.momentum import rising_momentum

GOLDEN = Path(__file__).parents[1] / "golden"
SCRL = ScheduleConfig(unit="step", warmup_epochs=10, first_step=1)
ORL = ScheduleConfig(warmup_epochs=4, warmup_start=1e-4, decay_from="start")


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def rates(config: ScheduleConfig, peak: float, steps: np.ndarray, per_epoch: int, epochs: float) -> list[float]:
    return [learning_rate(config, peak, int(step), per_epoch, epochs) for step in steps]


def close(ours: list[float], theirs: np.ndarray) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("where", [0, 7, 30])
@pytest.mark.parametrize("epochs", [200, 400])
def test_resim_cosine(epochs: int, where: int) -> None:
    """The same rate at every step of an epoch."""
    steps = np.arange(epochs) * 31 + where
    close(rates(ScheduleConfig(), 0.03, steps, 31, epochs), golden("resim_lr")[f"cos{epochs}"])


def test_resim_steps() -> None:
    config = ScheduleConfig(kind="steps", milestones=(120, 160))
    close(rates(config, 0.03, np.arange(200) * 5 + 4, 5, 200), golden("resim_lr")["step200"])


@pytest.mark.parametrize("epochs", [200, 1000])
@pytest.mark.parametrize("method", ["scrl", "byol"])
def test_scrl(method: str, epochs: int) -> None:
    data, name = golden("scrl_schedules"), f"{method}_{epochs}ep"
    steps, peak = data[f"lr_{name}_step"], float(data[f"lr_{name}_init"][0])
    close(rates(SCRL, peak, steps, 157, epochs), data[f"lr_{name}"])
    assert learning_rate(SCRL, peak, 157 * epochs - 1, 157, epochs) == 0


@pytest.mark.parametrize("method", ["scrl", "byol"])
def test_scrl_linear_evaluation(method: str) -> None:
    data, name = golden("scrl_schedules"), f"eval_lr_{method}_200ep"
    config = SCRL.model_copy(update={"warmup_epochs": 5})
    close(rates(config, float(data[f"{name}_init"][0]), data[f"{name}_step"], 313, 80), data[name])


def test_orl() -> None:
    data = golden("orl_schedules")
    close(rates(ORL, 0.4, data["lr_coco_iter"], 232, 800), data["lr_coco"])
    close(rates(ORL, 0.4, np.arange(800) * 232, 232, 800), data["lr_coco_epoch_start"])
    close(rates(ORL, 0.4, np.arange(200), 10, 20), data["lr_small_epochlen10_epochs20"])


def test_r2o() -> None:
    """Its warm-up and length are whole numbers of steps, not of epochs."""
    data = golden("r2o_schedules")
    per_epoch = int(data["steps_per_epoch"])
    config = ScheduleConfig(unit="step", warmup_epochs=int(data["warmup_steps"]) / per_epoch)
    ours = rates(config, float(data["max_lr"]), data["step"], per_epoch, int(data["total_steps"]) / per_epoch)
    close(ours, data["lr_unscaled"])


def test_constant_with_warmup() -> None:
    config = ScheduleConfig(kind="constant", warmup_epochs=0.5, warmup_start=0.2)
    assert rates(config, 2.0, np.arange(8), 8, 1) == pytest.approx([0.4, 0.8, 1.2, 1.6, 2, 2, 2, 2])


def test_milestones_are_reached_within_an_epoch_when_the_unit_is_the_step() -> None:
    config = ScheduleConfig(kind="steps", unit="step", milestones=(0.5, 1.25))
    assert rates(config, 1.0, np.arange(8), 4, 2) == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01])


@pytest.mark.parametrize("config", [SCRL, ORL, ScheduleConfig(unit="step", warmup_epochs=3)])
@pytest.mark.parametrize("epochs", [0.3, 3, 4, 10])
def test_a_run_shorter_than_its_warmup_stays_on_it(config: ScheduleConfig, epochs: float) -> None:
    values = rates(config, 1.0, np.arange(round(10 * epochs)), 10, epochs)
    assert all(0 <= value <= 1 for value in values)
    within = values[: round(10 * min(epochs, config.warmup_epochs)) - 1]
    if config.decay_from == "warmup":
        assert within == sorted(within)


def test_steps_after_the_end_stay_at_the_end() -> None:
    config = ScheduleConfig(unit="step")
    assert learning_rate(config, 1.0, 100, 10, 10) == 0
    assert learning_rate(config, 1.0, 130, 10, 10) == 0


@pytest.mark.parametrize(
    ("method", "base", "epochs"), [("scrl", 0.97, 200), ("scrl", 0.996, 1000), ("byol", 0.97, 200)]
)
def test_momentum_of_scrl(method: str, base: float, epochs: int) -> None:
    data, name = golden("scrl_schedules"), f"{method}_{epochs}ep"
    ours = [rising_momentum(base, int(step), 157 * epochs) for step in data[f"lr_{name}_step"]]
    close(ours, data[f"ema_{name}"])


@pytest.mark.parametrize("run", ["coco", "cocoplus", "small"])
def test_momentum_of_orl(run: str) -> None:
    data = golden("orl_schedules")
    steps = data.get(f"{run}_iter", np.arange(20))
    close([rising_momentum(0.99, int(step), int(data[f"{run}_K"])) for step in steps], data[f"{run}_m"])


def test_momentum_of_r2o() -> None:
    data = golden("r2o_schedules")
    close([rising_momentum(0.99, int(step), int(data["total_steps"])) for step in data["step"]], data["ema_m"])
