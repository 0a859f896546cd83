"""Nearest neighbours against scikit-learn's, and a whole run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch.nn.functional import normalize

from regionssl.config import parse
from regionssl.errors import InputError
from regionssl.evaluation.classification.knn import KnnTask, knn_votes
from regionssl.evaluation.start import Start
from regionssl.labels.sets import ClassSet, Split


@pytest.mark.parametrize("neighbours", [1, 5, 40])
def test_votes_are_scikit_learns(neighbours: int) -> None:
    rng = np.random.default_rng(0)
    bank, queries = rng.standard_normal((40, 6)), rng.standard_normal((150, 6))
    labels = np.concatenate([np.arange(4), rng.integers(0, 4, 36)])
    found = knn_votes(torch.from_numpy(bank), np.eye(4)[labels], torch.from_numpy(queries), neighbours, 0.1)
    unit = [normalize(torch.from_numpy(rows), dim=1).numpy() for rows in (bank, queries)]
    # of unit vectors, the squared distance is 2 - 2 cosines
    reference = KNeighborsClassifier(
        neighbours, algorithm="brute", weights=lambda distance: np.exp((1 - distance**2 / 2) / 0.1)
    ).fit(unit[0], labels)
    np.testing.assert_allclose(found, reference.predict_proba(unit[1]), atol=1e-9)


def test_equal_neighbours_count_in_order() -> None:
    bank = torch.tensor([[1.0, 0], [2.0, 0], [0, 1.0]])
    votes = knn_votes(bank, np.eye(3), torch.tensor([[3.0, 0]]), 1, 0.07)
    np.testing.assert_allclose(votes, [[1, 0, 0]])


def test_several_classes_in_an_image() -> None:
    truth = np.array([[1, 1], [0, -1], [0, 1]])
    votes = knn_votes(torch.eye(3), truth, torch.tensor([[1.0, 1.0, 0.0]]), 2, 1.0)
    np.testing.assert_allclose(votes, [[0.5, 0.5]])


def test_a_run(textures: Split[ClassSet], random_start: Start, tmp_path: Path) -> None:
    task = KnnTask(size=64, resize=72, neighbours=5)
    outcome = task.run(random_start, textures, tmp_path / "a")
    assert outcome.primary == "top1"
    assert outcome.value > 50  # textures of one frequency each: chance is 33
    assert outcome.evidence.metric(np.arange(24)) == pytest.approx(outcome.value)
    table = (tmp_path / "a" / "predictions.csv").read_text().splitlines()
    assert len(table) == 25
    assert table[0] == "image,true,predicted,score"
    rows = [line.split(",") for line in table[1:]]
    assert sum(true == predicted for _, true, predicted, _ in rows) == round(24 * outcome.value / 100)
    assert [line.split(",")[0] for line in (tmp_path / "a" / "per_class.csv").read_text().splitlines()] == [
        "class",
        *textures.val.classes,
    ]
    again = task.run(random_start, textures, tmp_path / "b")
    assert again.artefacts["predictions"].read_bytes() == outcome.artefacts["predictions"].read_bytes()
    assert outcome.artefacts["mistakes"].is_file()


def test_mistakes_of_the_user(textures: Split[ClassSet], random_start: Start, tmp_path: Path) -> None:
    task = KnnTask(size=64, resize=72)
    with pytest.raises(InputError, match="got 36 and 0"):
        task.run(random_start, Split(textures.train, textures.val.subset([])), tmp_path)
    single = ClassSet(textures.train.images, np.ones((36, 1), np.int8), ("texture",))
    with pytest.raises(InputError, match="all images are of the class texture"):
        task.run(random_start, Split(single, single), tmp_path)
    pooled = parse(KnnTask, {"size": 64, "resize": 72, "reading": {"pool": [6, 1, 0]}}, "test")
    with pytest.raises(InputError, match="c5 has 2 x 2 cells, too few for a pooling of 6"):
        pooled.run(random_start, textures, tmp_path)
