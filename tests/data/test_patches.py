"""Patches: the box jitter against the release's draws, what a sample is drawn from, and what its batch says of it."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from regionssl.counted import Stream, generator
from regionssl.data.batch import Batch
from regionssl.data.images import ImageList, find_images
from regionssl.data.loader import EpochPlan, StepSampler, make_loader
from regionssl.data.patches import BoxJitter, box_iou, draw_patches, jitter_box
from regionssl.data.samples import Sample, ViewDataset
from regionssl.data.views import ViewPlan, ViewSpec
from regionssl.errors import InputError
from regionssl.methods.orl import OrlConfig

from method_variants import MadeUpPatches, made_up_patches

GOLDEN = Path(__file__).parents[1] / "golden" / "orl_box_jitter.npz"
PATCH = ViewSpec(size=24, crop="patch")
PLAN = ViewPlan(views=(ViewSpec(size=32), PATCH, PATCH, PATCH, PATCH))


class ReleaseDraws(random.Random):
    """Python's generator with the one name that NumPy's has and it lacks."""

    def integers(self, low: int, high: int) -> int:
        return self.randint(low, high - 1)


def test_jitter_equals_the_release() -> None:
    """300 boxes to the pixel, and the release's generator left where the release leaves it."""
    with np.load(GOLDEN) as golden:
        rows, expected, following = golden["in_W_H_x_y_w_h_seed"], golden["out_box"], golden["next_random"]
    kept = 0
    for (width, height, x, y, w, h, seed), box, later in zip(rows.tolist(), expected.tolist(), following, strict=True):
        rng = ReleaseDraws(seed)
        found = jitter_box((x, y, w, h), width, height, BoxJitter(), rng)
        assert list(found) == box
        assert rng.random() == later
        kept += found == (x, y, w, h)
    assert 0 < kept < 300


@pytest.mark.parametrize(
    ("box", "name"),
    [((245, 165, 150, 150), "central_square_150"), ((0, 0, 150, 150), "corner_150"), ((0, 0, 640, 480), "full_image")],
)
def test_the_counted_generator_accepts_as_often_as_the_release(box: tuple[int, int, int, int], name: str) -> None:
    """Acceptance per attempt, in an image of 640 x 480, against the table of section 4.2."""
    with np.load(GOLDEN) as golden:
        rates = dict(zip(golden["stats_names"].tolist(), golden["stats_fallback_accept"][:, 1].tolist(), strict=True))
    trials = 6000
    rng = generator(0, Stream.PATCHES, 0, 0)
    accepted = sum(jitter_box(box, 640, 480, BoxJitter(attempts=1), rng) != box for _ in range(trials))
    # both are counts: the release's of about 4000 attempts
    spread = 4 * (rates[name] * (1 - rates[name]) * (1 / trials + 1 / 4000)) ** 0.5
    assert accepted / trials == pytest.approx(rates[name], abs=spread)


@given(
    seed=st.integers(0, 10_000),
    sides=st.tuples(st.integers(16, 400), st.integers(16, 400)),
    share=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)),
)
@settings(max_examples=60)
def test_a_jittered_box_lies_in_the_image_and_shares_more_than_half(
    seed: int, sides: tuple[int, int], share: tuple[float, float]
) -> None:
    width, height = sides
    w, h = max(1, int(width * share[0])), max(1, int(height * share[1]))
    box = ((width - w) // 2, (height - h) // 2, w, h)
    x, y, new_w, new_h = moved = jitter_box(box, width, height, BoxJitter(), generator(seed, Stream.PATCHES))
    assert min(x, y) >= 0
    assert x + new_w <= width
    assert y + new_h <= height
    assert min(new_w, new_h) > 0
    inside = [np.zeros((height, width), bool) for _ in range(2)]
    for mask, (left, top, across, down) in zip(inside, (box, moved), strict=True):
        mask[top : top + down, left : left + across] = True
    pixels = (inside[0] & inside[1]).sum() / (inside[0] | inside[1]).sum()
    assert box_iou(box, moved) == pytest.approx(pixels)
    assert pixels > 0.5


def test_draws_come_in_the_order_of_the_release() -> None:
    """Section 4.1: neighbour, box, jitter, pair, each from the same generator."""
    source = made_up_patches(20, neighbours=10)
    for seed in range(40):
        index = seed % 20
        found = draw_patches(source, index, 96, 96, BoxJitter(), ReleaseDraws(seed))
        rng = random.Random(seed)
        rank = rng.randint(0, 9)
        box = rng.choice(source.boxes[index].tolist())
        moved = jitter_box(tuple(box), 96, 96, BoxJitter(), rng)
        pair = rng.choice(source.pairs[index][rank].tolist())
        assert found.neighbour == source.neighbours[index][rank]
        assert found.boxes == (tuple(box), moved, tuple(pair[:4]), tuple(pair[4:]))


def test_neighbours_boxes_and_pairs_are_drawn_uniformly() -> None:
    source = made_up_patches(5, neighbours=4)
    drawn = [draw_patches(source, 4, 96, 96, BoxJitter(), generator(0, Stream.PATCHES, i)) for i in range(4000)]
    for counts, kinds in (
        (Counter(d.neighbour for d in drawn), 4),
        (Counter(d.boxes[0] for d in drawn), 5),
        (Counter(d.boxes[2:] for d in drawn), 8),
    ):
        assert len(counts) == kinds
        assert all(abs(count - 4000 / kinds) < 5 * (4000 / kinds) ** 0.5 for count in counts.values()), counts


def test_patches_are_cut_from_the_image_and_from_its_neighbour(images: ImageList) -> None:
    """Crop and one bilinear resize of the untouched image (4.1), mirrored as the batch says."""
    source = made_up_patches(len(images))
    views = ViewDataset(images, PLAN, seed=0, patches=source)[Sample(5, 2, 0)]
    assert views.neighbour in source.neighbours[5]
    for number, place in ((1, 5), (2, 5), (3, 5), (4, views.neighbour)):
        crop = views.crops[number]
        patch = images.load(place).crop(crop.box).resize((24, 24), Image.Resampling.BILINEAR)
        expected = np.asarray(patch)[:, ::-1] if crop.flip else np.asarray(patch)
        np.testing.assert_array_equal(views.pixels[number], expected.transpose(2, 0, 1))
    rows = {tuple(row) for row in source.boxes[5].tolist()}
    assert (views.crops[1].left, views.crops[1].top, views.crops[1].width, views.crops[1].height) in rows


def batches(images: ImageList, source: MadeUpPatches, workers: int = 0) -> list[Batch]:
    sampler = StepSampler(EpochPlan(len(images), 8, seed=3), 2, 6)
    return list(make_loader(images, PLAN, sampler, 3, workers, patches=source))


def test_batches_are_the_same_for_any_number_of_workers(images: ImageList) -> None:
    source = made_up_patches(len(images))
    for one, two in zip(batches(images, source), batches(images, source, workers=2), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.views, two.views, strict=True))
        assert all(torch.equal(a.box, b.box) for a, b in zip(one.crops, two.crops, strict=True))
        assert torch.equal(one.neighbour, two.neighbour)


def test_a_batch_tells_the_neighbours_and_splits_with_them(images: ImageList) -> None:
    source = made_up_patches(len(images))
    batch = batches(images, source)[0]
    for index, neighbour, box in zip(
        batch.index.tolist(), batch.neighbour.tolist(), batch.crops[4].box.tolist(), strict=True
    ):
        rank = source.neighbours[index].tolist().index(neighbour)
        corners = [[x, y, x + w, y + h] for *_, x, y, w, h in source.pairs[index][rank].tolist()]
        assert box in corners
    parts = list(batch.split(3))
    assert torch.equal(torch.cat([part.neighbour for part in parts]), batch.neighbour)
    assert batch.to("cpu").neighbour is not None


def test_epochs_draw_anew_and_steps_do_not(images: ImageList) -> None:
    dataset = ViewDataset(images, PLAN, seed=0, patches=made_up_patches(len(images)))
    first, again = dataset[Sample(4, 0, 0)], dataset[Sample(4, 0, 7)]
    assert first.crops == again.crops
    later = [dataset[Sample(4, epoch, 0)] for epoch in range(1, 8)]
    assert all(views.crops[2].box != first.crops[2].box for views in later), "the jitter is drawn anew"
    assert len({views.neighbour for views in later}) > 1


@pytest.fixture
def broken(tmp_path: Path) -> ImageList:
    """Six images of 96 px of which number 2 is cut short after the header."""
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 255, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    whole = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[: len(whole) // 2])
    return find_images(tmp_path)


@pytest.mark.parametrize("index", [1, 2])
def test_an_unreadable_image_or_neighbour_is_replaced_and_named(broken: ImageList, index: int) -> None:
    """Image 1 has image 2 as its only neighbour; image 2 cannot be read itself."""
    source = made_up_patches(6, neighbours=1)
    dataset = ViewDataset(broken, PLAN, seed=0, patches=source)
    taken = [dataset[Sample(index, epoch, 0)] for epoch in range(10)]
    for views in taken:
        assert {failed for failed, _ in views.failures} == {2}
        assert views.index not in (1, 2)
        assert views.neighbour == source.neighbours[views.index][0]
        assert min(pixels.std() for pixels in views.pixels) > 1
    assert len({views.index for views in taken}) > 1


def test_patches_need_correspondences(images: ImageList) -> None:
    with pytest.raises(ValueError, match="no correspondences"):
        ViewDataset(images, PLAN, seed=0)


def test_a_plan_has_all_patches_or_none() -> None:
    with pytest.raises(ValueError, match="in fours"):
        ViewPlan(views=(ViewSpec(), PATCH))
    with pytest.raises(ValueError, match="without region labels"):
        ViewPlan(views=(PATCH, PATCH, PATCH, PATCH.model_copy(update={"regions": 4})))
    with pytest.raises((ValueError, InputError), match="six views"):
        OrlConfig(plan=ViewPlan(views=(PATCH, PATCH, PATCH, PATCH, ViewSpec(), ViewSpec())))


def test_a_plan_is_resized_with_its_patches_in_proportion() -> None:
    sizes = [view.size for view in OrlConfig().plan.resized(112).views]
    assert sizes == [112, 112, 48, 48, 48, 48]
