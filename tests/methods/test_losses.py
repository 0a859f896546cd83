"""InfoNCE in blocks against the whole matrix of logits, and its gradient."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regionssl.methods.losses import blocks, info_nce, unit


def rows(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return unit(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype))


def dense(query: Tensor, positive: Tensor, negatives: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """All logits at once, the positive in column 0."""
    own = (query * positive).sum(-1, keepdim=True)
    logits = torch.cat([own, query @ negatives.mT], -1) / temperature
    target = logits.new_zeros(len(logits), dtype=torch.int64)
    return F.cross_entropy(logits, target, reduction="none"), (logits.argmax(1) == 0).to(logits.dtype)


@pytest.mark.parametrize("limit", [1, 7, 48, 50, 51, 300, 10_000])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_blocks_of_any_size_give_the_same_loss_and_gradient(limit: int, dtype: torch.dtype, tolerance: float) -> None:
    query = rows(13, 6, dtype=dtype)
    positive = unit(query + 0.5 * rows(13, 6, seed=1, dtype=dtype))
    negatives, weights = rows(50, 6, seed=2, dtype=dtype), torch.linspace(-1, 2, 13, dtype=dtype)
    results = []
    for blockwise in (True, False):
        leaf = query.clone().requires_grad_()
        given_rows = (leaf, positive, negatives, 0.2)
        losses, hits = info_nce(*given_rows, limit) if blockwise else dense(*given_rows)
        (losses * weights).sum().backward()
        results.append((losses.detach(), hits, leaf.grad))
    for ours, expected in zip(*results, strict=True):
        # a gradient is a sum that cancels: its rounding is that of the terms, which are as large as its largest element
        torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance * max(1, float(expected.abs().max())))
    assert 0 < float(results[0][1].sum()) < 13


@pytest.mark.parametrize("limit", [5, 40, 80, 1000])
def test_groups_keep_to_their_own_negatives(limit: int) -> None:
    query, positive, negatives = rows(3, 4, 5), rows(3, 4, 5, seed=1), rows(3, 10, 5, seed=2)
    leaf = query.clone().requires_grad_()
    losses, hits = info_nce(leaf, positive, negatives, 0.1, limit)
    losses.sum().backward()
    for group in range(3):
        alone = query[group].clone().requires_grad_()
        loss, hit = dense(alone, positive[group], negatives[group], 0.1)
        loss.sum().backward()
        torch.testing.assert_close(losses[group], loss, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(leaf.grad[group], alone.grad, rtol=1e-12, atol=1e-12)
        assert torch.equal(hits[group], hit)


def test_the_gradient_is_that_of_the_differences() -> None:
    query, positive, negatives = rows(4, 3).requires_grad_(), rows(4, 3, seed=1), rows(6, 3, seed=2)
    assert torch.autograd.gradcheck(lambda q: info_nce(q, positive, negatives, 0.3, 12)[0], query)


def test_keys_take_no_gradient() -> None:
    query, positive, negatives = (rows(4, 3, seed=n).requires_grad_() for n in range(3))
    losses, hits = info_nce(query, positive, negatives, 0.2)
    losses.sum().backward()
    assert positive.grad is None
    assert negatives.grad is None
    assert not hits.requires_grad


def test_without_gradient_there_is_none() -> None:
    losses, _ = info_nce(rows(4, 3), rows(4, 3, seed=1), rows(6, 3, seed=2), 0.2)
    assert not losses.requires_grad
    torch.testing.assert_close(losses, dense(rows(4, 3), rows(4, 3, seed=1), rows(6, 3, seed=2), 0.2)[0])


def test_a_sharp_temperature_overflows_nothing() -> None:
    """Logits of 1,000 in float32; a positive that outweighs all has a loss of 0."""
    query = torch.eye(3).requires_grad_()
    losses, hits = info_nce(query, torch.eye(3), -torch.eye(3), 1e-3)
    losses.sum().backward()
    assert losses.tolist() == [0, 0, 0]
    assert hits.tolist() == [1, 1, 1]
    assert query.grad.isfinite().all()
    missed, hits = info_nce(torch.eye(3), -torch.eye(3), torch.eye(3), 1e-3)
    assert missed.tolist() == pytest.approx([2000, 2000, 2000])
    assert hits.tolist() == [0, 0, 0]


def test_an_equal_negative_does_not_beat_the_positive() -> None:
    _, hits = info_nce(torch.eye(2), torch.eye(2), torch.eye(2), 0.2)
    assert hits.tolist() == [1, 1]


@settings(max_examples=100)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.integers(1, 200))
def test_blocks_cover_everything_once_within_the_limit(groups: int, height: int, columns: int, limit: int) -> None:
    seen = torch.zeros(groups, height, dtype=torch.int64)
    for block in blocks(groups, height, columns, limit):
        assert seen[block].numel() * columns <= max(limit, columns)
        seen[block] += 1
    assert (seen == 1).all()


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        made = result if isinstance(result, tuple | list) else (result,)
        self.elements = max([self.elements, *(r.numel() for r in made if isinstance(r, Tensor))])
        return result


@pytest.mark.parametrize("groups", [1, 4])
def test_the_logits_never_live_at_once(groups: int) -> None:
    query, positive = rows(groups, 64, 4).requires_grad_(), rows(groups, 64, 4, seed=1)
    negatives = rows(groups, 300, 4, seed=2)
    with LargestTensor() as made:
        info_nce(query, positive, negatives, 0.2, 6000)[0].sum().backward()
    assert made.elements <= 6000
