"""Points of regions, reading there and nearness, against the reference arrays of PLRC (specification, section 8)."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regionssl import counted
from regionssl.counted import Stream
from regionssl.geometry import Crops, centre_fractions, lattice_boxes
from regionssl.regions.points import draw_points, draws_shape, interpolation, near_points, read_points

GOLDEN = Path(__file__).parents[1] / "golden"


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"plrc_{name}.npz") as file:
        return dict(file)


def test_reading_at_lattice_points() -> None:
    """Equation 2.2; the release's own mapping is another, but reads nearly the same directions (section 2.4)."""
    golden = load("points")
    x, y = torch.from_numpy(golden["uv_xy"]).unbind(1)
    cells = torch.from_numpy(golden["feat"]).flatten(1).T[None]
    values = read_points(cells, (y * 56 + x)[None], 56)[0].numpy()
    np.testing.assert_allclose(values, golden["val_centre"], atol=1e-12)
    boxes = lattice_boxes(y * 56 + x, 56, 7)
    np.testing.assert_allclose(boxes[:, ::2].mean(1) - 0.5, golden["x_centre"], atol=1e-12)
    np.testing.assert_allclose(boxes[:, 1::2].mean(1) - 0.5, golden["y_centre"], atol=1e-12)
    release = golden["val_release"]
    cosine = (values * release).sum(1) / np.linalg.norm(values, axis=1) / np.linalg.norm(release, axis=1)
    assert cosine.min() > 0.98
    transposed = read_points(cells, (x * 56 + y)[None], 56)[0].numpy()
    assert np.abs(transposed - golden["val_centre"]).max() > 0.1, "x is the column"


@pytest.mark.parametrize(("side", "cells"), [(56, 7), (32, 4), (16, 2), (8, 8), (5, 3)])
def test_the_interpolation_matrix_is_half_pixel_bilinear(side: int, cells: int) -> None:
    maps = torch.randn(1, 3, cells, cells, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    enlarged = F.interpolate(maps, side, mode="bilinear").flatten(2)[0].T
    torch.testing.assert_close(interpolation(side, cells, maps) @ maps.flatten(2)[0].T, enlarged, atol=1e-14, rtol=0)


def test_near_points_are_those_of_the_release() -> None:
    """Equation 2.4, to the last bit."""
    golden = load("overlap")
    boxes = torch.from_numpy(golden["box_s"]), torch.from_numpy(golden["box_t"])
    np.testing.assert_array_equal(near_points(*boxes, 7, 0.5).numpy(), golden["mask7"])
    for n in range(2):
        near = near_points(boxes[0][n : n + 1], boxes[1][n : n + 1], 56, 0.5)[0]
        assert int(near.sum()) == golden["count56"][n]
        np.testing.assert_array_equal(near.sum(1).numpy(), golden["rowsum56"][n])
    assert golden["count7"].tolist() == near_points(*boxes, 7, 0.5).sum((1, 2)).tolist()


def test_crops_as_fractions_of_the_image() -> None:
    """Equation 2.3."""
    golden = load("regions")
    top, left, height, width = torch.from_numpy(golden["crops_tlhw"]).double().unbind(1)
    crops = Crops(
        torch.stack([left, top, left + width, top + height], 1), torch.from_numpy(golden["flips"]).bool(), 224
    )
    boxes = centre_fractions(crops, torch.from_numpy(golden["sizes_wh"]).double())
    np.testing.assert_allclose(boxes.numpy(), golden["boxes"], atol=1e-15)


def uniform(images: int, regions: int, points: int, epoch: int = 0) -> Tensor:
    return counted.uniform(draws_shape(regions, points), 3, Stream.POINTS, epoch, torch.arange(images))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    side=st.integers(1, 6),
    labels=st.integers(1, 9),
    shift=st.integers(0, 6),
    regions=st.integers(1, 5),
    points=st.integers(1, 4),
)
def test_points_lie_in_their_regions(seed: int, side: int, labels: int, shift: int, regions: int, points: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randint(0, labels, (5, side, side), generator=generator) for _ in range(2))
    second = (second + shift) * 1000 - 7  # any integers will do
    first = first * 1000 - 7
    drawn = draw_points(first, second, regions, points, uniform(5, regions, points, seed))
    assert drawn.cells.shape == (5, 2, regions, points)
    for n in range(5):
        shown = [set(lattice[n].flatten().tolist()) for lattice in (first, second)]
        common = shown[0] & shown[1]
        assert bool(drawn.valid[n]) == (bool(common) and min(map(len, shown)) >= 2)
        if common:
            assert drawn.regions[n, 0, 0] == drawn.regions[n, 1, 0]
            assert int(drawn.regions[n, 0, 0]) in common
        for view, lattice in enumerate((first, second)):
            labels_read = lattice[n].flatten()[drawn.cells[n, view]]
            assert torch.equal(labels_read, drawn.regions[n, view, :, None].expand(regions, points))
            if len(shown[view]) >= 2:
                assert (drawn.regions[n, view, 1:] != drawn.regions[n, view, 0]).all()


def test_regions_and_points_are_drawn_evenly() -> None:
    """Regions evenly whatever their size, points evenly over the cells of the region (section 2.3)."""
    first = torch.tensor([[1, 1, 1], [1, 2, 2], [3, 4, 4]]).expand(8000, 3, 3)
    second = torch.tensor([[2, 2, 2], [2, 2, 2], [1, 4, 9]]).expand(8000, 3, 3)
    drawn = draw_points(first, second, 3, 2, uniform(8000, 3, 2))
    common = torch.bincount(drawn.regions[:, 0, 0], minlength=10) / 8000
    np.testing.assert_allclose(common[[1, 2, 4]], 1 / 3, atol=0.02)
    assert float(common.sum()) == pytest.approx(float(common[[1, 2, 4]].sum()))
    ones = drawn.regions[:, 0, 0] == 1
    cells = torch.bincount(drawn.cells[ones, 0, 0].flatten(), minlength=9) / (2 * ones.sum())
    np.testing.assert_allclose(cells, [0.25, 0.25, 0.25, 0.25, 0, 0, 0, 0, 0], atol=0.02)
    others = torch.bincount(drawn.regions[ones, 1, 1:].flatten(), minlength=10) / (2 * ones.sum())
    np.testing.assert_allclose(others[[2, 4, 9]], 1 / 3, atol=0.02)
    places = drawn.cells[ones][:, 1, 1:][drawn.regions[ones, 1, 1:] == 2].flatten()
    np.testing.assert_allclose(torch.bincount(places, minlength=9)[:6] / len(places), 1 / 6, atol=0.02)


def test_views_draw_their_points_independently() -> None:
    lattice = torch.arange(4).repeat_interleave(16).view(1, 8, 8).expand(500, 8, 8)
    drawn = draw_points(lattice, lattice, 2, 4, uniform(500, 2, 4))
    assert 0.02 < float((drawn.cells[:, 0, 0] == drawn.cells[:, 1, 0]).double().mean()) < 0.12
    assert 0.2 < float((drawn.regions[:, 0, 1] == drawn.regions[:, 1, 1]).double().mean()) < 0.47


def test_the_last_uniform_number_stays_inside() -> None:
    lattice = torch.randint(0, 3, (4, 7, 7), generator=torch.Generator().manual_seed(0))
    largest = torch.full((4, *draws_shape(3, 5)), 1 - 2.0**-53, dtype=torch.float64)
    drawn = draw_points(lattice, lattice, 3, 5, largest)
    assert torch.equal(
        lattice.flatten(1).gather(1, drawn.cells[:, 0].flatten(1)).view(4, 3, 5)[..., 0], drawn.regions[:, 0]
    )
    assert (drawn.regions[:, 0, 0] == 2).all()
