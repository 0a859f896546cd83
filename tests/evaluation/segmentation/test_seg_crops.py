"""Training crops: image and labels stay together, padding, one class too many, mistakes."""

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from regionssl.counted import Stream, generator
from regionssl.errors import InputError
from regionssl.evaluation.segmentation.crops import (
    CropConfig,
    cut_image,
    cut_labels,
    draw,
    fitted,
    resized,
    training_crop,
)
from regionssl.labels.sets import MapSet

COLOURS = np.array([[20, 200, 90], [230, 30, 60], [120, 120, 250]], np.uint8)


def blocks(width: int, height: int, seed: int, block: int = 12) -> np.ndarray:
    """Labels (H, W) of 3 classes in square blocks."""
    cells = np.random.default_rng(seed).integers(0, 3, (-(-height // block), -(-width // block)))
    return cells.repeat(block, 0).repeat(block, 1)[:height, :width]


@settings(max_examples=80)
@given(
    st.integers(30, 110),
    st.integers(30, 110),
    st.integers(0, 10**6),
    st.sampled_from([None, (100, 60)]),
    st.sampled_from([(0.5, 2.0), (1.0, 1.0), (1.7, 1.7)]),
)
def test_labels_lie_on_their_pixels(
    width: int, height: int, seed: int, base: tuple[int, int] | None, scale: tuple[float, float]
) -> None:
    # Every pixel's colour and label tell where it is: the colour its centre, the label the place that holds the centre.
    y, x = np.mgrid[:height, :width]
    image = np.stack([2 * x, 2 * y, 0 * x], -1).astype(np.uint8)
    labels = y * width + x
    crop = draw(CropConfig(size=48, base=base, scale=scale), labels, generator(seed, Stream.VIEWS))
    pixels, truth = cut_image(Image.fromarray(image), crop), cut_labels(labels, crop)
    assert pixels.shape == (*truth.shape, 3) == (crop.y1 - crop.y0, crop.x1 - crop.x0, 3)
    across = [Fraction(2 * i + 1, 2) * Fraction(width, crop.width) for i in range(crop.x0, crop.x1)]
    down = [Fraction(2 * i + 1, 2) * Fraction(height, crop.height) for i in range(crop.y0, crop.y1)]
    across = across[::-1] if crop.flip else across
    places = np.add.outer([width * math.floor(centre) for centre in down], [math.floor(centre) for centre in across])
    np.testing.assert_array_equal(truth, places)
    edge = 2 + math.ceil(crop.width / width)  # at the border of the image the colours do not go on
    # Colours are rounded to half a place; the weights of a filter that shrinks are off a straight line by up to 0.09.
    bound = 0.26 if crop.width >= width else 0.35
    for centres, colours in ((across, pixels[..., 0]), (down, pixels[..., 1].T)):
        places = np.array([float(centre) for centre in centres])[edge:-edge] - 0.5
        assert np.abs(colours[edge:-edge, edge:-edge] / 2 - places).max(initial=0) <= bound


def test_a_crop_at_scale_one_is_a_window_of_the_image() -> None:
    labels = blocks(90, 70, 3, block=7)
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    for step in range(8):
        crop = draw(CropConfig(size=40, scale=(1, 1)), labels, generator(5, Stream.VIEWS, step))
        window = np.s_[crop.y0 : crop.y1, crop.x0 : crop.x1]
        mirror = np.s_[:, ::-1] if crop.flip else np.s_[:]
        np.testing.assert_array_equal(cut_image(Image.fromarray(image), crop), image[window][mirror])
        np.testing.assert_array_equal(cut_labels(labels, crop), labels[window][mirror])


def test_draws_spread_over_places_scales_and_mirrors() -> None:
    labels = blocks(100, 100, 0)
    crops = [draw(CropConfig(size=32), labels, generator(0, Stream.VIEWS, i)) for i in range(300)]
    widths = np.array([crop.width for crop in crops])
    assert widths.min() in range(50, 54)
    assert widths.max() in range(196, 201)
    assert 120 < sum(crop.flip for crop in crops) < 180
    assert min(crop.x0 for crop in crops) == 0
    assert any(crop.x1 == crop.width for crop in crops)
    assert crops[7] == draw(CropConfig(size=32), labels, generator(0, Stream.VIEWS, 7))


def test_crops_of_one_class_alone_are_drawn_again() -> None:
    labels = np.zeros((200, 200), np.int64)
    labels[90:110, 90:110] = 1
    for share, low, high in ((0.99, 95, 100), (1.0, 5, 40)):
        config = CropConfig(size=60, scale=(1, 1), largest_share=share)
        crops = [cut_labels(labels, draw(config, labels, generator(0, Stream.VIEWS, i))) for i in range(100)]
        assert low <= sum((crop == 1).mean() >= 0.01 for crop in crops) <= high
    unlabelled = np.full((80, 80), -1)
    draw(CropConfig(size=60), unlabelled, generator(0, Stream.VIEWS))  # ends, though no crop will do


def test_what_is_not_labelled_has_no_share() -> None:
    labels = np.full((200, 200), -1)
    labels[90:110, 90:100], labels[90:110, 100:110] = 0, 1
    config = CropConfig(size=60, scale=(1, 1), largest_share=0.6)
    crops = [cut_labels(labels, draw(config, labels, generator(0, Stream.VIEWS, i))) for i in range(100)]
    assert sum((crop >= 0).any() for crop in crops) > 80  # of crops at any place it were 32
    assert sum((crop == 0).sum() > 0 and (crop == 1).sum() > 0 for crop in crops) > 60


def test_small_images_are_padded_with_colour_and_without_labels(
    write_maps: Callable[[list[tuple[np.ndarray, np.ndarray]], int], MapSet],
) -> None:
    labels = blocks(40, 24, 1)
    data = write_maps([(COLOURS[labels], labels)], 3)
    config = CropConfig(size=64, scale=(1, 1), flip=0)
    image, truth = training_crop(data, 0, config, (1, 2, 3), generator(0, Stream.VIEWS))
    assert image.shape == (3, 64, 64)
    assert image.dtype == torch.uint8
    np.testing.assert_array_equal(image[:, :24, :40].permute(1, 2, 0), COLOURS[labels])
    np.testing.assert_array_equal(truth[:24, :40], labels)
    assert (truth[24:] == -1).all()
    assert (truth[:, 40:] == -1).all()
    assert image[:, 24:].flatten(1).unique(dim=1).flatten().tolist() == [1, 2, 3]


def test_images_are_fitted_into_the_longest_and_shortest_side() -> None:
    assert fitted((500, 375), None) == (500, 375)
    assert fitted((500, 375), None, 0.5) == (250, 188)
    assert fitted((2048, 1024), (2049, 1025)) == (2049, 1025)
    assert fitted((600, 400), (2048, 512)) == (768, 512)
    assert fitted((400, 600), (2048, 512)) == (512, 768)
    assert fitted((4000, 400), (2048, 512)) == (2048, 205)
    image = Image.new("RGB", (90, 50))
    assert resized(image, (90, 50)) is image
    assert resized(image, (90, 50), 32).size == (96, 64)
    assert resized(image, (10, 50), 32).size == (32, 64)


def test_mistakes_are_named(write_maps: Callable[[list[tuple[np.ndarray, np.ndarray]], int], MapSet]) -> None:
    labels = blocks(40, 24, 1)
    good = (COLOURS[labels], labels)
    rng, config = generator(0, Stream.VIEWS), CropConfig(size=32)
    small = write_maps([good, (COLOURS[labels], labels[:20])], 3)
    with pytest.raises(InputError, match=r"001\.png has 40 x 24 pixels and its label map 001\.png 40 x 20"):
        training_crop(small, 1, config, (0, 0, 0), rng)
    with pytest.raises(InputError, match="holds the values"):
        training_crop(write_maps([good], 2), 0, config, (0, 0, 0), rng)
    broken = write_maps([good], 3)
    (Path(broken.images.root) / "000.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"the image 000\.png is not a JPEG"):
        training_crop(broken, 0, config, (0, 0, 0), rng)
