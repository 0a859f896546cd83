"""K-means against the authors' arrays (``golden/r2o_kmeans.npz``; R2O, section 9) and a slow oracle."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regionssl.regions.clusters import (
    candidates_per_centre,
    draws_shape,
    k_means,
    lloyd,
    product_sums,
    scattered_sums,
    seed_centres,
)

with np.load(Path(__file__).parents[1] / "golden" / "r2o_kmeans.npz") as file:
    GOLDEN = dict(file)


def array(name: str) -> torch.Tensor:
    """A golden array as the only group."""
    return torch.from_numpy(GOLDEN[name])[None]


def everything(rows: torch.Tensor) -> torch.Tensor:
    return torch.ones(rows.shape[:2], dtype=torch.bool)


def recorded_draws(case: str) -> torch.Tensor:
    """The recorded first index and numbers as our uniform draws."""
    first = (int(GOLDEN[f"{case}_first"]) + 0.5) / len(GOLDEN[f"{case}_x"])
    return torch.cat([torch.tensor([first]), torch.from_numpy(GOLDEN[f"{case}_uniforms"]).flatten()])[None]


def random_draws(groups: int, clusters: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(groups, *draws_shape(clusters), generator=torch.Generator().manual_seed(seed))


def random_rows(groups: int, rows: int, width: int = 6, seed: int = 0) -> torch.Tensor:
    drawn = torch.randn(groups, rows, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=-1)


def test_fixed_centres() -> None:
    rows = array("A_x")
    found = lloyd(rows, array("A_init"), everything(rows), "keep", 200, 1e-6)
    np.testing.assert_array_equal(found.labels[0], GOLDEN["A_labels"])
    np.testing.assert_allclose(found.centres[0], GOLDEN["A_centers"], atol=1e-6)
    assert float(found.inertia) == pytest.approx(float(GOLDEN["A_inertia"]), abs=1e-3)
    assert int(found.rounds) == GOLDEN["A_n_iter"]


@pytest.mark.parametrize("case", ["B", "C"])
def test_seeded(case: str) -> None:
    """C has rows of zeros."""
    rows, clusters = array(f"{case}_x"), int(GOLDEN[f"{case}_K"])
    found = k_means(rows, clusters, recorded_draws(case))
    np.testing.assert_array_equal(found.labels[0], GOLDEN[f"{case}_labels"])
    np.testing.assert_allclose(found.centres[0], GOLDEN[f"{case}_centers"], atol=1e-6)
    assert int(found.rounds) == GOLDEN[f"{case}_n_iter"]


def test_seeds() -> None:
    rows = array("B_x")
    seeds = seed_centres(rows, int(GOLDEN["B_K"]), recorded_draws("B"), everything(rows))
    np.testing.assert_array_equal(seeds[0], GOLDEN["B_init_idx"])


def test_a_lost_cluster_turns_nan_in_the_release() -> None:
    rows = array("D_x")
    found = lloyd(rows, array("D_init"), everything(rows), "nan", 200, 1e-6)
    np.testing.assert_array_equal(found.labels[0], GOLDEN["D_labels"])
    np.testing.assert_array_equal(found.centres[0].isnan().all(-1), GOLDEN["D_center_is_nan"])
    assert int(found.rounds) == GOLDEN["D_n_iter"] == 200


def test_a_lost_cluster_keeps_its_centre() -> None:
    rows, start = array("D_x"), array("D_init")
    found = lloyd(rows, start, everything(rows), "keep", 200, 1e-6)
    lost = [k for k in range(4) if not (found.labels == k).any()]
    assert len(lost) == 1
    assert torch.equal(found.centres[0, lost], start[0, lost])
    assert int(found.rounds) < 200


def test_one_cluster_is_the_mean() -> None:
    found = k_means(array("D_x"), 1, torch.full((1, 1), 0.3))
    np.testing.assert_allclose(found.centres[0], GOLDEN["E_centers"], atol=1e-6)
    assert int(found.rounds) == GOLDEN["E_n_iter"]
    assert not found.labels.any()


@pytest.mark.parametrize(("clusters", "candidates"), [(1, 2), (2, 2), (3, 3), (7, 3), (8, 4), (127, 6), (128, 6)])
def test_candidates(clusters: int, candidates: int) -> None:
    assert candidates_per_centre(clusters) == candidates
    assert draws_shape(clusters) == (1 + (clusters - 1) * candidates,)


def slow_k_means(rows: np.ndarray, clusters: int, draws: np.ndarray) -> np.ndarray:
    """The specification's words, one row at a time."""
    picks = [int(draws[0] * len(rows))]
    tries = draws[1:].reshape(clusters - 1, candidates_per_centre(clusters)) if clusters > 1 else ()
    squared = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    for numbers in tries:
        nearest = squared[:, picks].min(1)
        sums = np.cumsum(nearest)
        options = [next((n for n in range(len(rows)) if sums[n] >= u * sums[-1]), len(rows) - 1) for u in numbers]
        left = [np.minimum(nearest, squared[:, option]).sum() for option in options]
        picks.append(options[int(np.argmin(left))])
    centres, previous = rows[picks].copy(), None
    for _ in range(200):
        distance = ((rows[:, None] - centres[None]) ** 2).sum(-1)
        labels, inertia = distance.argmin(1), distance.min(1).sum()
        if previous is not None and abs(previous - inertia) < 1e-6:
            break
        previous = inertia
        for k in range(clusters):
            if (labels == k).any():
                centres[k] = rows[labels == k].mean(0)
    return labels


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), rows=st.integers(5, 40), clusters=st.integers(1, 5))
def test_the_specifications_words(seed: int, rows: int, clusters: int) -> None:
    data = random_rows(1, rows, seed=seed).double()
    draws = random_draws(1, clusters, seed).double()
    found = k_means(data, clusters, draws)
    np.testing.assert_array_equal(found.labels[0], slow_k_means(data[0].numpy(), clusters, draws[0].numpy()))


def test_groups_do_not_see_each_other() -> None:
    data, draws = random_rows(5, 60), random_draws(5, 7)
    together = k_means(data, 7, draws)
    assert len(set(together.rounds.tolist())) > 1, "some groups wait for others"
    for group in range(5):
        alone = k_means(data[group : group + 1], 7, draws[group : group + 1])
        assert torch.equal(alone.labels[0], together.labels[group])
        assert torch.equal(alone.rounds[0], together.rounds[group])
        torch.testing.assert_close(alone.centres[0], together.centres[group])


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), clusters=st.integers(1, 6))
def test_unused_rows_change_nothing(seed: int, clusters: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    data, draws = random_rows(2, 40, seed=seed), random_draws(2, clusters, seed)
    used = torch.rand(2, 40, generator=generator) < 0.6
    used[:, 20] = True
    found = k_means(data, clusters, draws, used)
    assert (found.labels[~used] == -1).all()
    for group in range(2):
        alone = k_means(data[group][used[group]][None], clusters, draws[group : group + 1])
        assert torch.equal(found.labels[group][used[group]], alone.labels[0])
        torch.testing.assert_close(found.centres[group], alone.centres[0])
    data[~used] = 17.0
    assert torch.equal(k_means(data, clusters, draws, used).labels, found.labels)


@pytest.mark.parametrize("distinct", [1, 2, 5])
def test_more_clusters_than_distinct_rows(distinct: int) -> None:
    data = random_rows(1, distinct).repeat(1, 4, 1)
    found = k_means(data, 8, random_draws(1, 8))
    assert torch.isfinite(found.centres).all()
    assert len(found.labels.unique()) == distinct
    assert float(found.inertia) == pytest.approx(0, abs=1e-5)
    assert int(found.rounds) < 10


@pytest.mark.parametrize("draw", [0.0, 1.0 - 2**-24, 1.0])
def test_draws_at_the_ends(draw: float) -> None:
    """A draw of 1 is what rounding to float32 may make of one below 1."""
    used = torch.ones(1, 30, dtype=torch.bool)
    used[:, [0, 1, 28, 29]] = False
    seeds = seed_centres(random_rows(1, 30), 4, torch.full((1, *draws_shape(4)), draw), used)
    assert used[0, seeds[0]].all()
    assert int(seeds[0, 0]) == (2 if draw == 0 else 27)


def test_it_is_k_means_in_half_precision_surroundings_too() -> None:
    data, draws = random_rows(1, 50), random_draws(1, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = k_means(data, 4, draws)
    assert mixed.centres.dtype == torch.float32
    assert torch.equal(mixed.labels, k_means(data, 4, draws).labels)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), groups=st.integers(1, 4), clusters=st.integers(1, 7))
def test_both_ways_to_sum_a_cluster(seed: int, groups: int, clusters: int) -> None:
    """The GPU's and the CPU's against a loop; clusters without rows, and rows without a cluster, among them."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(groups, 12, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, clusters, (groups, 12), generator=generator)
    used = torch.rand(groups, 12, generator=generator) < 0.7
    for total in (product_sums, scattered_sums):
        sums, sizes = total(rows, labels, used, clusters)
        for g in range(groups):
            for k in range(clusters):
                members = [rows[g, r] for r in range(12) if labels[g, r] == k and used[g, r]]
                assert int(sizes[g, k, 0]) == len(members)
                expected = sum(members, torch.zeros(3, dtype=torch.float64))
                torch.testing.assert_close(sums[g, k], expected, atol=1e-12, rtol=1e-12)


def test_it_repeats_to_the_last_bit() -> None:
    data, draws = random_rows(3, 200), random_draws(3, 9)
    first, second = k_means(data, 9, draws), k_means(data, 9, draws)
    assert torch.equal(first.centres, second.centres)


@pytest.mark.parametrize("clusters", [2, 9, 40])
def test_scikit_learn_goes_the_same_way(clusters: int) -> None:
    """Its Lloyd's rounds from our seeds end with our labels."""
    sklearn = pytest.importorskip("sklearn.cluster")
    data = random_rows(2, 300, width=16, seed=clusters).double()
    everyone = everything(data)
    seeds = seed_centres(data, clusters, random_draws(2, clusters).double(), everyone)
    starts = data.take_along_dim(seeds[..., None], 1)
    found = lloyd(data, starts, everyone, "keep", 200, 1e-12)
    for group in range(2):
        theirs = sklearn.KMeans(clusters, init=starts[group].numpy(), n_init=1, max_iter=200, tol=0).fit(data[group])
        np.testing.assert_array_equal(found.labels[group], theirs.labels_)
        np.testing.assert_allclose(found.centres[group], theirs.cluster_centers_, atol=1e-9)
