"""Nearest images and best pairs against ORL's arrays and plain sorting."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from regionssl.errors import InputError
from regionssl.regions.neighbours import Engine, NearestImages, best_pairs, top

GOLDEN = Path(__file__).parents[1] / "golden"
KNN, PAIRS = np.load(GOLDEN / "orl_knn.npz"), np.load(GOLDEN / "orl_correspondence.npz")
EVERY = torch.arange(200)
ENGINES: list[Engine] = ["torch", "faiss"]


def bank(name: str) -> torch.Tensor:
    return torch.from_numpy(KNN[name])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("block", "columns"), [(1024, 16384), (7, 13), (200, 5), (1, 199)])
@pytest.mark.parametrize("k", [3, 10])
def test_the_release(engine: Engine, block: int, columns: int, k: int) -> None:
    if engine == "faiss":
        pytest.importorskip("faiss")
    found = NearestImages(bank("feats"), engine, block, columns).of(EVERY, k)
    np.testing.assert_array_equal(found.numpy(), KNN[f"knn{k}"])
    some = torch.tensor([5, 199, 0])
    np.testing.assert_array_equal(NearestImages(bank("feats"), engine).of(some, k).numpy(), KNN[f"knn{k}"][some])


@pytest.mark.parametrize("engine", ENGINES)
def test_duplicates_by_the_rule_of_the_release(engine: Engine) -> None:
    """Rows 0, 1 and 150 are equal, so which of them comes first is the library's choice; all else is not."""
    if engine == "faiss":
        pytest.importorskip("faiss")
    rows, expected = bank("dup_feats"), torch.from_numpy(KNN["dup_knn10"])
    found = NearestImages(rows, engine).of(EVERY, 10)
    similar = rows @ rows.T
    torch.testing.assert_close(similar.gather(1, found), similar.gather(1, expected), atol=1e-6, rtol=0)
    merged = torch.arange(200)
    merged[[1, 150]] = 0
    inner = slice(0, 8)  # the last places may be taken by one twin or another
    assert (merged[found] == merged[expected])[:, inner].all()
    assert 1 in found[1], "the image is its own neighbour"


def test_masking_leaves_out_the_image_itself() -> None:
    rows = bank("dup_feats")
    found = NearestImages(rows, "torch", block=17, columns=31).of(EVERY, 10, "mask")
    assert not (found == EVERY[:, None]).any()
    assert found[0, :2].tolist() == [1, 150]
    assert found[150, :2].tolist() == [0, 1]
    many = torch.eye(3)[[0] * 40 + [1]]
    assert not (NearestImages(many, "torch").of(torch.arange(41), 5, "mask") == torch.arange(41)[:, None]).any()


def test_ties_go_to_the_earlier_whatever_the_blocks() -> None:
    rows = F.normalize(torch.tensor([[3.0, 4.0], [4.0, 3.0], [1.0, 0.0]]))[torch.arange(60) % 3]
    whole = NearestImages(rows, "torch").of(torch.arange(60), 25)
    assert whole[2, :19].tolist() == list(range(5, 60, 3))
    for columns in (4, 9, 30):
        assert torch.equal(NearestImages(rows, "torch", 8, columns).of(torch.arange(60), 25), whole)


def test_faiss_is_used_for_many_images_and_changes_nothing() -> None:
    pytest.importorskip("faiss")
    rows = F.normalize(torch.randn(700, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).float()
    search, every = NearestImages(rows), torch.arange(700)
    few = search.of(every[:20], 5)
    assert search.index is None
    many = search.of(every, 5)
    assert search.index is not None
    assert torch.equal(many, NearestImages(rows, "torch").of(every, 5))
    assert torch.equal(many[:20], few)


def test_more_neighbours_than_images() -> None:
    search = NearestImages(bank("feats")[:10])
    assert search.of(torch.arange(10), 9).shape == (10, 9)
    with pytest.raises(InputError, match="10 neighbours of each image need at least 11 images, and there are 10"):
        search.of(torch.arange(10), 10)


def test_a_missing_faiss_is_named_or_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match="pip install faiss-cpu"):
        NearestImages(bank("feats"), "faiss")
    np.testing.assert_array_equal(NearestImages(bank("feats"), "auto").of(EVERY, 3).numpy(), KNN["knn3"])


@settings(max_examples=200)
@given(st.lists(st.lists(st.integers(0, 4), min_size=7, max_size=7), min_size=1, max_size=5), st.integers(1, 7))
def test_top_is_a_stable_sort(rows: list[list[int]], k: int) -> None:
    expected = [sorted(range(7), key=lambda i: (-row[i], i))[:k] for row in rows]
    assert top(torch.tensor(rows).float(), k).tolist() == expected


@pytest.mark.parametrize("case", "abcdefg")
def test_the_pairs_of_the_release(case: str) -> None:
    def rows(name: str) -> torch.Tensor:
        return F.normalize(torch.from_numpy(PAIRS[name]).mean((2, 3)))

    neighbours = [name.removesuffix("_pairs") for name in PAIRS.files if name.startswith(case) and "_pairs" in name]
    assert neighbours
    for name in neighbours:
        found = best_pairs(
            rows(f"{case}_feat"),
            PAIRS[f"{case}_bbox"],
            rows(f"{name}_feat"),
            PAIRS[f"{name}_bbox"],
            float(PAIRS[f"{case}_ratio"]),
        )
        np.testing.assert_array_equal(found, PAIRS[f"{name}_pairs"])


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 10**6))
def test_pairs_are_the_most_similar(own: int, other: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (F.normalize(torch.from_numpy(rng.normal(size=(n, 5)).astype(np.float32))) for n in (own, other))
    boxes, others = (np.arange(4 * n).reshape(n, 4) for n in (own, other))
    similar = (first @ second.T).numpy()
    ranked = sorted(np.ndindex(own, other), key=lambda place: -similar[place])[: max(1, own // 10)]
    expected = [[*boxes[i], *others[j]] for i, j in ranked]
    assert best_pairs(first, boxes, second, others).tolist() == expected
