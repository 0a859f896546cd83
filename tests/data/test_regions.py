"""Region labels of views: the lattice of PLRC (specification, 2.1 and 2.2) and the whole view of R2O."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from regionssl import counted
from regionssl.counted import Stream
from regionssl.data.images import ImageList
from regionssl.data.samples import Collate, Sample, ViewDataset
from regionssl.data.views import CropDraw, PairOverlap, ViewPlan, ViewSpec, cut, cut_labels, draw_crops
from regionssl.methods.plrc import PlrcConfig
from regionssl.regions.sources import Grid

GOLDEN = Path(__file__).parents[1] / "golden"
SIDE = st.integers(1, 700)


def test_the_grid_of_the_release() -> None:
    """Equation 2.1, to the last label."""
    with np.load(GOLDEN / "plrc_regions.npz") as file:
        golden = dict(file)
    spec = ViewSpec(regions=56)
    for (width, height), tlhw, flip, expected in zip(
        golden["sizes_wh"].tolist(), golden["crops_tlhw"].tolist(), golden["flips"], golden["maps"], strict=True
    ):
        top, left, h, w = tlhw
        labels = Grid(4)(Image.new("RGB", (width, height)), 0)
        np.testing.assert_array_equal(
            cut_labels(labels, CropDraw(left, top, w, h, bool(flip)), spec, width, height), expected
        )


@settings(max_examples=80)
@given(SIDE, SIDE, SIDE, SIDE, st.integers(1, 60), st.booleans(), st.data())
def test_a_lattice_reads_the_label_of_the_pixel_below(
    width: int, height: int, columns: int, rows: int, side: int, flip: bool, data: st.DataObject
) -> None:
    """A map of any resolution gives what the map enlarged to the image by nearest neighbours gives."""
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    w, h = data.draw(st.integers(1, width - left)), data.draw(st.integers(1, height - top))
    labels = np.arange(rows * columns).reshape(rows, columns)
    across = [int((x + 0.5) * columns / width) for x in range(width)]
    down = [int((y + 0.5) * rows / height) for y in range(height)]
    enlarged = labels[np.ix_(down, across)]
    crop = enlarged[top : top + h, left : left + w]
    expected = crop[np.ix_(*([int((k + 0.5) * extent / side) for k in range(side)] for extent in (h, w)))]
    lattice = cut_labels(labels, CropDraw(left, top, w, h, flip), ViewSpec(regions=side), width, height)
    np.testing.assert_array_equal(lattice, expected[:, ::-1] if flip else expected)


@pytest.mark.parametrize(("width", "height"), [(100, 75), (640, 33), (224, 224)])
def test_a_whole_view_takes_a_map_of_its_size_as_it_is(width: int, height: int) -> None:
    labels = np.random.default_rng(0).integers(0, 99, (224, 224))
    whole = CropDraw(0, 0, width, height, flip=False)
    np.testing.assert_array_equal(cut_labels(labels, whole, ViewSpec(crop="whole", regions=224), width, height), labels)


def test_views_without_lattices_have_none() -> None:
    assert cut_labels(np.zeros((3, 3)), CropDraw(0, 0, 9, 9, False), ViewSpec(), 9, 9) is None


def test_labels_lie_on_the_pixels_that_they_name() -> None:
    """An image whose colours are its labels: cut, resized and mirrored alike."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 200, (4, 4))
    blocks = np.repeat(np.repeat(labels, 60, 0), 90, 1).astype(np.uint8)
    image = Image.fromarray(np.repeat(blocks[..., None], 3, 2))
    spec, plan = ViewSpec(size=64, regions=64), PlrcConfig().plan
    for n in range(20):
        draw = draw_crops(plan, 360, 240, counted.generator(0, Stream.VIEWS, n))[0]
        lattice, view = cut_labels(labels, draw, spec, 360, 240), cut(image, draw, spec)[0]
        assert (lattice == view).mean() > 0.8, "all but the blurred edges"


def test_an_unseen_partner_makes_a_crop_like_a_seen_one() -> None:
    """PLRC, section 2.1: b is drawn with b' until they overlap, though b' is never cut. So b is larger on average."""
    views = (ViewSpec(), ViewSpec())
    plans = {
        "seen": ViewPlan(views=views, overlaps=(PairOverlap(views=(0, 1)),)),
        "unseen": ViewPlan(views=views[:1], overlaps=(PairOverlap(views=(0, None)),)),
        "alone": ViewPlan(views=views[:1]),
    }
    area = {}
    for name, plan in plans.items():
        draws = [draw_crops(plan, 500, 375, counted.generator(0, Stream.VIEWS, i)) for i in range(1500)]
        assert all(len(crops) == len(plan.views) for crops in draws)
        area[name] = np.mean([crops[0].width * crops[0].height for crops in draws]) / (500 * 375)
    assert area["seen"] == pytest.approx(0.54, abs=0.02)
    assert area["unseen"] == pytest.approx(0.54, abs=0.02)
    assert area["alone"] == pytest.approx(0.49, abs=0.02)


def test_overlaps_name_views_that_exist() -> None:
    with pytest.raises(ValueError, match="an overlap names views"):
        ViewPlan(views=(ViewSpec(),), overlaps=(PairOverlap(views=(1, None)),))


def test_statistics_of_plrc() -> None:
    """Section 2.2: on images of 500 x 375, 13.3 regions of a 4 x 4 grid per view, 11.4 in both, always a common one."""
    plan, labels = PlrcConfig().plan, Grid(4)(Image.new("RGB", (500, 375)), 0)
    seen, common = [], []
    for i in range(600):
        crops = draw_crops(plan, 500, 375, counted.generator(1, Stream.VIEWS, i))
        ids = [
            set(np.unique(cut_labels(labels, crop, spec, 500, 375)).tolist())
            for crop, spec in zip(crops[:2], plan.views, strict=False)
        ]
        seen.append(len(ids[0]))
        common.append(len(ids[0] & ids[1]))
    assert min(seen) >= 6
    assert min(common) >= 1
    assert np.mean(seen) == pytest.approx(13.3, abs=0.3)
    assert np.mean(common) == pytest.approx(11.4, abs=0.3)


def test_views_that_ask_for_labels_need_a_source(images: ImageList) -> None:
    plan = ViewPlan(views=(ViewSpec(size=32), ViewSpec(size=32, regions=8)))
    with pytest.raises(ValueError, match="nothing to label the images"):
        ViewDataset(images, plan, seed=0)
    dataset = ViewDataset(images, plan, 0, Grid(2))
    batch = Collate(plan, 0)([dataset[Sample(i, 0, 0)] for i in range(3)])
    assert batch.regions[0] is None
    assert batch.regions[1] is not None
    assert batch.regions[1].shape == (3, 8, 8)
