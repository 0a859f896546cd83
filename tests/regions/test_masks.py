"""Region masks against the authors' arrays (``golden/r2o_masks.npz``; R2O, section 9) and slow oracles."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from regionssl.geometry import Crops, cell_neighbours, on_lattice
from regionssl.regions.masks import corner_regions, hard_masks, label_map, masks_in_crop, pool_masks, soft_regions

with np.load(Path(__file__).parents[1] / "golden" / "r2o_masks.npz") as file:
    GOLDEN = {name: torch.from_numpy(file[name]) for name in file.files if name != "versions"}
REGIONS = GOLDEN["slic"].long()
SLOTS = GOLDEN["labels"].shape[1]
WHOLE = Crops(torch.tensor([[0.0, 0, 1, 1]]).double().expand(3, 4), torch.zeros(3, dtype=torch.bool), 224)


def golden_crops(view: int, mirrored: bool) -> Crops:
    """The golden crops as shares of the image."""
    roi = GOLDEN["roi"][:, view].double()
    return Crops(roi[:, [1, 0, 3, 2]], (roi[:, 4] == 1) & mirrored, 224)


@pytest.mark.parametrize("cells", [14, 56])
def test_soft_regions(cells: int) -> None:
    assert torch.equal(soft_regions(REGIONS, SLOTS, cells) * 4, GOLDEN[f"soft{cells}_x4"].float())


def test_pooled_regions() -> None:
    pooled = pool_masks(GOLDEN["feats14"], soft_regions(REGIONS, SLOTS, 14))
    torch.testing.assert_close(pooled, GOLDEN["pooled14"], atol=1e-5, rtol=0)


def test_label_map_of_the_release() -> None:
    assert torch.equal(label_map(GOLDEN["labels"], REGIONS, 56, "blend"), GOLDEN["label_map56_official"].long())


def test_largest_region() -> None:
    own = torch.arange(SLOTS).expand(3, -1)
    assert torch.equal(label_map(own, REGIONS, 56), GOLDEN["hard_superpixel56"].long())
    clean = label_map(GOLDEN["labels"], REGIONS, 56)
    assert torch.equal(clean, GOLDEN["labels"].gather(1, GOLDEN["hard_superpixel56"].long().flatten(1)).view(3, 56, 56))
    assert (clean != GOLDEN["label_map56_official"]).any()


@pytest.mark.parametrize("view", [0, 1])
@pytest.mark.parametrize("mirrored", [False, True])
def test_masks_in_crops(view: int, mirrored: bool) -> None:
    masks = hard_masks(GOLDEN["label_map56_official"].long(), 6)
    seen = masks_in_crop(masks, golden_crops(view, mirrored), WHOLE, 7)
    suffix = "" if mirrored else "_noflip"
    torch.testing.assert_close(seen, GOLDEN[f"aligned{view + 1}{suffix}"], atol=2e-5, rtol=0)
    torch.testing.assert_close(seen.sum(1), torch.ones(3, 7, 7), atol=1e-5, rtol=0)
    if mirrored and view == 0:
        pooled = pool_masks(GOLDEN["feat7"], seen)
        torch.testing.assert_close(pooled, GOLDEN["region_feat_view1"], atol=1e-5, rtol=0)


def test_superpixels_themselves_as_masks() -> None:
    seen = masks_in_crop(soft_regions(REGIONS, SLOTS, 56), golden_crops(0, False), WHOLE, 7)
    torch.testing.assert_close(seen, GOLDEN["aligned1_soft_slic_noflip"], atol=2e-5, rtol=0)


@settings(max_examples=30)
@given(points=st.integers(1, 40), cells=st.integers(1, 20), slots=st.integers(1, 9), seed=st.integers(0, 999))
def test_soft_regions_are_interpolated_one_hots(points: int, cells: int, slots: int, seed: int) -> None:
    regions = torch.randint(slots, (2, points, points), generator=torch.Generator().manual_seed(seed))
    one_hot = F.one_hot(regions, slots).movedim(-1, 1).double()
    expected = F.interpolate(one_hot, (cells, cells), mode="bilinear", align_corners=False)
    torch.testing.assert_close(soft_regions(regions, slots, cells).double(), expected, atol=1e-5, rtol=0)


@settings(max_examples=30)
@given(points=st.integers(2, 40), cells=st.integers(1, 20), slots=st.integers(1, 6), seed=st.integers(0, 999))
def test_label_maps_by_their_definition(points: int, cells: int, slots: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    regions = torch.randint(slots, (2, points, points), generator=generator)
    labels = torch.randint(50, (2, slots), generator=generator)
    soft = soft_regions(regions, slots, cells).double()
    blend = (soft * labels[..., None, None]).sum(1)
    assert torch.equal(label_map(labels, regions, cells, "blend"), (blend + 1e-4).floor().long())
    largest = (soft >= soft.amax(1, keepdim=True) - 1e-6).byte().argmax(1)
    assert torch.equal(label_map(labels, regions, cells), labels.gather(1, largest.flatten(1)).view_as(largest))


def test_a_border_cell() -> None:
    """Two regions share every cell: labels 0 and 5 blend to 2; the largest rule takes the region with the lower id."""
    regions = torch.tensor([[1, 0], [1, 0]]).repeat(2, 2)[None]
    labels = torch.tensor([[5, 0]])
    assert label_map(labels, regions, 2, "blend").tolist() == [[[2, 2], [2, 2]]]
    assert label_map(labels, regions, 2).tolist() == [[[5, 5], [5, 5]]]
    assert label_map(labels.flip(1), regions, 2).tolist() == [[[0, 0], [0, 0]]]


@pytest.mark.parametrize("border", ["largest", "blend"])
def test_regions_without_a_cluster_are_in_no_mask(border: str) -> None:
    regions = torch.zeros(1, 8, 8, dtype=torch.int64)
    regions[:, :, 4:] = 1
    mapped = label_map(torch.tensor([[-1, 3]]), regions, 4, border)
    assert mapped.tolist() == [[[-1, -1, 3, 3]] * 4]
    masks = hard_masks(mapped, 4)
    assert masks.sum() == masks[0, 3].sum() == 8
    between = label_map(torch.tensor([[-1, 3]]), regions, 1, border)
    assert between.tolist() == [[[-1]]]


def test_corner_weights_sum_to_one() -> None:
    corners, weights = corner_regions(REGIONS, 9)
    assert corners.shape == (3, 4, 9, 9)
    torch.testing.assert_close(weights.sum(0), torch.ones(9, 9, dtype=torch.float64))


def test_pooling_floor() -> None:
    """Masks of weight 0, 0.0005, 0.3, 1 and 3 cells of one value: the vectors of those below one cell shrink."""
    areas = torch.tensor([0, 5e-4, 0.3, 1, 3])
    masks = torch.zeros(1, 5, 2, 2)
    masks[0, :, 0, 0] = areas.clamp(max=1)
    masks[0, 4, 1] = 1
    features = torch.full((1, 3, 2, 2), 2.0)
    torch.testing.assert_close(pool_masks(features, masks)[0, :, 0], 2 * areas.clamp(max=1))
    torch.testing.assert_close(pool_masks(features, masks, 1e-3)[0, :, 0], torch.tensor([0, 1.0, 2, 2, 2]))


def test_pooling_keeps_precision_under_autocast() -> None:
    features, masks = torch.randn(2, 5, 7, 7), torch.rand(2, 4, 7, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = pool_masks(features, masks)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, torch.einsum("nmhw,nchw->nmc", masks, features) / masks.sum((2, 3))[..., None])


def slow_roi_align(mask: np.ndarray, box: list[float], side: int) -> np.ndarray:
    """The specification's words for one mask and one box (section 4.5)."""
    n = len(mask)
    x1, y1, x2, y2 = box
    samples = math.ceil((y2 - y1) / side), math.ceil((x2 - x1) / side)
    step = max(y2 - y1, 1) / side, max(x2 - x1, 1) / side

    def value(y: float, x: float) -> float:
        if min(y, x) < -1 or max(y, x) > n:
            return 0.0
        y, x = min(max(y, 0), n - 1), min(max(x, 0), n - 1)
        low = min(int(y), n - 1), min(int(x), n - 1)
        high = min(low[0] + 1, n - 1), min(low[1] + 1, n - 1)
        dy, dx = y - low[0], x - low[1]
        top = mask[low[0], low[1]] * (1 - dx) + mask[low[0], high[1]] * dx
        bottom = mask[high[0], low[1]] * (1 - dx) + mask[high[0], high[1]] * dx
        return top * (1 - dy) + bottom * dy

    out = np.zeros((side, side))
    for r in range(side):
        for c in range(side):
            ys = [y1 + r * step[0] + (t + 0.5) * step[0] / samples[0] for t in range(samples[0])]
            xs = [x1 + c * step[1] + (t + 0.5) * step[1] / samples[1] for t in range(samples[1])]
            out[r, c] = np.mean([value(y, x) for y in ys for x in xs])
    return out


@pytest.mark.parametrize(
    "box",
    [(0, 0, 90, 60), (11, 7, 44, 29), (60, 40, 90, 60), (3.5, 0, 10, 60)],
    ids=["whole", "small", "corner", "tall"],
)
def test_a_crop_by_the_specifications_words(box: tuple[float, float, float, float]) -> None:
    """An image of 90 x 60 pixels: x is divided by the width, y by the height; only flagged images are mirrored."""
    mapped = torch.randint(3, (2, 20, 20), generator=torch.Generator().manual_seed(1))
    masks = hard_masks(mapped, 3)
    crops = Crops(torch.tensor([box, box]).double(), torch.tensor([False, True]), 64)
    whole = Crops(torch.tensor([[0.0, 0, 90, 60]] * 2).double(), torch.zeros(2, dtype=torch.bool), 64)
    seen = masks_in_crop(masks, crops, whole, 5)
    cells = [20 * box[0] / 90, 20 * box[1] / 60, 20 * box[2] / 90, 20 * box[3] / 60]
    for image in range(2):
        for k in range(3):
            expected = slow_roi_align(masks[image, k].double().numpy(), cells, 5)
            ours = seen[image, k].flip(-1) if image == 1 else seen[image, k]
            np.testing.assert_allclose(ours.numpy(), expected, atol=2e-5)
    torch.testing.assert_close(seen.sum(1), torch.ones(2, 5, 5), atol=1e-5, rtol=0)


def test_aligned_masks_sit_where_the_features_do() -> None:
    """A half plane that begins in the middle of the image: aligned, a whole-image crop sees it exactly there."""
    masks = hard_masks((torch.arange(56) >= 28).long().expand(1, 56, 56), 2)
    crop = Crops(torch.tensor([[0.0, 0, 1, 1]]).double(), torch.zeros(1, dtype=torch.bool), 224)
    aligned = masks_in_crop(masks, crop, crop, 7, aligned=True)[0, 1]
    release = masks_in_crop(masks, crop, crop, 7)[0, 1]
    torch.testing.assert_close(aligned[0], torch.tensor([0, 0, 0, 0.5, 1, 1, 1]))
    assert release[0, 3] > aligned[0, 3], "the release sees masks half a mask cell too far to the left"


def test_crops_on_the_lattice_are_rounded_as_in_the_release() -> None:
    crops = Crops(torch.tensor([[1.0, 2, 3, 50]]).double(), torch.tensor([True]), 224)
    whole = Crops(torch.tensor([[0.0, 0, 3, 70]]).double(), torch.tensor([False]), 224)
    shares = torch.tensor([[1 / 3, 2 / 70, 1, 50 / 70]], dtype=torch.float32)
    assert torch.equal(on_lattice(crops, whole, 56), shares * 56), "not mirrored: the mirror comes after the crop"


def test_cell_neighbours() -> None:
    low, high, share = cell_neighbours(224, 14)
    assert low[:2].tolist() == [7, 23]
    assert high[:2].tolist() == [8, 24]
    assert share.tolist() == [0.5] * 14
    low, high, share = cell_neighbours(3, 6)
    assert low.tolist() == [0, 0, 0, 1, 1, 2]
    assert high.tolist() == [1, 1, 1, 2, 2, 2]
    assert share.tolist() == pytest.approx([0, 0.25, 0.75, 0.25, 0.75, 0.25])
