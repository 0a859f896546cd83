"""PLRC's region contrast in blocks of anchors against all at once. The equations: ``test_plrc_reference.py``."""

import pytest
import torch

from regionssl.methods.losses import unit
from regionssl.methods.region_contrast import PointLabels, region_contrast


@pytest.mark.parametrize(("intra_image", "cross"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("limit", [1, 40, 41, 130, 999])
def test_blocks_of_any_size_give_the_same_loss_and_gradient(limit: int, intra_image: bool, cross: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    image, region, view = (torch.randint(0, n, (40,), generator=generator) for n in (3, 3, 2))
    labels, anchors = PointLabels(image, region, view), torch.arange(0, 40, 2)
    weights = torch.linspace(-1, 1, 20, dtype=torch.float64)
    results = []
    for elements in (limit, 10**6):
        leaf = raw.clone().requires_grad_()
        losses, found = region_contrast(unit(leaf), labels, anchors, 0.2, intra_image, cross, elements)
        (losses * weights).sum().backward()
        results.append((losses.detach(), leaf.grad, found.double()))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_no_anchors_no_losses() -> None:
    points, nothing = unit(torch.randn(4, 3)), torch.empty(0, dtype=torch.int64)
    labels = PointLabels(torch.zeros(4).long(), torch.zeros(4).long(), torch.zeros(4).long())
    losses, found = region_contrast(points, labels, nothing, 0.2, True, False)
    assert losses.shape == found.shape == (0,)
