"""Batches are the same for any number of workers and processes, and from any step on."""

import os
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from regionssl.data.batch import Batch
from regionssl.data.images import ImageList, find_images
from regionssl.data.loader import EpochPlan, StepSampler, make_loader
from regionssl.data.samples import RegionSource, Sample, ViewDataset
from regionssl.data.views import Resampler, ViewPlan, ViewSpec
from regionssl.errors import InputError
from regionssl.geometry import Crops

PLAN = ViewPlan(views=(ViewSpec(size=32), ViewSpec(size=48)))
LABELLED = ViewPlan(views=(ViewSpec(size=32, regions=8), ViewSpec(size=48), ViewSpec(size=48, regions=12)))


def brightness_bands(image: Image.Image, position: int) -> np.ndarray:
    """A region source that looks at the pixels and at the position."""
    return np.asarray(image.convert("L").resize((13, 7)), dtype=np.int64) // 32 + 100 * position


def niceness(image: Image.Image, position: int) -> np.ndarray:
    """A region source whose labels are how nice its process is."""
    return np.full((7, 13), os.nice(0), dtype=np.int64)


def equal(one: Batch, two: Batch) -> bool:
    assert len(one.regions) == len(two.regions)
    return (
        all(torch.equal(a, b) for a, b in zip(one.views, two.views, strict=True))
        and all(
            torch.equal(a.box, b.box) and torch.equal(a.flip, b.flip) for a, b in zip(one.crops, two.crops, strict=True)
        )
        and all(torch.equal(a.factors, b.factors) for a, b in zip(one.colours, two.colours, strict=True))
        and all(a is b is None or torch.equal(a, b) for a, b in zip(one.regions, two.regions, strict=True))
        and torch.equal(one.image_size, two.image_size)
        and torch.equal(one.index, two.index)
        and (one.epoch, one.step) == (two.epoch, two.step)
    )


def batches(
    images: ImageList,
    first: int,
    last: int,
    workers: int = 0,
    rank: int = 0,
    processes: int = 1,
    plan: ViewPlan = PLAN,
    threads: int = 1,
    regions: RegionSource = brightness_bands,
) -> list[Batch]:
    sampler = StepSampler(EpochPlan(len(images), 8, seed=3), first, last, rank, processes)
    return list(make_loader(images, plan, sampler, 3, workers, regions=regions, threads=threads))


def test_workers_do_not_change_the_data(images: ImageList) -> None:
    reference = batches(images, 0, 6)
    assert [batch.epoch for batch in reference] == [0, 0, 0, 0, 1, 1]
    for workers in (1, 3):
        assert all(equal(a, b) for a, b in zip(reference, batches(images, 0, 6, workers), strict=True))


def test_a_later_start_goes_on_with_the_same_data(images: ImageList) -> None:
    assert all(equal(a, b) for a, b in zip(batches(images, 0, 6)[3:], batches(images, 3, 6), strict=True))


@pytest.mark.parametrize("yielding", [False, True])
def test_workers_on_shared_cores_yield_to_the_training(images: ImageList, yielding: bool) -> None:
    sampler = StepSampler(EpochPlan(len(images), 8, seed=0), 0, 1)
    (batch,) = make_loader(images, LABELLED, sampler, 0, workers=1, regions=niceness, yielding=yielding)
    assert batch.regions[0].unique().tolist() == [min(19, os.nice(0) + 19 * yielding)]


def test_processes_share_the_same_batches(images: ImageList) -> None:
    whole = batches(images, 2, 5)
    for processes in (2, 4):
        shares = [batches(images, 2, 5, rank=rank, processes=processes) for rank in range(processes)]
        for step, batch in enumerate(whole):
            joined = torch.cat([share[step].views[1] for share in shares])
            assert torch.equal(joined, batch.views[1])


def test_epochs_and_views_differ(images: ImageList) -> None:
    dataset = ViewDataset(images, ViewPlan(views=(ViewSpec(size=32), ViewSpec(size=32))), seed=3)
    first, again, later = dataset[Sample(1, 0, 0)], dataset[Sample(1, 0, 5)], dataset[Sample(1, 1, 9)]
    assert first.crops == again.crops, "crops depend on the epoch and the image, not on the step"
    assert first.crops != later.crops
    assert first.crops[0] != first.crops[1]


@given(
    images=st.integers(1, 200),
    batch=st.integers(1, 40),
    drop_last=st.booleans(),
    share=st.sampled_from([1, 2, 4]),
    epoch=st.integers(0, 3),
)
def test_an_epoch_takes_every_image_once(images: int, batch: int, drop_last: bool, share: int, epoch: int) -> None:
    if batch > images or batch % share:
        return
    plan = EpochPlan(images, batch, seed=1, drop_last=drop_last, share=share)
    order = plan.order(epoch)
    taken = np.concatenate([plan.stretch(order, step) for step in range(plan.steps_per_epoch)])
    assert all(len(plan.stretch(order, step)) % share == 0 for step in range(plan.steps_per_epoch))
    counts = np.bincount(taken, minlength=images)
    if drop_last:
        assert counts.max() == 1
        assert counts.sum() == images // batch * batch
    else:
        assert counts.min() == 1
        assert counts.sum() - images < share


@pytest.fixture
def broken(tmp_path) -> ImageList:
    """Eight images of which number 2 is cut short after the header."""
    for i in range(8):
        noise = np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    whole = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[: len(whole) // 2])
    return find_images(tmp_path)


def test_an_unreadable_image_is_replaced_by_a_counted_draw(broken: ImageList) -> None:
    dataset = ViewDataset(broken, PLAN, seed=0)
    views = [dataset[Sample(2, epoch, 0)] for epoch in range(12)]
    for view in views:
        assert view.index != 2
        assert view.failures[0][0] == 2
        assert view.pixels[0].std() > 1, "never zeros"
    assert len({view.index for view in views}) > 2
    again = ViewDataset(broken, PLAN, seed=0)[Sample(2, 0, 0)]
    assert again.index == views[0].index
    np.testing.assert_array_equal(again.pixels[0], views[0].pixels[0])


def test_batches_report_failures(broken: ImageList) -> None:
    sampler = StepSampler(EpochPlan(8, 8, seed=0), 0, 1)
    (batch,) = make_loader(broken, PLAN, sampler, 0, workers=0)
    assert [index for index, _ in batch.failures] == [2]
    assert 2 not in batch.index


def test_split_and_crops_agree(images: ImageList) -> None:
    (batch,) = batches(images, 0, 1)
    parts = list(batch.split(3))
    assert [len(part) for part in parts] == [3, 3, 2]
    assert [part.first for part in parts] == [0, 3, 6]
    assert all(part.total == 8 for part in parts)
    assert torch.equal(torch.cat([part.crops[1].box for part in parts]), batch.crops[1].box)
    assert isinstance(parts[0].crops[0], Crops)


def test_labels_come_with_their_views(images: ImageList) -> None:
    """The lattices of a sample, whatever the workers; of view 1, which asks for none, there is nothing."""
    (reference,) = batches(images, 1, 2, plan=LABELLED)
    (other,) = batches(images, 1, 2, workers=2, plan=LABELLED)
    assert equal(reference, other)
    assert [labels if labels is None else labels.shape for labels in reference.regions] == [
        (8, 8, 8),
        None,
        (8, 12, 12),
    ]
    for n, index in enumerate(reference.index.tolist()):
        whole = brightness_bands(images.load(index), index)
        for labels in (reference.regions[0], reference.regions[2]):
            assert labels.dtype == torch.int64
            assert set(labels[n].flatten().tolist()) <= set(whole.flatten().tolist())


@pytest.mark.parametrize("resampler", ["pillow", "torch"])
def test_threads_make_the_same_batches(images: ImageList, resampler: Resampler) -> None:
    plan = LABELLED.model_copy(update={"resampler": resampler})
    alone, threaded = (batches(images, 0, 3, plan=plan, threads=threads) for threads in (1, 4))
    assert all(equal(one, two) for one, two in zip(alone, threaded, strict=True))


def test_threads_load_side_by_side(images: ImageList) -> None:
    """Each image of a pair waits for the other one, so one after the other neither would come."""
    meeting = threading.Barrier(2)

    def met(image: Image.Image, position: int) -> np.ndarray:
        meeting.wait(timeout=20)
        return brightness_bands(image, position)

    (batch,) = batches(images, 0, 1, plan=LABELLED, threads=2, regions=met)
    assert equal(batch, batches(images, 0, 1, plan=LABELLED)[0])


def test_what_a_thread_raises_reaches_the_training(images: ImageList) -> None:
    def broken(image: Image.Image, position: int) -> np.ndarray:
        raise InputError(f"no regions of image {position}")

    with pytest.raises(InputError, match="no regions of image"):
        batches(images, 0, 1, plan=LABELLED, threads=2, regions=broken)


def test_batches_without_labels_have_no_list_of_them(images: ImageList) -> None:
    (batch,) = batches(images, 0, 1)
    assert batch.regions == []
    assert batch.image_size.dtype == torch.float64
    assert batch.image_size.tolist() == [[96, 96]] * 8


def test_labels_and_sizes_follow_a_batch_that_is_split_and_moved(images: ImageList) -> None:
    (batch,) = batches(images, 0, 1, plan=LABELLED)
    batch.image_size[:, 0] = torch.arange(8)
    parts = list(batch.split(3))
    assert torch.equal(torch.cat([part.image_size for part in parts]), batch.image_size)
    for view in (0, 2):
        assert torch.equal(torch.cat([part.regions[view] for part in parts]), batch.regions[view])
    assert all(part.regions[1] is None for part in parts)
    moved = batch.to("meta")
    assert moved.image_size.is_meta
    assert [labels if labels is None else labels.is_meta for labels in moved.regions] == [True, None, True]


def test_the_labels_of_a_replacement_are_its_own(broken: ImageList) -> None:
    dataset = ViewDataset(broken, LABELLED, 0, brightness_bands)
    views = dataset[Sample(2, 0, 0)]
    assert views.index != 2
    assert {int(label) // 100 for label in np.unique(views.labels[0])} == {views.index}
    assert views.size == (64, 64)
