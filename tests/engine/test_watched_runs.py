"""Real runs under the lamp: each fault turns it red within 200 steps, and healthy runs keep it from red."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from regionssl.data.scenes import write_scenes

import health_runs as runs
from health_runs import MAIN_VARIANTS, trainer_of, watch

CONTRASTING, REGRESSING = ("moco", "resim_fpn", "plrc_R"), ("byol", "scrl", "r2o_clean", "orl")
AT_ONCE = 6
"""Steps within which a fault that needs no training to be seen must be seen."""


@pytest.fixture(scope="module")
def many_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """128 scenes: a queue of a quarter of them holds four batches."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 128, size=96, labels=False)
    return folder


def cases(default: dict[str, tuple[str, ...]], concerned: dict[str, tuple[str, ...]]) -> list[object]:
    """(fault, variant) for all variants that a fault concerns; those that are not default are long."""
    return [
        pytest.param(fault, variant, marks=() if variant in default[fault] else pytest.mark.long)
        for fault, variants in concerned.items()
        for variant in variants
    ]


SEEN_AT_ONCE = cases(
    {
        "momentum_0": ("moco", "byol"),
        "dead_target": ("resim_fpn", "byol"),
        "rate_times_100": ("moco", "scrl"),
        "views_not_normalised": ("moco",),
        "queue_beyond_the_data": ("moco",),
    },
    {
        "momentum_0": MAIN_VARIANTS,
        "dead_target": MAIN_VARIANTS,
        "rate_times_100": MAIN_VARIANTS,
        "views_not_normalised": MAIN_VARIANTS,
        "queue_beyond_the_data": CONTRASTING,
    },
)
MEASURE = {
    "momentum_0": "slow_pull",
    "dead_target": "slow_pull",
    "rate_times_100": "update",
    "views_not_normalised": "view_min",
    "queue_beyond_the_data": "queue_share",
}
SEEN_IN_TRAINING = cases(
    {"no_predictor": ("byol",), "of_another_image": ("moco",), "windows_elsewhere": ()},
    {"no_predictor": REGRESSING, "of_another_image": MAIN_VARIANTS, "windows_elsewhere": ("resim_fpn",)},
)


@pytest.mark.parametrize(("fault", "variant"), SEEN_AT_ONCE)
def test_faults_that_show_at_once(fault: str, variant: str, many_scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(variant, many_scenes, every=1)
    inject: Callable[..., None] = getattr(runs, fault)
    inject(trainer, monkeypatch)
    monitor, records = watch(trainer, until="red")
    assert monitor.lamp.level == "red"
    assert monitor.lamp.measure == MEASURE[fault]
    assert records[-1]["step"] < AT_ONCE


@pytest.mark.parametrize(("fault", "variant"), SEEN_IN_TRAINING)
def test_faults_that_show_in_training(
    fault: str, variant: str, many_scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a network that learns fast from wrong pairs soon finds what they have in common after all, such as their places
    trainer = trainer_of(variant, many_scenes, slow=fault == "of_another_image")
    inject: Callable[..., None] = getattr(runs, fault)
    inject(trainer, monkeypatch)
    monitor, records = watch(trainer, until="red")
    assert monitor.lamp.level == "red", records[-1]
    assert records[-1]["step"] < 200


@pytest.mark.parametrize("variant", ["moco", "byol"])
def test_healthy_runs_are_not_red(variant: str, many_scenes: Path) -> None:
    monitor, records = watch(trainer_of(variant, many_scenes, seed=1, steps=60))
    assert monitor.worst.level != "red", monitor.worst
    assert len(records) == 31


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("variant", MAIN_VARIANTS)
def test_ten_healthy_runs_of_each_method_are_not_red(variant: str, seed: int, many_scenes: Path) -> None:
    monitor, _ = watch(trainer_of(variant, many_scenes, seed=seed))
    assert monitor.worst.level != "red", monitor.worst


def test_watching_does_not_change_a_run(scenes: Path) -> None:
    weights = []
    for every in (1, 100):
        trainer = trainer_of("scrl", scenes, steps=4, every=every)
        watch(trainer)
        weights.append(trainer.method.state_dict())
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def test_measures_come_with_the_logged_steps_alone(scenes: Path) -> None:
    trainer = trainer_of("moco", scenes, steps=4, every=3)
    named = []
    for batch in trainer.loader(4):
        terms = trainer.train_step(batch)
        named.append(any(name.startswith("health/") for name in terms))
    assert named == [True, False, True, True]
