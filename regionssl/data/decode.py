"""From the bytes of a file to an upright 8-bit RGB image, or one exception that says why not."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from regionssl.data.bitmaps import Picture, Pixels, as_image, read_bitmap

try:
    from simplejpeg import decode_jpeg
except ImportError:
    decode_jpeg = None

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
SHORTEST_SIDE = 8
PIXEL_LIMIT = 200_000_000

# Pillow's own limit lies below ours, and it looks at the crops of an image again.
if Image.MAX_IMAGE_PIXELS is not None:
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, PIXEL_LIMIT)

_ORIENTATION, _BITS_PER_SAMPLE = 274, 258  # tags of EXIF and TIFF
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(Exception):
    """An image that cannot be used; the message is the reason, without the image's name."""


@dataclass(frozen=True)
class Header:
    """What an image says of itself: format and mode in Pillow's words, width and height as stored, in pixels."""

    format: str
    mode: str
    width: int
    height: int


@dataclass(frozen=True)
class Details:
    """A header, the EXIF orientation (1 is upright, broken EXIF data count as it), and the pictures in the file."""

    header: Header
    orientation: int
    pictures: int


def decode(content: bytes) -> Image.Image:
    """The first picture of an image file, turned upright by its EXIF orientation, as 8-bit RGB.

    16-bit values keep their upper 8 bits; 32-bit integers and floats, which have no agreed white, are stretched from
    their smallest to their largest value; what is transparent is blended over white. Colour profiles are not applied.

    Raises:
        UnreadableImage: not a JPEG, PNG, WebP, BMP or TIFF file, damaged or cut short, a side below 8 pixels, more than
            200 megapixels, or colours that Pillow cannot turn into RGB.
    """
    return as_image(read_picture(content))


def read_picture(content: bytes, as_array: bool = False) -> Picture:
    """:func:`decode`, but for a bitmap of a pack, which need not be unpacked as a whole to be cropped.

    Args:
        as_array: crops are wanted as arrays. Then simplejpeg, if it is installed, decodes upright JPEGs in colour,
            faster than Pillow and to the same values; whatever it does not find in order is left to Pillow.

    Raises:
        UnreadableImage: as :func:`decode`.
    """
    plain = read_bitmap(content)
    if plain is not None and min(plain.size) >= SHORTEST_SIDE and plain.width * plain.height <= PIXEL_LIMIT:
        return plain
    with _pillow_errors():
        image = _open(io.BytesIO(content))
        if as_array and decode_jpeg is not None and _is_upright_rgb_jpeg(image):
            with suppress(ValueError):
                return Pixels(decode_jpeg(content))
        image.load()
        return _to_rgb(_upright(image))


def is_upright_rgb_jpeg(content: bytes) -> bool:
    """Whether an image file that can be decoded is a JPEG whose pixels :func:`decode` leaves as they are stored."""
    with _pillow_errors():
        return _is_upright_rgb_jpeg(_open(io.BytesIO(content)))


def _is_upright_rgb_jpeg(image: Image.Image) -> bool:
    return image.format == "JPEG" and image.mode == "RGB" and _turn(image) is None


def probe(file: BinaryIO) -> Header:
    """The header of an image in a seekable file, without decoding it unless the file looks cut short.

    Raises:
        UnreadableImage: as :func:`decode`; damage within the pixels is not noticed.
    """
    with _pillow_errors():
        image = _open(file)
        header = Header(image.format, image.mode, *image.size)
        if not _looks_whole(file, image):
            file.seek(0)
            decode(file.read())
    return header


def details(content: bytes) -> Details:
    """What an image file says of itself, without decoding its pixels.

    Raises:
        UnreadableImage: as :func:`decode`; damage within the pixels is not noticed.
    """
    with _pillow_errors():
        image = _open(io.BytesIO(content))
        header = Header(image.format, image.mode, *image.size)
        return Details(header, _orientation(image), getattr(image, "n_frames", 1))


@contextmanager
def _pillow_errors() -> Iterator[None]:
    """Silence Pillow's warnings, and turn whatever its plugins raise on broken files into :class:`UnreadableImage`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            yield
        except UnreadableImage:
            raise
        except UnidentifiedImageError:
            raise UnreadableImage("is not a JPEG, PNG, WebP, BMP or TIFF image, or its header is damaged") from None
        except Image.DecompressionBombError:
            raise UnreadableImage(f"has more than {PIXEL_LIMIT // 1_000_000} megapixels") from None
        except Exception as error:
            raise UnreadableImage(f"cannot be decoded: {str(error) or type(error).__name__}") from error


def _open(file: BinaryIO) -> Image.Image:
    """Read the header and check what it says."""
    if not file.read(1):
        raise UnreadableImage("is empty (0 bytes)")
    file.seek(0)
    image = Image.open(file, formats=FORMATS)
    width, height = image.size
    if min(width, height) < SHORTEST_SIDE:
        raise UnreadableImage(f"is {width} x {height} pixels; {SHORTEST_SIDE} a side is the least")
    if width * height > PIXEL_LIMIT:
        raise UnreadableImage(f"is {width} x {height} pixels, more than {PIXEL_LIMIT // 1_000_000} megapixels")
    if image.mode == "LAB":
        raise UnreadableImage("has Lab colours, which cannot be turned into RGB")
    return image


def _looks_whole(file: BinaryIO, image: Image.Image) -> bool:
    """Whether the file ends as its format says. A file that does not may still be fine: trailing bytes are common."""
    size = file.seek(0, io.SEEK_END)
    if image.format == "TIFF":
        starts, lengths = (image.tag_v2.get(tag) for tag in ((273, 279) if 273 in image.tag_v2 else (324, 325)))
        return bool(starts and lengths) and max(map(sum, zip(starts, lengths, strict=True))) <= size
    file.seek(0)
    head = file.read(8)
    file.seek(max(0, size - 12))
    tail = file.read(12)
    if image.format == "PNG":
        return tail == b"\0\0\0\0IEND\xaeB`\x82"
    if image.format == "WEBP":
        return int.from_bytes(head[4:8], "little") + 8 <= size
    if image.format == "BMP":
        return 0 < int.from_bytes(head[2:6], "little") <= size
    return tail.endswith(b"\xff\xd9")


def _upright(image: Image.Image) -> Image.Image:
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What undoes the EXIF orientation."""
    return _TO_UPRIGHT.get(_orientation(image))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; broken EXIF data count as 1."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:
        return 1
    return orientation if isinstance(orientation, int) and orientation in range(1, 9) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image) >> (_bits(image) - 8))
    if image.mode == "I" and image.format == "PNG":  # 16 bits, as Pillow before 11 opens them
        return _grey(np.asarray(image) >> 8)
    if image.mode in ("I", "F"):
        return _grey(_stretch(np.asarray(image)))
    if image.has_transparency_data:
        return _over_white(image.convert("LA") if image.mode == "La" else image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _bits(image: Image.Image) -> int:
    """Bits per value of a 16-bit mode, which also holds TIFF's 12 bits."""
    return int(image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0]) if image.format == "TIFF" else 16


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")


def _stretch(values: np.ndarray) -> np.ndarray:
    """Values (H, W) of any range as 0..255; a constant image becomes black."""
    values = values.astype(np.float64)
    low, high = values.min(), values.max()
    if not np.isfinite(high - low):
        raise UnreadableImage("holds values that are not finite")
    return np.round((values - low) * (255 / (high - low))) if high > low else np.zeros_like(values)


def _over_white(image: Image.Image) -> Image.Image:
    coloured = image.convert("RGBA")
    alpha = coloured.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return coloured.convert("RGB")
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(coloured, mask=alpha)
    return canvas
