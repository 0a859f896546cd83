"""Every odd image becomes upright 8-bit RGB or an UnreadableImage, and nothing else escapes."""

import contextlib
import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from regionssl.data.bitmaps import Pixels, as_image
from regionssl.data.decode import PIXEL_LIMIT, UnreadableImage, decode, probe, read_picture

pytestmark = pytest.mark.filterwarnings("error")

RNG = np.random.default_rng(0)
BLOCKS = np.kron(RNG.integers(0, 256, (3, 5, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
NOISE = RNG.integers(0, 256, (48, 80, 3), np.uint8)


def encode(image: Image.Image | np.ndarray, fmt: str, **options: object) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, fmt, **options)
    return file.getvalue()


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG file from its filtered rows, for what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def tiff_12_bits(values: np.ndarray) -> bytes:
    """An uncompressed little-endian TIFF of 12 bits per value; (H, W) with even W."""
    high, low = values.reshape(-1, 2).astype(np.uint32).T
    pixels = np.stack([high >> 4, (high & 15) << 4 | low >> 8, low & 255], 1).astype(np.uint8).tobytes()
    height, width = values.shape
    tags = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


def pixels(content: bytes) -> np.ndarray:
    image = decode(content)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_come_back_as_they_were(fmt: str) -> None:
    assert np.array_equal(pixels(encode(BLOCKS, fmt)), BLOCKS)


@pytest.mark.parametrize(("fmt", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {})])
def test_lossy_formats_come_back_nearly(fmt: str, options: dict[str, bool]) -> None:
    assert np.abs(pixels(encode(BLOCKS, fmt, quality=95, **options)) - BLOCKS).mean() < 12  # another picture: 80


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_16_bits_are_scaled_and_not_clipped(fmt: str, dtype: str) -> None:
    values = np.linspace(0, 65535, 64 * 32).astype(np.uint16).reshape(32, 64)
    mode = "I;16" if dtype == "<u2" else "I;16B"
    content = encode(Image.frombytes(mode, (64, 32), values.astype(dtype).tobytes()), fmt)
    assert np.array_equal(pixels(content), np.repeat(values[..., None] >> 8, 3, 2))


def test_16_bit_colours_and_alpha() -> None:
    row = b"\0" + struct.pack(">3H", 65535, 0, 257 * 77) * 10
    assert np.array_equal(pixels(png(10, 8, 16, 2, row * 8))[0, 0], [255, 0, 77])
    row = b"\0" + struct.pack(">2H", 40000, 0) * 10
    assert np.array_equal(pixels(png(10, 8, 16, 4, row * 8))[0, 0], [255, 255, 255])


def test_12_bit_tiff_fills_the_range() -> None:
    values = np.linspace(0, 4095, 16 * 8).astype(np.uint16).reshape(8, 16)
    assert np.array_equal(pixels(tiff_12_bits(values))[..., 1], values >> 4)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (-70000, 1e6), (1000, 1001)])
def test_32_bit_values_are_stretched(dtype: type, low: float, high: float) -> None:
    values = np.full((8, 9), low, dtype)
    values[2, 3] = high
    assert np.array_equal(pixels(encode(values, "TIFF"))[..., 0], 255 * (values == high))


def test_constant_and_infinite_floats() -> None:
    assert pixels(encode(np.full((8, 8), 0.7, np.float32), "TIFF")).max() == 0
    with pytest.raises(UnreadableImage, match="not finite"):
        decode(encode(np.full((8, 8), np.nan, np.float32), "TIFF"))


def test_one_bit_and_greyscale() -> None:
    black_white = RNG.integers(0, 2, (20, 17)).astype(bool)
    for fmt in ("PNG", "TIFF", "BMP"):
        assert np.array_equal(pixels(encode(Image.fromarray(black_white), fmt))[..., 2], black_white * 255)
        assert np.array_equal(pixels(encode(BLOCKS[..., 0], fmt))[..., 2], BLOCKS[..., 0])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_alpha_is_blended_over_white(mode: str, fmt: str) -> None:
    image = Image.fromarray(BLOCKS).convert(mode)
    alpha = np.tile(np.linspace(0, 255, 80).astype(np.uint8), (48, 1))
    image.putalpha(Image.fromarray(alpha))
    colour = np.asarray(image.convert("RGB")).astype(float)
    share = alpha[..., None] / 255
    assert np.abs(pixels(encode(image, fmt)) - (colour * share + 255 * (1 - share))).max() <= 1


def test_opaque_alpha_changes_nothing() -> None:
    assert np.array_equal(pixels(encode(Image.fromarray(BLOCKS).convert("RGBA"), "PNG")), BLOCKS)


def test_palette_with_transparency() -> None:
    rows = b"".join(b"\0" + bytes([0, 1, 2] * 3) for _ in range(9))
    content = png(9, 9, 8, 3, rows, (b"PLTE", bytes([10, 20, 30, 40, 50, 60, 70, 80, 90])), (b"tRNS", b"\xff\x80\0"))
    first, half, clear = pixels(content)[0, :3]
    assert np.array_equal(first, [10, 20, 30])
    assert np.abs(half - (np.array([40, 50, 60]) * 128 + 255 * 127) / 255).max() <= 1
    assert np.array_equal(clear, [255, 255, 255])


@pytest.mark.parametrize(("bits", "colour", "row", "key"), [(8, 2, b"\x0a\x14\x1e", ">3H"), (8, 0, b"\x0a", ">H")])
def test_transparent_colour_becomes_white(bits: int, colour: int, row: bytes, key: str) -> None:
    marked = struct.pack(key, *row)
    content = png(8, 8, bits, colour, (b"\0" + row * 7 + bytes(len(row))) * 8, (b"tRNS", marked))
    assert pixels(content)[0].tolist() == [[255] * 3] * 7 + [[0] * 3]


@pytest.mark.parametrize("fmt", ["JPEG", "TIFF"])
def test_cmyk(fmt: str) -> None:
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[:8, :, 0] = 255  # cyan above, yellow below
    ink[8:, :, 2] = 255
    got = pixels(encode(Image.frombytes("CMYK", (16, 16), ink.tobytes()), fmt))
    assert np.abs(got[2, 8] - [0, 255, 255]).max() < 6
    assert np.abs(got[13, 8] - [255, 255, 0]).max() < 6


SIDES = {  # what the first row and the first column of the stored picture are (EXIF 2.32, tag Orientation)
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def stored_as(upright: np.ndarray, row: str, column: str) -> np.ndarray:
    stored = upright if row in ("top", "bottom") else upright.transpose(1, 0, 2)
    stored = stored[::-1] if row in ("bottom", "right") else stored
    return np.ascontiguousarray(stored[:, ::-1] if column in ("right", "bottom") else stored)


@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_every_orientation_becomes_upright(orientation: int, fmt: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(fmt, {})
    content = encode(stored_as(BLOCKS, *SIDES[orientation]), fmt, exif=exif, **options)
    difference = np.abs(pixels(content) - BLOCKS)
    assert difference.mean() < 12 if fmt == "JPEG" else not difference.any()


@pytest.mark.parametrize("broken", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_broken_exif_counts_as_none(broken: bytes) -> None:
    assert pixels(encode(BLOCKS, "JPEG", exif=broken)).shape == BLOCKS.shape


@pytest.mark.parametrize(("width", "height"), [(8, 8), (8, 800), (800, 8)])
def test_smallest_and_longest(width: int, height: int) -> None:
    content = encode(np.zeros((height, width, 3), np.uint8), "JPEG")
    assert decode(content).size == (width, height)
    assert (probe(io.BytesIO(content)).width, probe(io.BytesIO(content)).height) == (width, height)


def both_refuse(content: bytes, reason: str) -> None:
    for read in (decode, lambda content: probe(io.BytesIO(content))):
        with pytest.raises(UnreadableImage, match=reason):
            read(content)


def test_what_is_refused() -> None:
    both_refuse(b"", "empty")
    both_refuse(b"<html><body>404</body></html>", "not a JPEG, PNG, WebP, BMP or TIFF")
    both_refuse(encode(BLOCKS, "GIF"), "not a JPEG")
    both_refuse(encode(np.zeros((1, 1, 3), np.uint8), "PNG"), "1 x 1 pixels; 8 a side")
    both_refuse(encode(np.zeros((7, 800, 3), np.uint8), "PNG"), "800 x 7 pixels")
    both_refuse(encode(Image.new("LAB", (9, 9)), "TIFF"), "Lab")


@pytest.mark.parametrize("side", [14143, 20000, 60000])
def test_decompression_bombs(side: int) -> None:
    assert side * side > PIXEL_LIMIT
    both_refuse(png(side, side, 8, 0, b""), "more than 200 megapixels")


def test_the_largest_image_is_allowed() -> None:
    # one bit a pixel, with an empty stream: the size passes, the missing pixels do not
    with pytest.raises(UnreadableImage, match="cannot be decoded"):
        decode(png(20000, 10000, 1, 0, b""))
    assert probe(io.BytesIO(png(20000, 10000, 1, 0, b""))).width == 20000


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.5, 0.9, 0.99])
def test_cut_short(fmt: str, kept: float) -> None:
    content = encode(NOISE, fmt)
    both_refuse(content[: int(kept * len(content))], "cannot be decoded|not a JPEG")


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_trailing_bytes_are_fine(fmt: str) -> None:
    content = encode(BLOCKS, fmt) + b"something a camera wrote" * 9
    assert probe(io.BytesIO(content)).format == fmt
    assert pixels(content).shape == BLOCKS.shape


def test_probe_decodes_only_what_looks_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regionssl.data.decode.decode", lambda content: pytest.fail("decoded a whole file"))
    for fmt in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"):
        header = probe(io.BytesIO(encode(BLOCKS, fmt)))
        assert (header.format, header.mode, header.width, header.height) == (fmt, "RGB", 80, 48)


@settings(max_examples=150)
@example(fmt="BMP", changes=[(0.130859375, 128)])  # millions of rows, more than a header can say in bytes
@given(
    fmt=st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "TIFF"]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damage_never_escapes_as_another_exception(fmt: str, changes: list[tuple[float, int]]) -> None:
    content = bytearray(encode(BLOCKS, fmt))
    for place, value in changes:
        content[int(place**3 * len(content))] = value  # mostly in the header
    for read in (decode, lambda content: probe(io.BytesIO(content))):
        with contextlib.suppress(UnreadableImage):
            read(bytes(content))


JPEGS = [
    {"quality": 90},
    {"quality": 75, "subsampling": 0},
    {"quality": 60, "subsampling": 1},
    {"quality": 90, "progressive": True},
    {"quality": 80, "restart_marker_blocks": 4},
]


@pytest.mark.parametrize("options", JPEGS)
@given(width=st.integers(8, 90), height=st.integers(8, 90), data=st.data())
def test_jpegs_as_arrays_are_those_of_pillow(
    options: dict[str, object], width: int, height: int, data: st.DataObject
) -> None:
    content = encode(np.resize(NOISE // 3 + np.resize(BLOCKS, NOISE.shape) // 3, (height, width, 3)), "JPEG", **options)
    picture = read_picture(content, as_array=True)
    assert isinstance(picture, Pixels)
    assert picture.size == (picture.width, picture.height) == (width, height)
    expected = decode(content)
    np.testing.assert_array_equal(np.asarray(picture.whole()), np.asarray(expected))
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = left, top, data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    np.testing.assert_array_equal(np.asarray(picture.crop(box)), np.asarray(expected.crop(box)))
    np.testing.assert_array_equal(picture.values(box), np.asarray(expected.crop(box)))


@settings(max_examples=300)
@given(
    options=st.sampled_from(JPEGS),
    kept=st.one_of(st.just(1.0), st.floats(0.1, 1)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
)
def test_damaged_jpegs_as_arrays_are_those_of_pillow(
    options: dict[str, object], kept: float, changes: list[tuple[float, int]]
) -> None:
    content = bytearray(encode(NOISE, "JPEG", **options))
    for place, value in changes:
        content[int(place * len(content))] = value
    damaged = bytes(content[: int(kept * len(content))])

    def outcome(as_array: bool) -> bytes | str:
        try:
            picture = read_picture(damaged, as_array)
        except UnreadableImage as error:
            return str(error)
        return as_image(picture).tobytes()

    assert outcome(as_array=True) == outcome(as_array=False)


def test_other_files_are_left_to_pillow() -> None:
    turned = Image.Exif()
    turned[274] = 6
    image = Image.fromarray(BLOCKS)
    others = [encode(image.convert(mode), "JPEG") for mode in ("L", "CMYK")]
    for content in (*others, encode(image, "JPEG", exif=turned), encode(image, "PNG")):
        picture = read_picture(content, as_array=True)
        assert isinstance(picture, Image.Image)
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(decode(content)))


def test_reason_survives_pickling() -> None:
    assert str(pickle.loads(pickle.dumps(UnreadableImage("is empty")))) == "is empty"
