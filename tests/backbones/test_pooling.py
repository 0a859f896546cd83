from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regionssl.backbones.pooling import precise_roi_bins, precise_roi_pool, roi_align_pool

GOLDEN = Path(__file__).parents[1] / "golden"
STRIDES = {"s16": 16, "s8": 8}


@pytest.fixture(scope="module")
def precise():
    return np.load(GOLDEN / "resim_prroi.npz")


@pytest.fixture(scope="module")
def align():
    return np.load(GOLDEN / "scrl_roialign.npz")


def leaf(array: np.ndarray, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(array).to(dtype).requires_grad_()


def split(rois: np.ndarray) -> tuple[Tensor, Tensor]:
    """Image of each row, and the boxes as one image each: (R,), (R, 1, 4)."""
    return torch.from_numpy(rois[:, 0]).long(), torch.from_numpy(rois[:, None, 1:])


class TestPreciseReference:
    @pytest.mark.parametrize("scale", STRIDES)
    def test_float64(self, precise, scale):
        features, (image, boxes) = leaf(precise["features"]), split(precise["rois"])
        out = precise_roi_pool(features[image], boxes, STRIDES[scale])
        out.backward(torch.from_numpy(precise["top_grad"][:, None, :, 0, 0]))
        np.testing.assert_allclose(out.detach()[:, 0], precise[f"out_{scale}_f64"][..., 0, 0], rtol=0, atol=1e-12)
        np.testing.assert_allclose(features.grad, precise[f"grad_{scale}_f64"], rtol=0, atol=1e-12)

    @pytest.mark.parametrize("scale", STRIDES)
    @pytest.mark.parametrize("boxes_dtype", [torch.float32, torch.float64])
    def test_float32(self, precise, scale, boxes_dtype):
        features, (image, boxes) = leaf(precise["features"], torch.float32), split(precise["rois"])
        out = precise_roi_pool(features[image], boxes.to(boxes_dtype), STRIDES[scale])
        assert out.dtype == torch.float32
        out.backward(torch.from_numpy(precise["top_grad"][:, None, :, 0, 0]).float())
        np.testing.assert_allclose(out.detach()[:, 0], precise[f"out_{scale}_f32"][..., 0, 0], rtol=0, atol=5e-6)
        np.testing.assert_allclose(features.grad, precise[f"grad_{scale}_f32"], rtol=0, atol=5e-6)

    def test_bins(self, precise):
        features, (image, boxes) = leaf(precise["features"]), split(precise["rois"])
        out = precise_roi_bins(features[image], boxes, 16, (3, 2))
        assert out.shape == (15, 1, 3, 3, 2)
        out.backward(torch.from_numpy(precise["top_grad_3x2"][:, None]))
        np.testing.assert_allclose(out.detach()[:, 0], precise["out_3x2_s16_f64"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(features.grad, precise["grad_3x2_s16_f64"], rtol=0, atol=1e-12)


def mean_by_sampling(features: Tensor, box: tuple[float, ...], samples: int) -> Tensor:
    """Midpoint sum of the bilinear surface of (C, h, w) over a box in cells."""
    x0, y0, x1, y1 = box
    middles = (torch.arange(samples, dtype=features.dtype) + 0.5) / samples
    u, v = x0 + middles * (x1 - x0), y0 + middles * (y1 - y0)
    total = torch.zeros(len(features), dtype=features.dtype)
    for i in range(features.shape[1]):
        for j in range(features.shape[2]):
            tent = (1 - (v - i).abs()).clamp(min=0)[:, None] * (1 - (u - j).abs()).clamp(min=0)[None, :]
            total += features[:, i, j] * tent.mean()
    return total


class TestPreciseProperties:
    @given(
        corner=st.tuples(st.floats(-2, 4), st.floats(-2, 4)),
        extent=st.tuples(st.floats(0.3, 4), st.floats(0.3, 4)),
        seed=st.integers(0, 99),
    )
    @settings(max_examples=40)
    def test_equals_a_fine_sum_over_the_surface(self, corner, extent, seed):
        features = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        box = (*corner, corner[0] + extent[0], corner[1] + extent[1])
        boxes = 16 * torch.tensor(box, dtype=torch.float64)[None, None]
        expected = mean_by_sampling(features, box, 500)
        torch.testing.assert_close(precise_roi_pool(features[None], boxes, 16)[0, 0], expected, rtol=0, atol=1e-3)

    @pytest.mark.parametrize(
        ("stride", "window", "weights"), [(16, 48, [1, 2, 2, 1]), (8, 32, [1, 2, 2, 2, 1])], ids=["p4", "p3"]
    )
    def test_grid_windows_are_constant_kernels(self, stride, window, weights):
        features = (
            torch.eye(8, dtype=torch.float64).reshape(1, 8, 1, 8).expand(-1, -1, 8, -1)
        )  # channel j marks column j
        pooled = precise_roi_pool(features, torch.tensor([[[stride, 0, stride + window, window]]]).double(), stride)
        expected = torch.zeros(8, dtype=torch.float64)
        expected[1 : 1 + len(weights)] = torch.tensor(weights).double() / sum(weights)
        torch.testing.assert_close(pooled[0, 0], expected)

    @pytest.mark.parametrize("box", [(5, 5, 5, 40), (5, 40, 60, 40), (40, 5, 10, 40), (60, 60, 5, 5)])
    def test_a_box_without_area_gives_zeros_and_no_gradient(self, box):
        features = torch.randn(1, 2, 6, 6, requires_grad=True)
        out = precise_roi_pool(features, torch.tensor([[box]]).float(), 16)
        out.sum().backward()
        assert not out.any()
        assert not features.grad.any()

    def test_parts_beyond_the_map_count_as_zero(self):
        features = torch.ones(1, 1, 4, 4)
        inside, half = [[0, 0, 48, 48]], [[48 + 16, 0, 48 + 48, 48]]
        boxes = torch.tensor([inside + half]).float()
        torch.testing.assert_close(precise_roi_pool(features, boxes, 16)[0, :, 0], torch.tensor([1.0, 0.0]))

    def test_bins_average_to_the_whole_and_keep_rows_and_columns_apart(self):
        torch.manual_seed(0)
        features = torch.randn(2, 3, 7, 9, dtype=torch.float64)
        boxes = torch.tensor([[[10.0, 20, 70, 90]], [[-5, 0, 100, 33]]], dtype=torch.float64)
        bins = precise_roi_bins(features, boxes, 10, (2, 5))
        torch.testing.assert_close(bins.mean((-1, -2)), precise_roi_pool(features, boxes, 10))
        lower_left = torch.tensor([[[10.0, 55, 22, 90]], [[-5, 16.5, 16, 33]]], dtype=torch.float64)
        torch.testing.assert_close(bins[..., 1, 0], precise_roi_pool(features, lower_left, 10))

    def test_coordinates_take_no_gradient(self):
        boxes = torch.tensor([[[0.0, 0, 20, 20]]], requires_grad=True)
        features = torch.randn(1, 2, 4, 4, requires_grad=True)
        precise_roi_pool(features, boxes, 8).sum().backward()
        assert boxes.grad is None
        assert features.grad.any()

    def test_gradient_by_finite_differences(self):
        features = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
        boxes = torch.rand(2, 3, 2, dtype=torch.float64) * 10
        boxes = torch.cat([boxes, boxes + 12], -1)
        assert torch.autograd.gradcheck(lambda x: precise_roi_pool(x, boxes, 7), features)


class TestRoiAlign:
    @pytest.mark.parametrize(("tag", "aligned"), [("scrl_default", False), ("aligned", True)])
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
    def test_reference(self, align, tag, aligned, dtype, tolerance):
        features, (image, boxes) = leaf(align["features"], dtype), split(align["rois"])
        out = roi_align_pool(features[image], boxes, 32, aligned=aligned)
        out.backward(torch.from_numpy(align[f"{tag}.upstream"][:, None, :, 0, 0]).to(dtype))
        assert out.dtype == dtype
        np.testing.assert_allclose(out.detach()[:, 0], align[f"{tag}.out"][..., 0, 0], rtol=0, atol=tolerance)
        np.testing.assert_allclose(features.grad, align[f"{tag}.grad_features"], rtol=0, atol=tolerance)

    def test_is_not_aligned_by_default(self, align):
        features, (image, boxes) = torch.from_numpy(align["features"]), split(align["rois"])
        out = roi_align_pool(features[image], boxes, 32)
        np.testing.assert_allclose(out[:, 0], align["scrl_default.out"][..., 0, 0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("pooling", [precise_roi_pool, roi_align_pool])
class TestBoth:
    def test_boxes_belong_to_their_image(self, pooling):
        features = torch.randn(3, 2, 5, 5)
        boxes = torch.tensor([0.0, 0, 20, 20]) + torch.rand(3, 4, 4) * 15
        together = pooling(features, boxes, 8)
        assert together.shape == (3, 4, 2)
        for image in range(3):
            for k in range(4):
                alone = pooling(features[image : image + 1], boxes[image : image + 1, k : k + 1], 8)
                torch.testing.assert_close(together[image, k], alone[0, 0])

    def test_float64_boxes_and_expanded_boxes_and_channels_last(self, pooling):
        features = torch.randn(2, 4, 5, 5)
        boxes = torch.tensor([[1.0, 2, 30, 25], [5, 5, 20, 38]]).double().expand(2, -1, -1)
        expected = pooling(features, boxes.float().clone(), 8)
        actual = pooling(features.to(memory_format=torch.channels_last), boxes, 8)
        torch.testing.assert_close(actual, expected)

    def test_no_boxes(self, pooling):
        features = torch.randn(2, 4, 5, 5, requires_grad=True)
        out = pooling(features, torch.zeros(2, 0, 4), 8)
        assert out.shape == (2, 0, 4)
        out.sum().backward()
        assert not features.grad.any()

    def test_half_precision_is_computed_in_float32(self, pooling):
        features = torch.randn(2, 4, 9, 9).bfloat16()
        boxes = torch.tensor([[[3.3, 2.1, 60.7, 55.9]]]).expand(2, -1, -1)
        exact = pooling(features.float(), boxes, 8)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half, full = pooling(features, boxes, 8), pooling(features.float(), boxes, 8)
        assert half.dtype == torch.bfloat16
        assert torch.equal(half, exact.bfloat16())
        assert torch.equal(full, exact)
