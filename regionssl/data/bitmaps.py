"""Pixels as they are, in a file that every program can open: a 24-bit Windows bitmap whose first row is the top one."""

from __future__ import annotations

import struct

from PIL import Image

_HEADER = struct.Struct("<2sIHHIIiiHHIIiiII")


def write_bitmap(image: Image.Image) -> bytes:
    """An RGB image as a bitmap file."""
    content: bytes = image.tobytes("raw", "BGR", _stride(image.width), 1)
    return _header(*image.size) + content


def read_bitmap(content: bytes) -> Image.Image | None:
    """The image that :func:`write_bitmap` was given; None for any other content.

    Pillow reads these files too, to the same pixels, and takes half as long again.
    """
    if len(content) < _HEADER.size or not content.startswith(b"BM"):
        return None
    width, height = _HEADER.unpack_from(content)[6:8]
    if height >= 0 or width <= 0 or not content.startswith(_header(width, -height)):
        return None
    if len(content) != _HEADER.size + _stride(width) * -height:
        return None
    pixels = memoryview(content)[_HEADER.size :]
    return Image.frombuffer("RGB", (width, -height), pixels, "raw", "BGR", _stride(width), 1)


def _stride(width: int) -> int:
    """Bytes of a row, which are a multiple of four."""
    return -(-3 * width // 4) * 4


def _header(width: int, height: int) -> bytes:
    size = _stride(width) * height
    return _HEADER.pack(b"BM", _HEADER.size + size, 0, 0, _HEADER.size, 40, width, -height, 1, 24, 0, size, 0, 0, 0, 0)
