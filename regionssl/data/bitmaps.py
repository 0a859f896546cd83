"""Pixels to cut crops from: those of a 24-bit Windows bitmap whose first row is the top one, or of an array."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image

_HEADER = struct.Struct("<2sIHHIIiiHHIIiiII")


def write_bitmap(image: Image.Image) -> bytes:
    """An RGB image as a bitmap file."""
    content: bytes = image.tobytes("raw", "BGR", _stride(image.width), 1)
    return _header(*image.size) + content


def read_bitmap(content: bytes) -> Bitmap | None:
    """The file that :func:`write_bitmap` made; None for any other content. Pillow reads it too, and takes longer."""
    if not _HEADER.size <= len(content) < 2**32 or not content.startswith(b"BM"):
        return None
    width, height = _HEADER.unpack_from(content)[6:8]
    if height >= 0 or width <= 0 or len(content) != _HEADER.size + _stride(width) * -height:
        return None
    if not content.startswith(_header(width, -height)):
        return None
    return Bitmap(content, width, -height)


@dataclass(frozen=True)
class Bitmap:
    """A bitmap of ``width`` x ``height`` pixels, of which only the crops are unpacked that are asked for."""

    content: bytes
    width: int
    height: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.width, self.height

    def crop(self, box: tuple[int, int, int, int]) -> Image.Image:
        """The RGB image within x0, y0, x1, y1 in whole pixels, which must lie inside."""
        left, top, right, bottom = box
        stride = _stride(self.width)
        pixels = memoryview(self.content)[_HEADER.size + top * stride + 3 * left :]
        return Image.frombuffer("RGB", (right - left, bottom - top), pixels, "raw", "BGR", stride, 1)

    def whole(self) -> Image.Image:
        """The RGB image."""
        return self.crop((0, 0, self.width, self.height))

    def values(self, box: tuple[int, int, int, int]) -> np.ndarray:
        """The pixels of :meth:`crop`, (height, width, 3) uint8, RGB; a view that nobody may write to."""
        left, top, right, bottom = box
        strides = (_stride(self.width), 3, 1)
        rows: np.ndarray = np.ndarray((self.height, self.width, 3), np.uint8, self.content, _HEADER.size, strides)
        return rows[top:bottom, left:right, ::-1]


@dataclass(frozen=True)
class Pixels:
    """A decoded image as an array, (height, width, 3) uint8, RGB."""

    array: np.ndarray

    @property
    def width(self) -> int:
        return int(self.array.shape[1])

    @property
    def height(self) -> int:
        return int(self.array.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.width, self.height

    def crop(self, box: tuple[int, int, int, int]) -> Image.Image:
        """The RGB image within x0, y0, x1, y1 in whole pixels, which must lie inside."""
        return Image.fromarray(self.values(box))

    def whole(self) -> Image.Image:
        """The RGB image."""
        return Image.fromarray(self.array)

    def values(self, box: tuple[int, int, int, int]) -> np.ndarray:
        """The pixels of :meth:`crop`, (height, width, 3) uint8, RGB; a view."""
        left, top, right, bottom = box
        return self.array[top:bottom, left:right]


Picture: TypeAlias = Image.Image | Bitmap | Pixels
"""What crops are cut from."""


def as_image(picture: Picture) -> Image.Image:
    """All of a picture as an RGB image."""
    return picture if isinstance(picture, Image.Image) else picture.whole()


def _stride(width: int) -> int:
    """Bytes of a row, which are a multiple of four."""
    return -(-3 * width // 4) * 4


def _header(width: int, height: int) -> bytes:
    size = _stride(width) * height
    return _HEADER.pack(b"BM", _HEADER.size + size, 0, 0, _HEADER.size, 40, width, -height, 1, 24, 0, size, 0, 0, 0, 0)
