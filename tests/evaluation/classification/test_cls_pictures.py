"""Cuts against torchvision's, and the order and the draws of training."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from regionssl.config import parse
from regionssl.data.images import ImageList
from regionssl.errors import InputError
from regionssl.evaluation.classification.pictures import (
    Batch,
    ScoringCut,
    TrainingBatches,
    TrainingCut,
    lighting,
    order,
)


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("size", [(100, 80), (81, 133), (64, 64), (40, 57)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_centre_is_cut_as_torchvision_does(size: tuple[int, int], interpolation: str) -> None:
    image = picture(*size)
    cut = parse(ScoringCut, {"size": 56, "resize": 64, "interpolation": interpolation}, "test")
    expected = transforms.Compose(
        [transforms.Resize(64, InterpolationMode(interpolation)), transforms.CenterCrop(56), transforms.PILToTensor()]
    )(image)
    assert torch.equal(cut.cut(image), expected)


def test_a_squashed_image_is_resized_twice() -> None:
    image = picture(120, 60)
    expected = transforms.Compose([transforms.Resize(64), transforms.Resize((48, 48)), transforms.PILToTensor()])(image)
    assert torch.equal(ScoringCut(size=48, resize=64, squash=True).cut(image), expected)


def test_a_centre_larger_than_the_image_is_refused() -> None:
    with pytest.raises(InputError, match="centre of 224 px cannot be cut from a shorter side of 200"):
        parse(ScoringCut, {"resize": 200}, "test")


@given(st.integers(1, 9), st.integers(0, 30), st.integers(1, 12), st.integers(0, 3))
def test_every_epoch_is_a_permutation(count: int, first: int, length: int, seed: int) -> None:
    whole = order(count, seed, 0, first + length)
    assert order(count, seed, first, length) == whole[first:]
    for epoch in range(len(whole) // count):
        stretch = whole[epoch * count : (epoch + 1) * count]
        assert [one[0] for one in stretch] == [epoch] * count
        assert sorted(one[1] for one in stretch) == list(range(count))


def test_examples_are_functions_of_seed_epoch_and_image(images: ImageList) -> None:
    cut = TrainingCut(size=32, resize=32, jitter=(0.4, 0.4, 0.4, 0.0), lighting=0.1)
    first, again = TrainingBatches(images, cut, 8, 6, 0)[5], TrainingBatches(images.subset(range(32)), cut, 8, 6, 0)[5]
    assert isinstance(first, Batch)
    assert isinstance(again, Batch)
    assert torch.equal(cut.colour(first), cut.colour(again))
    assert [(1, int(i)) for i in first.rows] == order(32, 0, 40, 8)
    one = cut.draw(images, int(first.rows[2]), 0, 1)
    assert torch.equal(one.pixels, first.pixels[2])
    assert not torch.equal(cut.draw(images, 0, 0, 0).pixels, cut.draw(images, 0, 0, 1).pixels)
    assert not torch.equal(cut.draw(images, 0, 0, 0).shares, cut.draw(images, 0, 1, 0).shares)


def test_without_jitter_colours_stay(images: ImageList) -> None:
    batch = TrainingBatches(images, TrainingCut(size=32, resize=32), 4, 1, 0)[0]
    assert isinstance(batch, Batch)
    torch.testing.assert_close(TrainingCut(size=32, resize=32).colour(batch), batch.pixels / 255)


def test_lighting_moves_along_the_principal_colours() -> None:
    along = lighting(torch.eye(3, dtype=torch.float64))
    spreads = along.norm(dim=1)
    torch.testing.assert_close(spreads, torch.tensor([0.2175, 0.0188, 0.0045], dtype=torch.float64), rtol=1e-3, atol=0)
    unit = along / spreads[:, None]
    torch.testing.assert_close(unit @ unit.T, torch.eye(3, dtype=torch.float64), atol=1e-3, rtol=0)
    assert (unit[0] * unit[0].sign()[0] > 0.5).all()  # the largest is brightness


def test_lighting_is_added_to_the_pixels(images: ImageList) -> None:
    plain, lit = TrainingCut(size=32, resize=32), TrainingCut(size=32, resize=32, lighting=0.1)
    batch = TrainingBatches(images, lit, 4, 1, 0)[0]
    assert isinstance(batch, Batch)
    added = lit.colour(batch) - plain.colour(batch)
    torch.testing.assert_close(added.mean((2, 3)), lighting(batch.shares.float()), atol=1e-6, rtol=0)
    assert added.abs().max() > 1e-3
