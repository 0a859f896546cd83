"""Bitmaps of packs: read as written, by us and by Pillow, and nothing else is taken for one."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from regionssl.data.bitmaps import read_bitmap, write_bitmap
from regionssl.data.decode import UnreadableImage, decode
from regionssl.data.views import CropDraw, Resampler, ViewSpec, cut


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 9))
def test_pixels_are_read_as_written(width: int, height: int, seed: int) -> None:
    image = noise(width, height, seed)
    content = write_bitmap(image)
    again = read_bitmap(content)
    assert again is not None
    assert again.size == (again.width, again.height) == (width, height)
    np.testing.assert_array_equal(np.asarray(again.whole()), np.asarray(image))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), np.asarray(image))


@given(st.data(), st.integers(1, 40), st.integers(1, 40))
def test_crops_are_those_of_the_image(data: st.DataObject, width: int, height: int) -> None:
    image = noise(width, height)
    bitmap = read_bitmap(write_bitmap(image))
    assert bitmap is not None
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = left, top, data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    expected = np.asarray(image.crop(box))
    np.testing.assert_array_equal(np.asarray(bitmap.crop(box)), expected)
    np.testing.assert_array_equal(bitmap.values(box), expected)


@pytest.mark.parametrize("resampler", ["pillow", "torch"])
@pytest.mark.parametrize("flip", [False, True])
def test_views_cut_from_a_bitmap_are_those_of_the_image(resampler: Resampler, flip: bool) -> None:
    image = noise(61, 43)
    bitmap = read_bitmap(write_bitmap(image))
    assert bitmap is not None
    for interpolation in ("bilinear", "bicubic"):
        spec, draw = ViewSpec(size=24, interpolation=interpolation), CropDraw(7, 5, 50, 33, flip)
        np.testing.assert_array_equal(cut(bitmap, draw, spec, resampler), cut(image, draw, spec, resampler))


def test_any_other_header_is_left_to_pillow() -> None:
    content = write_bitmap(noise(9, 8))
    for place in range(54):
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        assert read_bitmap(changed) is None, f"byte {place} of the header"
    assert read_bitmap(content[:-1]) is None
    assert read_bitmap(content + b"\0") is None
    assert read_bitmap(b"") is None
    file = io.BytesIO()
    noise(9, 8).save(file, "BMP")  # Pillow's begin with the lowest row
    assert read_bitmap(file.getvalue()) is None


def test_limits_hold_for_bitmaps() -> None:
    with pytest.raises(UnreadableImage, match="7 x 9 pixels; 8 a side"):
        decode(write_bitmap(noise(7, 9)))


def test_a_decoded_bitmap_may_be_changed() -> None:
    """Pillow shares the memory of some buffers; the bytes of a pack must not change."""
    content = write_bitmap(noise(9, 8))
    before = bytes(content)
    image = decode(content)
    image.paste((1, 2, 3), (0, 0, 9, 8))
    assert content == before
