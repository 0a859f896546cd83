"""Samples: boxes, masks, keypoints and pixels go through one window together."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from regionssl.errors import InputError, TooFewLabels
from regionssl.evaluation.detection.samples import (
    InputSettings,
    Samples,
    Window,
    _move_boxes,
    _move_keypoints,
    _move_masks,
    _pixels,
    draw_window,
    resized,
)
from regionssl.labels.sets import Objects, ObjectSet


@given(
    st.integers(20, 80),
    st.integers(20, 80),
    st.integers(16, 120),
    st.integers(16, 120),
    st.booleans(),
    st.integers(0, 2**31),
)
@settings(max_examples=60)
def test_box_mask_and_pixels_stay_together(
    width: int, height: int, new_width: int, new_height: int, flip: bool, seed: int
) -> None:
    """The tight box of a moved mask, and of the bright pixels, is the moved box to within a pixel."""
    rng = np.random.default_rng(seed)
    x0, y0 = int(rng.integers(0, width - 8)), int(rng.integers(0, height - 8))
    x1, y1 = int(rng.integers(x0 + 6, width + 1)), int(rng.integers(y0 + 6, height + 1))
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = True
    left, top = int(rng.integers(0, new_width // 2)), int(rng.integers(0, new_height // 2))
    window = Window(new_width, new_height, left, top, new_width, new_height, flip, side=130)
    box = _move_boxes(np.array([[x0, y0, x1, y1]], float), np.array([width, height]), window)[0].numpy()
    moved = _move_masks([mask], window)[0].numpy()
    assert moved.shape == (130, 130)
    picture = Image.fromarray((mask * 255).astype(np.uint8)).convert("RGB")
    pixels = _pixels(picture, window)
    assert pixels.shape == (3, 130, 130)
    cut = (slice(None), slice(0, new_height - top), slice(0, new_width - left))
    assert (pixels[0, new_height - top :] == 0.5).all()
    bright = np.zeros((130, 130), bool)
    bright[cut[1:]] = (pixels[cut][0] > 0.5).numpy()
    for found in (moved > 0, bright):
        if found.any():
            ys, xs = np.nonzero(found)
            tight = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            assert np.abs(tight - box).max() <= 1 + 1e-9
        else:
            assert (box[2:] - box[:2]).min() <= 1


def test_sizes() -> None:
    assert resized(640, 480, 800, 1333) == (1067, 800)
    assert resized(1000, 200, 800, 1333) == (1333, 267)
    assert resized(200, 1000, 100, 1333) == (100, 500)


def test_train_sizes_are_all_drawn_and_half_is_mirrored() -> None:
    plain = InputSettings(train_sizes=(64, 96, 128), max_size=400)
    windows = [draw_window((100, 50), plain, np.random.default_rng(i)) for i in range(300)]
    assert {window.height for window in windows} == {64, 96, 128}
    assert all(window.width == 2 * window.height and window.side is None for window in windows)
    assert 110 < sum(window.flip for window in windows) < 190


def test_r2o_windows() -> None:
    """The long side is 0.8 to 1.25 times the side of the square; what is larger is cut at any place."""
    jittered = InputSettings(jitter=(0.8, 1.25), max_size=100)
    windows = [draw_window((300, 200), jittered, np.random.default_rng(i)) for i in range(300)]
    longest = [window.width for window in windows]
    assert 80 <= min(longest) < 85
    assert 120 < max(longest) <= 125
    assert all(window.right - window.left <= 100 >= window.bottom - window.top for window in windows)
    cut = [window for window in windows if window.width > 100]
    assert any(window.left == 0 for window in cut)
    assert any(window.right == window.width for window in cut)
    assert all(window.top == 0 for window in windows)


def test_mirrored_keypoints_change_sides() -> None:
    points = np.array([[[10.0, 5, 2], [30, 5, 1], [90, 5, 2], [0, 0, 0]]])
    objects = Objects(np.zeros((1, 4)), np.zeros(1, np.int64), np.zeros(1, bool), np.zeros(1), keypoints=points)
    window = Window(200, 100, 0, 0, 160, 100, True)
    moved = _move_keypoints(objects, np.array([0]), np.array([100, 50]), window, ((0, 1),))
    # doubled, mirrored in 160, the pair exchanged; the third lies outside, the fourth is not labelled
    assert moved[0].tolist() == [[100, 10, 1], [140, 10, 2], [0, 0, 0], [0, 0, 0]]


def test_draws_are_pure_and_differ(labelled: ObjectSet) -> None:
    samples = Samples(labelled, InputSettings(train_sizes=(64, 80), max_size=96), seed=3, masks=True)
    image, target = samples.draw(2, 1)
    again = Samples(labelled, InputSettings(train_sizes=(64, 80), max_size=96), seed=3, masks=True)
    again.draw(5, 0)
    assert torch.equal(image, again.draw(2, 1)[0])
    assert all(torch.equal(target[key], value) for key, value in again.draw(2, 1)[1].items())
    looks = {(samples.draw(2, epoch)[0].shape, bool(samples.draw(2, epoch)[1]["flip"])) for epoch in range(12)}
    assert len(looks) == 4
    assert target["labels"].min() >= 1
    assert target["masks"].shape == (len(target["boxes"]), *image.shape[1:])


def test_crowds_and_images_without_objects_do_not_train(labelled: ObjectSet) -> None:
    empty = dataclasses.replace(labelled.objects[0], crowd=np.ones_like(labelled.objects[0].crowd))
    first = labelled.objects[1]
    partly = dataclasses.replace(first, crowd=np.arange(len(first.crowd)) == 0)
    changed = dataclasses.replace(labelled, objects=(empty, partly, *labelled.objects[2:]))
    samples = Samples(changed, InputSettings(train_sizes=(64,), max_size=96))
    assert len(samples) == len(labelled) - 1
    assert samples.name(0) == labelled.images.names[1]
    _, target = samples.draw(0, 0)
    assert 0 not in target["rows"]
    assert int(target["position"]) == 1
    kept = Samples(changed, InputSettings(train_sizes=(64,), max_size=96, skip_empty=False))
    assert len(kept) == len(labelled)
    assert kept.draw(0, 0)[1]["boxes"].shape == (0, 4)
    none = dataclasses.replace(labelled.subset([0]), objects=(empty,))
    with pytest.raises(TooFewLabels, match="none of the 1 training images has an object"):
        Samples(none, InputSettings())


def test_another_size_than_the_labels_say(labelled: ObjectSet) -> None:
    wrong = dataclasses.replace(labelled, sizes=labelled.sizes + 1)
    with pytest.raises(InputError, match=r"000000.jpg is 96 x 96 pixels, and its labels are for 97 x 97"):
        Samples(wrong, InputSettings()).draw(0, 0)
