"""Drawing and cutting crops, against Pillow and the release's own crops (``golden/resim_crops.npz``)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from regionssl import counted
from regionssl.counted import Stream
from regionssl.data.image_list import ImageList
from regionssl.data.samples import Sample, ViewDataset
from regionssl.data.views import (
    CropDraw,
    PairOverlap,
    ViewPlan,
    ViewSpec,
    centred_crop,
    cut,
    draw_crops,
    random_resized_crop,
)

GOLDEN = Path(__file__).parents[1] / "golden"
SIDE = st.integers(1, 2000)


def rng(i: int) -> np.random.Generator:
    return counted.generator(0, Stream.VIEWS, 0, i)


class PythonRandom:
    """Python's generator, which the release draws from, behind the two calls that the crop rule makes."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def uniform(self, low: float, high: float) -> float:
        return self.random.uniform(low, high)

    def integers(self, low: int, high: int, endpoint: bool) -> int:
        assert endpoint
        return self.random.randint(low, high)


def test_the_crops_of_the_release() -> None:
    """ReSim, section 2.2: the flip, a discarded draw, then the crops of the query and of the key."""
    with np.load(GOLDEN / "resim_crops.npz") as data:
        rows = data["rows"].tolist()
    assert len(rows) == 48
    for seed, width, height, flip, *expected in rows:
        source = PythonRandom(seed)
        flips = [source.random.random() < 0.5 for _ in range(2)]
        crops = []
        for _ in range(2):
            left, top, w, h = random_resized_crop(
                width, height, (0.2, 1.0), (3 / 4, 4 / 3), cast(np.random.Generator, source)
            )
            crops += [top, left, h, w]
        assert (flips[0], crops) == (bool(flip), expected)


@settings(max_examples=150)
@given(
    SIDE,
    SIDE,
    st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)).map(lambda p: (min(p), max(p))),
    st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)).map(lambda p: (min(p), max(p))),
    st.integers(0, 10**6),
)
def test_crops_lie_in_the_image_and_in_their_ranges(
    width: int, height: int, area: tuple[float, float], aspect: tuple[float, float], seed: int
) -> None:
    left, top, w, h = random_resized_crop(width, height, area, aspect, rng(seed))
    assert 0 <= left <= left + w <= width
    assert 0 <= top <= top + h <= height
    assert min(w, h) >= 1
    if (left, top, w, h) == centred_crop(width, height, aspect):
        return
    total = width * height * (1 + 1e-9)
    assert (w + 0.5) * (h + 0.5) * (1 + 1e-9) >= area[0] * width * height
    assert (w - 0.5) * (h - 0.5) <= area[1] * total
    assert (w + 0.5) / (h - 0.5) >= aspect[0] * (1 - 1e-9)
    assert (w - 0.5) / (h + 0.5) <= aspect[1] * (1 + 1e-9)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (400, 400, (0, 0, 400, 400)),
        (400, 300, (0, 0, 400, 300)),
        (1000, 120, (420, 0, 160, 120)),
        (90, 700, (0, 290, 90, 120)),
        (1, 100, (0, 49, 1, 1)),
        (100, 1, (49, 0, 1, 1)),
    ],
)
def test_centred_crop(width: int, height: int, expected: tuple[int, int, int, int]) -> None:
    assert centred_crop(width, height, (3 / 4, 4 / 3)) == expected


def test_the_fallback_is_taken_when_nothing_fits() -> None:
    """A crop of the whole area cannot have an aspect that the image lacks."""
    assert random_resized_crop(1000, 120, (1, 1), (3 / 4, 4 / 3), rng(0)) == (420, 0, 160, 120)


def test_areas_and_aspects_are_spread_over_their_ranges() -> None:
    """On a large square image hardly anything is refused: the area is uniform, the aspect log-uniform."""
    crops = np.array([random_resized_crop(3000, 3000, (0.1, 0.5), (1 / 2, 2), rng(i)) for i in range(3000)])
    share = crops[:, 2] * crops[:, 3] / 3000**2
    assert np.quantile(share, [0, 0.25, 0.5, 0.75, 1]).tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5], abs=0.012)
    octave = np.log2(crops[:, 2] / crops[:, 3])
    assert np.quantile(octave, [0, 0.25, 0.5, 0.75, 1]).tolist() == pytest.approx([-1, -0.5, 0, 0.5, 1], abs=0.06)
    place = crops[:, 0] / (3000 - crops[:, 2])
    assert place.mean() == pytest.approx(0.5, abs=0.02)
    assert np.corrcoef(place, crops[:, 1] / (3000 - crops[:, 3]))[0, 1] == pytest.approx(0, abs=0.07)


def test_draws_are_a_function_of_the_generator() -> None:
    plan = ViewPlan(views=(ViewSpec(), ViewSpec(area=(0.05, 0.2))))
    assert draw_crops(plan, 500, 375, rng(4)) == draw_crops(plan, 500, 375, rng(4))
    assert draw_crops(plan, 500, 375, rng(4)) != draw_crops(plan, 500, 375, rng(5))


def flips(plan: ViewPlan, count: int = 1500) -> np.ndarray:
    return np.array([[draw.flip for draw in draw_crops(plan, 300, 200, rng(i))] for i in range(count)])


def test_a_shared_flip_is_one_flip() -> None:
    drawn = flips(ViewPlan(views=(ViewSpec(flip=0.3), ViewSpec(flip=0.9)), shared_flip=True))
    assert (drawn[:, 0] == drawn[:, 1]).all()
    assert drawn.mean() == pytest.approx(0.3, abs=0.05)


def test_own_flips_are_independent() -> None:
    drawn = flips(ViewPlan(views=(ViewSpec(flip=0.5), ViewSpec(flip=0.2))))
    assert drawn.mean(0).tolist() == pytest.approx([0.5, 0.2], abs=0.05)
    assert (drawn[:, 0] & drawn[:, 1]).mean() == pytest.approx(0.1, abs=0.03)
    assert not flips(ViewPlan(views=(ViewSpec(flip=0),)), 50).any()
    assert flips(ViewPlan(views=(ViewSpec(flip=1),)), 50).all()


def shared_pixels(a: CropDraw, b: CropDraw) -> int:
    masks = np.zeros((2, 300, 400), dtype=bool)
    for mask, draw in zip(masks, (a, b), strict=True):
        mask[draw.top : draw.top + draw.height, draw.left : draw.left + draw.width] = True
    return int((masks[0] & masks[1]).sum())


def test_pairs_overlap_as_asked() -> None:
    plan = ViewPlan(
        views=(ViewSpec(), ViewSpec(), ViewSpec(area=(0.05, 0.1))),
        overlaps=(PairOverlap(views=(0, 1), share=0.5, attempts=200),),
    )
    free = plan.model_copy(update={"overlaps": ()})
    below = 0
    for i in range(150):
        a, b, small = draw_crops(plan, 400, 300, rng(i))
        larger = max(a.width * a.height, b.width * b.height)
        assert shared_pixels(a, b) >= 0.5 * larger
        first, second, alone = draw_crops(free, 400, 300, rng(i))
        assert small == alone
        below += shared_pixels(first, second) < 0.5 * max(first.width * first.height, second.width * second.height)
    assert below > 30


def test_an_impossible_overlap_ends_after_the_attempts() -> None:
    plan = ViewPlan(
        views=(ViewSpec(area=(0.9, 1)), ViewSpec(area=(0.01, 0.02))),
        shared_flip=True,
        overlaps=(PairOverlap(views=(0, 1), share=0.5, attempts=5),),
    )
    large, small = draw_crops(plan, 400, 300, rng(0))
    assert large.flip == small.flip
    assert small.width * small.height < 0.05 * large.width * large.height


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


@settings(max_examples=40)
@given(
    st.integers(2, 120),
    st.integers(2, 120),
    st.sampled_from(["bilinear", "bicubic"]),
    st.sampled_from([8, 33, 96]),
    st.integers(0, 10**6),
)
def test_cut_is_pillows_crop_resize_and_mirror(width: int, height: int, how: str, size: int, seed: int) -> None:
    image, spec = picture(width, height), ViewSpec.model_validate({"size": size, "interpolation": how})
    [draw] = draw_crops(ViewPlan(views=(spec,)), width, height, rng(seed))
    box = (draw.left, draw.top, draw.left + draw.width, draw.top + draw.height)
    expected = image.crop(box).resize((size, size), getattr(Image.Resampling, how.upper()))
    if draw.flip:
        expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    view = cut(image, draw, spec)
    assert view.dtype == np.uint8
    assert view.flags.c_contiguous
    np.testing.assert_array_equal(view, np.asarray(expected).transpose(2, 0, 1))


@settings(max_examples=60)
@given(
    st.integers(8, 200),
    st.integers(8, 200),
    st.sampled_from(["bilinear", "bicubic"]),
    st.sampled_from([8, 33, 96]),
    st.integers(0, 10**6),
)
@example(121, 179, "bilinear", 96, 525168)  # one pixel by two levels
def test_torchs_resampling_is_nearly_pillows(width: int, height: int, how: str, size: int, seed: int) -> None:
    """Both round to whole levels after each of two passes, so bilinear values may differ by two, and hardly ever do."""
    image, spec = picture(width, height), ViewSpec.model_validate({"size": size, "interpolation": how})
    [draw] = draw_crops(ViewPlan(views=(spec,)), width, height, rng(seed))
    one, two = cut(image, draw, spec), cut(image, draw, spec, "torch")
    assert (two.dtype, two.shape) == (one.dtype, one.shape)
    assert two.flags.c_contiguous
    difference = np.abs(one.astype(int) - two)
    if how == "bilinear":
        assert difference.max() <= 2
        assert (difference > 1).mean() < 0.001
    assert difference.mean() < 0.8


def test_the_resampler_is_a_setting_of_the_plan(images: ImageList) -> None:
    plans = [ViewPlan(views=(ViewSpec(size=64),), resampler=name) for name in ("pillow", "torch")]
    views = [ViewDataset(images, plan, seed=0)[Sample(1, 0, 0)] for plan in plans]
    assert views[0].crops == views[1].crops
    image, (draw,) = images.load(1), views[0].crops
    for plan, view in zip(plans, views, strict=True):
        np.testing.assert_array_equal(view.pixels[0], cut(image, draw, plan.views[0], plan.resampler))


def test_the_whole_view_is_the_squashed_image_and_never_mirrored() -> None:
    spec = ViewSpec(size=32, crop="whole", flip=1)
    plan = ViewPlan(views=(ViewSpec(flip=1), spec), shared_flip=True)
    image = picture(90, 40)
    _, draw = draw_crops(plan, 90, 40, rng(0))
    assert draw == CropDraw(0, 0, 90, 40, flip=False)
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(cut(image, draw, spec), expected)


def test_cutting_at_the_crops_own_size_copies_pixels() -> None:
    image = picture(60, 50)
    pixels = np.asarray(image).transpose(2, 0, 1)[:, 7:23, 5:21]
    spec = ViewSpec(size=16)
    np.testing.assert_array_equal(cut(image, CropDraw(5, 7, 16, 16, flip=False), spec), pixels)
    np.testing.assert_array_equal(cut(image, CropDraw(5, 7, 16, 16, flip=True), spec), pixels[:, :, ::-1])


def test_a_plan_can_be_resized() -> None:
    plan = ViewPlan(views=(ViewSpec(flip=0.1), ViewSpec(area=(0.1, 0.2))), shared_flip=True)
    small = plan.resized(96)
    assert [view.size for view in small.views] == [96, 96]
    assert small.resized(224) == plan


def test_plans_are_checked() -> None:
    with pytest.raises(ValidationError, match="at least one view"):
        ViewPlan(views=())
    with pytest.raises(ValidationError, match="there are 2 views"):
        ViewPlan(views=(ViewSpec(), ViewSpec()), overlaps=(PairOverlap(views=(0, 2)),))
