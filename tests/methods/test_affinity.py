"""PLRC's distillation in blocks of images and points against one image and one point at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regionssl.methods.affinity import distillation, point_blocks, teacher_rows
from regionssl.regions.points import interpolation, near_points

SIDE, CELLS, WIDTH, IMAGES = 5, 9, 7, 4


def factors(seed: int) -> Tensor:
    return torch.randn(IMAGES, CELLS, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def views() -> tuple[Tensor, Tensor]:
    """Student and teacher: the same, overlapping, apart, mirrored."""
    whole = [0.1, 0.1, 0.6, 0.7]
    student = torch.tensor([whole] * IMAGES, dtype=torch.float64)
    teacher = torch.tensor([whole, [0.3, 0.2, 0.9, 0.8], [0.8, 0.8, 0.9, 0.9], [0.6, 0.1, 0.1, 0.7]])
    return student, teacher.double()


@pytest.mark.parametrize("limit", [1, 10, 200, 700, 10**6])
def test_teacher_rows_equal_those_of_one_point_after_another(limit: int) -> None:
    lattice, teacher, centre = interpolation(SIDE, 3, factors(0)), factors(0), torch.linspace(-1, 1, WIDTH).double()
    boxes = views()
    found = teacher_rows(teacher, boxes, lattice, 0.5, 0.3, centre, limit)
    near = near_points(*boxes, SIDE, 0.5)
    row_sum = torch.zeros(WIDTH, dtype=torch.float64)
    for n in range(IMAGES):
        pull = torch.zeros(CELLS, WIDTH, dtype=torch.float64)
        for i, j in near[n].nonzero().tolist():
            row = lattice[j] @ teacher[n]
            pull += lattice[i][:, None] * ((row - centre) / 0.3).softmax(0)
            row_sum += row
        torch.testing.assert_close(found.pull[n], pull, rtol=1e-12, atol=1e-12)
        assert found.partners[n].tolist() == near[n].sum(1).tolist()
    torch.testing.assert_close(found.row_sum, row_sum, rtol=1e-12, atol=1e-12)
    assert not found.partners[2].any()
    assert found.partners[0].any()


@pytest.mark.parametrize("limit", [1, 10, 50, 400, 10**6])
def test_distillation_equals_that_of_one_point_after_another(limit: int) -> None:
    lattice, pull = interpolation(SIDE, 3, factors(0)), factors(1)
    partners = torch.randint(0, 3, (IMAGES, SIDE**2), generator=torch.Generator().manual_seed(0)).double()
    partners[2] = 0
    weights = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    ours, slow = factors(0).requires_grad_(), factors(0).requires_grad_()
    totals = distillation(ours, pull, partners, lattice, 0.4, limit)
    (totals * weights).sum().backward()
    expected = []
    for n in range(IMAGES):
        rows = lattice @ slow[n] / 0.4
        partition = sum(partners[n, i] * rows[i].exp().sum().log() for i in range(SIDE**2))
        expected.append(partition - (pull[n] * slow[n]).sum() / 0.4)
    torch.testing.assert_close(totals, torch.stack(expected), rtol=1e-12, atol=1e-12)
    (torch.stack(expected) * weights).sum().backward()
    torch.testing.assert_close(ours.grad, slow.grad, rtol=1e-12, atol=1e-12)


@settings(max_examples=60)
@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 5), st.integers(1, 60), st.integers(0, 10_000))
def test_blocks_cover_every_wanted_point_once(images: int, points: int, width: int, limit: int, seed: int) -> None:
    wanted = torch.rand(images, points, generator=torch.Generator().manual_seed(seed)) < 0.5
    seen = torch.zeros_like(wanted, dtype=torch.int64)
    for block, part in point_blocks(wanted, width, limit):
        assert part.numel() * width <= max(limit, width)
        assert len(block.unique()) == len(block)
        seen[block[:, None], part] += 1
    assert seen.max() <= 1
    assert (seen[wanted] == 1).all()
