"""The number of clusters against the authors' schedules (``golden/r2o_schedules.npz``; R2O, sections 4.4 and 6)."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from regionssl.engine.schedule import ScheduleConfig, learning_rate
from regionssl.methods.curriculum import CurriculumConfig, cluster_count, most_clusters, real_clusters

with np.load(Path(__file__).parents[1] / "golden" / "r2o_schedules.npz") as file:
    GOLDEN = {name: file[name] for name in file.files if name != "versions"}
NONE = 9999
"""What the release calls "no clusters"."""

HOLD = CurriculumConfig(kind="linear", epochs=(0, 40, 300), clusters=(128, 128, 4))
SCHEDULES = {
    "K_release": CurriculumConfig(),
    "K_cos_start4": CurriculumConfig(epochs=(4, 300)),
    "K_linear_hold40": HOLD,
    "K_linear": CurriculumConfig(kind="linear"),
    "K_cos_increasing": CurriculumConfig(clusters=(4, 128)),
    "K_piecewise": CurriculumConfig(kind="piecewise", epochs=(0, 150, 300), clusters=(1, 64, 32)),
    "K_constant16": CurriculumConfig(kind="constant", clusters=(16,)),
    "K_linear_200_0": CurriculumConfig(kind="linear", clusters=(200, 0), none_above=128),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_releases_schedules(name: str) -> None:
    """From epoch 0 to one after the end."""
    ours = [cluster_count(SCHEDULES[name], epoch) or NONE for epoch in GOLDEN["epoch"].tolist()]
    np.testing.assert_array_equal(ours, GOLDEN[name])
    if f"{name}_raw" in GOLDEN:
        raw = [real_clusters(SCHEDULES[name], epoch) for epoch in GOLDEN["epoch"].tolist()]
        np.testing.assert_allclose(raw, GOLDEN[f"{name}_raw"], atol=1e-12)


def test_the_learning_rate_times_clusters() -> None:
    """Quirk Q10: all parameters' rate times K of the epoch over 16."""
    per_epoch, total = int(GOLDEN["steps_per_epoch"]), int(GOLDEN["total_steps"])
    schedule = ScheduleConfig(unit="step", warmup_epochs=int(GOLDEN["warmup_steps"]) / per_epoch)
    for step, expected, clusters in zip(
        GOLDEN["step"].tolist(), GOLDEN["lr_scaled_by_K"], GOLDEN["K_at_step"], strict=True
    ):
        k = cluster_count(CurriculumConfig(), step // per_epoch + 1)
        assert k == clusters
        rate = learning_rate(schedule, float(GOLDEN["max_lr"]), step, per_epoch, total / per_epoch)
        assert rate * k / 16 == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("kind", "clusters"), [("cosine", (128, 4)), ("linear", (128, 4))])
def test_a_schedule_is_stretched_to_the_run(kind: str, clusters: tuple[float, float]) -> None:
    paper = CurriculumConfig(kind=kind, clusters=clusters)
    third = paper.model_copy(update={"length": 100})
    assert [cluster_count(third, e) for e in range(1, 101)] == [cluster_count(paper, 3 * e) for e in range(1, 101)]
    assert cluster_count(third, 100) == 4
    assert cluster_count(paper.model_copy(update={"length": 300}), 299) == cluster_count(paper, 299)
    short = paper.model_copy(update={"length": 0.5})
    assert cluster_count(short, 1) == (4 if kind == "cosine" else 1), "an epoch longer than the run is past its end"


def test_no_clusters() -> None:
    assert cluster_count(CurriculumConfig(kind="none"), 5) is None
    assert cluster_count(CurriculumConfig(kind="constant", clusters=(129,), none_above=128), 5) is None
    assert cluster_count(CurriculumConfig(kind="constant", clusters=(129,)), 5) == 129, "no number means no clusters"


@pytest.mark.parametrize(
    ("config", "most"),
    [
        (CurriculumConfig(), 128),
        (CurriculumConfig(kind="constant", clusters=(16, 99)), 16),
        (SCHEDULES["K_linear_200_0"], 128),
        (CurriculumConfig(kind="none"), 0),
    ],
)
def test_most_clusters(config: CurriculumConfig, most: int) -> None:
    assert most_clusters(config) == most
    assert all((cluster_count(config, epoch) or 0) <= most for epoch in range(301))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": (0, 40, 300), "clusters": (128, 128, 4)}, "a cosine has two knots, got 3; kind linear takes any"),
        ({"epochs": (0, 300), "clusters": (128,)}, "each knot needs an epoch and a K, got 2 and 1"),
        ({"epochs": (300, 0)}, "must rise"),
        ({"kind": "linear", "epochs": (300,), "clusters": (128,)}, "two knots or more"),
        ({"clusters": ()}, "at least 1 item"),
    ],
)
def test_knots_that_do_not_fit(settings: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CurriculumConfig(**settings)
