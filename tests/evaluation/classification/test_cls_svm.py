"""Support vector machines: the authors' arrays (``golden/orl_svm.npz``; ORL, section 6.3), scikit-learn, whole runs."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from regionssl.config import parse
from regionssl.errors import InputError, TooFewLabels
from regionssl.evaluation.classification.svm import COSTS, SvmTask, few, unit_length
from regionssl.evaluation.start import Start
from regionssl.labels.sets import ClassSet, Split

with np.load(Path(__file__).parents[2] / "golden" / "orl_svm.npz") as file:
    GOLDEN = dict(file)

SMALL = {"size": 64, "resize": 72, "reading": {"map": "c5", "pool": [2, 1, 0]}}


def test_costs_and_lengths_of_the_release() -> None:
    np.testing.assert_array_equal(COSTS, GOLDEN["costs"])
    np.testing.assert_allclose(unit_length(GOLDEN["feat"]), GOLDEN["feat_norm"], rtol=1e-12, atol=0)


def toy(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((60, 8))
    return unit_length(features), features[:, 0] + 0.5 * rng.standard_normal(60) > 0.7


def test_the_cost_is_the_best_over_folds() -> None:
    features, shown = toy()
    task = SvmTask(costs=(1.0, 100.0, 0.001))
    chosen = task.choose_cost(features, shown, 0)
    means = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for cost in task.costs:
            machine = LinearSVC(C=cost, class_weight={1: 2, -1: 1}, dual=True, max_iter=2000, random_state=1)
            labels = np.where(shown, 1, -1)
            means[cost] = cross_val_score(machine, features, labels, cv=3, scoring="average_precision").mean()
    assert means[chosen] == pytest.approx(max(means.values()), abs=1e-3)
    assert len({round(mean, 3) for mean in means.values()}) > 1


def test_a_machine_is_scikit_learns() -> None:
    features, shown = toy()
    found = SvmTask().fit(features, shown, features, 1.0, 0)
    reference = LinearSVC(C=1.0, class_weight={1: 2, -1: 1}, dual=False, tol=1e-8)
    reference.fit(features, np.where(shown, 1, -1))
    np.testing.assert_allclose(found, reference.decision_function(features), atol=2e-3)
    assert not SvmTask().fit(features, np.zeros(60, bool), features, 1.0, 0).any()


def test_few_are_drawn() -> None:
    truth = np.array([1] * 9 + [0] * 100 + [-1] * 7)
    rows = few(truth, 3, "cat", 0, 0, 0)
    assert (truth[rows] == 1).sum() == 3
    assert (truth[rows] == 0).sum() == 57
    assert len(set(rows.tolist())) == 60
    assert set(few(truth, 1, "cat", 0, 0, 0)[:1]) <= set(rows[:3])
    assert set(rows) != set(few(truth, 3, "cat", 0, 1, 0))
    assert len(few(truth, 9, "cat", 0, 0, 0)) == 109  # all negatives
    with pytest.raises(TooFewLabels, match="10 shots need as many images of cat, and there are 9"):
        few(truth, 10, "cat", 0, 0, 0)


def test_all_labels(textures: Split[ClassSet], random_start: Start, tmp_path: Path) -> None:
    task = parse(SvmTask, {**SMALL, "costs": [1.0, 0.0625]}, "test")
    outcome = task.run(random_start, textures, tmp_path / "a")
    assert outcome.primary == "map"
    assert outcome.value > 70
    assert outcome.evidence.metric(np.arange(24)) == pytest.approx(outcome.value)
    assert outcome.value == pytest.approx(np.mean([*outcome.per_class.values()]))
    again = task.run(random_start, textures, tmp_path / "b")
    assert again.artefacts["predictions"].read_bytes() == outcome.artefacts["predictions"].read_bytes()


def test_unsure_images_train_as_absent_and_do_not_count(
    textures: Split[ClassSet], random_start: Start, tmp_path: Path
) -> None:
    def marked(part: ClassSet, value: int) -> ClassSet:
        truth = part.truth.copy()
        truth[:4, 2] = np.where(truth[:4, 2] == 0, value, truth[:4, 2])
        return ClassSet(part.images, truth, part.classes)

    task = parse(SvmTask, {**SMALL, "costs": [1.0]}, "test")
    sure = task.run(random_start, textures, tmp_path / "a").per_class
    trained = task.run(random_start, Split(marked(textures.train, -1), textures.val), tmp_path / "b").per_class
    assert trained == sure
    tested = task.run(random_start, Split(textures.train, marked(textures.val, -1)), tmp_path / "c").per_class
    assert tested["noise"] >= sure["noise"]
    assert tested["stripes"] == sure["stripes"]


def test_low_shot(textures: Split[ClassSet], random_start: Start, tmp_path: Path) -> None:
    task = parse(SvmTask, {**SMALL, "shots": [1, 6], "samples": 2, "costs": [1.0, 100.0]}, "test")
    outcome = task.run(random_start, textures, tmp_path)
    assert set(outcome.metrics) == {"map", "map_1", "map_6"}
    assert outcome.value == pytest.approx((outcome.metrics["map_1"] + outcome.metrics["map_6"]) / 2)
    assert outcome.evidence.metric(np.arange(24)) == pytest.approx(outcome.value)
    assert outcome.metrics["map_6"] > outcome.metrics["map_1"]
    with pytest.raises(TooFewLabels, match="13 shots need as many images of stripes, and there are 12"):
        parse(SvmTask, {**SMALL, "shots": [13]}, "test").run(random_start, textures, tmp_path)


def test_a_class_that_was_never_seen_scores_at_chance(
    textures: Split[ClassSet], random_start: Start, tmp_path: Path
) -> None:
    truth = textures.train.truth.copy()
    truth[:, 2] = 0
    train = ClassSet(textures.train.images, truth, textures.train.classes)
    task = parse(SvmTask, {**SMALL, "costs": [1.0]}, "test")
    outcome = task.run(random_start, Split(train, textures.val), tmp_path)
    assert outcome.per_class["noise"] == pytest.approx(100 / 3)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(InputError, match="costs must be above 0"):
        parse(SvmTask, {"costs": [0.0]}, "test")
