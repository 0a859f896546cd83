"""ReSim's windows against the release's own coordinates (``golden/resim_geometry.npz``, ReSim section 8)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regionssl import counted
from regionssl.counted import Stream
from regionssl.data.views import CropDraw, ViewPlan, ViewSpec, draw_crops
from regionssl.errors import InputError
from regionssl.geometry import Crops
from regionssl.regions.windows import matched_windows, window_grid

GOLDEN = Path(__file__).parents[1] / "golden"
LEVELS = {"p4": (48, 32), "p3": (32, 24)}


def crops_of(tlhw: np.ndarray, size: int = 224) -> Crops:
    t = torch.from_numpy(tlhw).double()
    box = torch.stack([t[:, 1], t[:, 0], t[:, 1] + t[:, 3], t[:, 0] + t[:, 2]], 1)
    return Crops(box, torch.zeros(len(t), dtype=torch.bool), size)


@pytest.mark.parametrize("level", LEVELS)
def test_the_release_to_the_last_bit(level: str) -> None:
    grid = window_grid(224, *LEVELS[level])
    with np.load(GOLDEN / "resim_geometry.npz") as data:
        query, key = crops_of(data["crop_q_tlhw"]), crops_of(data["crop_k_tlhw"])
        windows, valid = matched_windows(grid, query, key)
        np.testing.assert_array_equal(grid.expand(len(query), -1, -1).numpy(), data[f"{level}_q"])
        np.testing.assert_array_equal(windows.numpy(), data[f"{level}_k"])
        np.testing.assert_array_equal(valid.numpy(), data[f"{level}_label"] == 0)
        assert not valid.all()


@pytest.mark.parametrize(
    ("size", "window", "stride", "per_axis"),
    [(224, 48, 32, 6), (224, 32, 24, 8), (128, 48, 32, 3), (128, 32, 24, 4), (96, 32, 32, 2), (33, 32, 24, 1)],
)
def test_windows_per_axis(size: int, window: int, stride: int, per_axis: int) -> None:
    assert len(window_grid(size, window, stride)) == per_axis**2


@settings(max_examples=40)
@given(st.integers(8, 300), st.integers(1, 60), st.integers(4, 60))
def test_grid_is_every_window_that_ends_before_the_border(size: int, window: int, stride: int) -> None:
    if window >= size:
        with pytest.raises(InputError, match=f"a window of {window} pixels does not fit into a view of {size}"):
            window_grid(size, window, stride)
        return
    expected = [
        [x, y, x + window, y + window]
        for y in range(0, size, stride)
        for x in range(0, size, stride)
        if x + window < size and y + window < size
    ]
    assert window_grid(size, window, stride).tolist() == expected


def test_invalid_windows_are_the_dummy_and_valid_ones_lie_inside() -> None:
    generator = np.random.default_rng(0)
    corners, extents = generator.integers(0, 200, (50, 2)), generator.integers(20, 300, (50, 2))
    query = crops_of(np.concatenate([corners, extents], 1), 128)
    key = crops_of(np.concatenate([corners[::-1], extents], 1), 128)
    windows, valid = matched_windows(window_grid(128, 32, 24), query, key)
    assert valid.any()
    assert not valid.all()
    assert (windows[~valid] == torch.tensor([0.0, 0.0, 1.0, 1.0])).all()
    assert (windows[valid][:, :2] >= 0).all()
    assert (windows[valid][:, 2:] < 128).all()


def test_equal_crops_keep_all_windows_and_their_places() -> None:
    """ReSim, section 7, item 12: the left edge maps to exactly 0, so nothing is lost."""
    generator = np.random.default_rng(1)
    t = np.concatenate([generator.integers(0, 999, (200, 2)), generator.integers(1, 2000, (200, 2))], 1)
    grid = window_grid(224, 32, 24)
    windows, valid = matched_windows(grid, crops_of(t), crops_of(t))
    assert valid.all()
    torch.testing.assert_close(windows, grid.expand(200, -1, -1), rtol=0, atol=1e-9)


def test_a_shared_mirror_changes_nothing_but_the_side() -> None:
    """Crops of a mirrored image are mirrored crops; two views mirrored alike hold mirrored windows together."""
    query, key = crops_of(np.array([[10, 20, 200, 180]])), crops_of(np.array([[0, 40, 230, 240]]))
    both = torch.tensor([True])
    grid = window_grid(224, 48, 32)
    windows, valid = matched_windows(grid, Crops(query.box, both, 224), Crops(key.box, both, 224))
    width = 500.0

    def mirrored(crops: Crops) -> Crops:
        x0, y0, x1, y1 = crops.box.unbind(-1)
        return Crops(torch.stack([width - x1, y0, width - x0, y1], -1), ~both, 224)

    expected, expected_valid = matched_windows(grid, mirrored(query), mirrored(key))
    assert torch.equal(valid, expected_valid)
    torch.testing.assert_close(windows, expected)


def test_statistics_of_the_release() -> None:
    """ReSim, section 2.5: 4000 pairs of crops of a 500 x 375 image."""
    plan = ViewPlan(views=(ViewSpec(), ViewSpec()), shared_flip=True)
    pairs = [draw_crops(plan, 500, 375, counted.generator(0, Stream.VIEWS, 0, i)) for i in range(4000)]

    def crops(view: int) -> Crops:
        draws: list[CropDraw] = [pair[view] for pair in pairs]
        return Crops(
            torch.tensor([d.box for d in draws], dtype=torch.float64), torch.tensor([d.flip for d in draws]), 224
        )

    expected = {"p4": (19.8, 0.024), "p3": (38.7, 0.017)}
    for level, (mean, without) in expected.items():
        windows, valid = matched_windows(window_grid(224, *LEVELS[level]), crops(0), crops(1))
        assert valid.sum(1).double().mean().item() == pytest.approx(mean, rel=0.015)
        assert (~valid.any(1)).double().mean().item() == pytest.approx(without, abs=0.006)
        if level == "p4":
            width = (windows[..., 2] - windows[..., 0])[valid]
            shape = np.quantile(width.numpy(), [0.01, 0.05, 0.5, 0.95, 0.99])
            assert shape.tolist() == pytest.approx([21, 25, 43, 72, 89], abs=2)
            assert width.max() <= 131.5
