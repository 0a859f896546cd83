"""Targets and losses of the dense-pose head against loops over cells and points."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from body_scenes import dense_fields, surface_at

from regionssl.evaluation.densepose.annotations import read_dense_pose
from regionssl.evaluation.densepose.head import DenseOutput, DensePoseHead
from regionssl.evaluation.densepose.losses import RegionTargets, dense_pose_losses, region_targets

DENSE = read_dense_pose(dense_fields(np.random.default_rng(2), 30), "x")
BOX = torch.tensor([[10.0, 20.0, 50.0, 80.0]])
TARGET = {
    "dense_body": torch.from_numpy(DENSE.body())[None],
    "dense_places": torch.from_numpy(DENSE.places).float()[None],
    "dense_part": torch.from_numpy(DENSE.points.part)[None],
    "dense_uv": torch.from_numpy(np.stack([DENSE.points.u, DENSE.points.v], -1)).float()[None],
}


def targets(regions: torch.Tensor, coarse: int = 15) -> RegionTargets:
    return region_targets(regions, torch.zeros(len(regions), dtype=torch.int64), BOX, TARGET, 8, coarse)


def test_body_and_points_of_regions() -> None:
    regions = torch.tensor([[10.0, 20.0, 50.0, 80.0], [0.0, 35.0, 33.0, 71.0]])
    found = targets(regions)
    for r, (x0, y0, x1, y1) in enumerate(regions.tolist()):
        for row in range(8):
            for column in range(8):
                x, y = x0 + (column + 0.5) * (x1 - x0) / 8, y0 + (row + 0.5) * (y1 - y0) / 8
                share = np.array([(x - 10) / 40, (y - 20) / 60])
                inside = (share >= 0).all() and (share < 1).all()
                assert found.body[r, row, column] == (surface_at(share).part + 1 if inside else 0)
        for point, (across, down) in enumerate(DENSE.places.tolist()):
            x, y = 10 + 40 * across, 20 + 60 * down
            within = x0 <= x <= x1 and y0 <= y <= y1
            assert found.part[r, point] == (DENSE.points.part[point] if within else 0)
            assert found.grid[r, point, 0].item() == pytest.approx(2 * (x - x0) / (x1 - x0) - 1, abs=1e-5)
    assert (targets(regions, coarse=2).body == (found.body > 0)).all()


def test_losses_are_those_of_a_loop() -> None:
    torch.manual_seed(0)
    found = targets(torch.tensor([[10.0, 20.0, 50.0, 80.0], [0.0, 35.0, 33.0, 71.0]]))
    output = DenseOutput(*(torch.randn(2, c, 8, 8) for c in (15, 25, 24, 24)))
    losses = dense_pose_losses(output, found, body=5.0, part=2.0, uv=0.01)
    parts, u, v = [], 0.0, 0.0
    for r in range(2):
        for p in torch.where(found.part[r] > 0)[0]:
            place, part = found.grid[r, p].view(1, 1, 1, 2), found.part[r, p]
            at = [
                F.grid_sample(m[r : r + 1], place, padding_mode="border", align_corners=False).flatten()
                for m in (output.part, output.u, output.v)
            ]
            parts.append(F.cross_entropy(at[0][None], part[None]))
            u += F.smooth_l1_loss(at[1][part - 1], found.uv[r, p, 0]).item()
            v += F.smooth_l1_loss(at[2][part - 1], found.uv[r, p, 1]).item()
    assert losses["loss_body"].item() == pytest.approx(5 * F.cross_entropy(output.body, found.body).item(), rel=1e-5)
    assert losses["loss_part"].item() == pytest.approx(2 * torch.stack(parts).mean().item(), rel=1e-5)
    assert losses["loss_u"].item() == pytest.approx(0.01 * u, rel=1e-5)
    assert losses["loss_v"].item() == pytest.approx(0.01 * v, rel=1e-5)


def test_without_regions_or_points_the_losses_are_zero_and_have_a_gradient() -> None:
    head = DensePoseHead(4, 1, 8, 2)
    none = targets(torch.zeros(0, 4))
    losses = dense_pose_losses(head(torch.zeros(0, 4, 14, 14)), none, 1, 1, 1)
    assert {name: loss.item() for name, loss in losses.items()} == dict.fromkeys(losses, 0.0)
    sum(losses.values()).backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in head.parameters())
    aside = targets(torch.tensor([[200.0, 200.0, 240.0, 240.0]]))
    assert not aside.body.any()
    assert not aside.part.any()


def test_the_head_has_four_times_the_cells_and_reads_out_the_likeliest() -> None:
    output = DensePoseHead(6, 2, 8, 15)(torch.randn(3, 6, 14, 14))
    assert [tuple(one.shape) for one in (output.body, output.part, output.u, output.v)] == [
        (3, 15, 56, 56),
        (3, 25, 56, 56),
        (3, 24, 56, 56),
        (3, 24, 56, 56),
    ]
    read = output.read_out()
    for r, row, column in ((0, 0, 0), (1, 30, 7), (2, 55, 55)):
        body, part = output.body[r, :, row, column].argmax(), output.part[r, :, row, column].argmax()
        expected = int(part) if body > 0 else 0
        assert read["dense_part"][r, row, column] == expected
        u = output.u[r, expected - 1, row, column].clamp(0, 1).item() if expected else 0
        assert read["dense_u"][r, row, column] == round(u * 255)
