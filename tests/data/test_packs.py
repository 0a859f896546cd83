"""Packs: the same pixels as the images they were made of, whatever those were, and every fault said."""

import io
import json
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regionssl import pack
from regionssl.data.decode import UnreadableImage, is_upright_rgb_jpeg
from regionssl.data.images import find_images, scan
from regionssl.data.packing import PackConfig, packed, reduce
from regionssl.errors import InputError
from regionssl.verbs.regions import find_regions


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """Smooth, so that JPEG keeps it nearly."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def coded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def turned(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return coded(image, "JPEG", exif=exif)


SAME = {"plain.jpg", "unturned.jpg", "sub/deep.jpg", "progressive.jpg"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of all sorts, all small."""
    files = {
        "plain.jpg": coded(picture(1), "JPEG", quality=90),
        "unturned.jpg": turned(picture(2), 1),
        "turned.jpg": turned(picture(3), 6),
        "sub/deep.jpg": coded(picture(4, 61, 33), "JPEG"),
        "progressive.jpg": coded(picture(5), "JPEG", progressive=True),
        "grey.jpg": coded(picture(6).convert("L"), "JPEG"),
        "cmyk.jpg": coded(picture(7).convert("CMYK"), "JPEG"),
        "alpha.png": coded(picture(8).convert("RGBA"), "PNG"),
        "palette.png": coded(picture(9).quantize(16), "PNG"),
        "deep.png": coded(Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50), "PNG"),
        "a.webp": coded(picture(10), "WEBP", lossless=True),
        "a.bmp": coded(picture(11, 39, 31), "BMP"),
        "a.tif": coded(picture(12), "TIFF"),
        "grün\udcff.png": coded(picture(13), "PNG"),
    }
    for name, content in files.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(content)
    return tmp_path / "data"


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(np.float64)


def psnr(one: Image.Image, two: Image.Image) -> float:
    return float(10 * np.log10(255**2 / max(1e-6, np.mean((pixels(one) - pixels(two)) ** 2))))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "checked.json"
    }


def test_raw_packs_hold_the_same_pixels(folder: Path, tmp_path: Path) -> None:
    images, copies = find_images(folder), find_images(pack(folder, tmp_path / "p", format="raw", workers=1))
    assert copies.names == images.names
    assert len(images) == 14
    for i in range(len(images)):
        assert copies.load(i).mode == "RGB"
        np.testing.assert_array_equal(pixels(copies.load(i)), pixels(images.load(i)), ascii(images.names[i]))


def test_jpeg_packs_keep_upright_rgb_jpegs_to_the_byte(folder: Path, tmp_path: Path) -> None:
    images, copies = find_images(folder), find_images(pack(folder, tmp_path / "p", workers=1))
    assert {name for i, name in enumerate(images.names) if copies.read(i) == images.read(i)} == SAME
    for i in range(len(images)):
        assert is_upright_rgb_jpeg(copies.read(i)), images.names[i]
        assert copies.load(i).size == images.load(i).size
        assert psnr(copies.load(i), images.load(i)) > 24, images.names[i]


def test_longer_sides_are_reduced(tmp_path: Path) -> None:
    for size, expected in [((40, 30), (21, 16)), ((30, 40), (16, 21)), ((16, 90), (16, 90)), ((800, 17), (753, 16))]:
        assert reduce(picture(1, *size), 16).size == expected
        assert reduce(picture(1, *size), 0).size == size
    for form in ("jpeg", "raw"):
        content = coded(picture(1, 80, 60), "JPEG")
        small = packed(content, PackConfig(format=form, short_side=30, quality=95))
        reference = picture(1, 80, 60).resize((40, 30), Image.Resampling.LANCZOS)
        assert psnr(Image.open(io.BytesIO(small)), reference) > 32
    assert len(packed(content, PackConfig(short_side=30, quality=30))) < len(packed(content, PackConfig(short_side=30)))


def test_bytes_do_not_depend_on_processes_or_interruptions(folder: Path, tmp_path: Path) -> None:
    whole = bytes_of(pack(folder, tmp_path / "one", short_side=16, workers=1))
    assert bytes_of(pack(folder, tmp_path / "three", short_side=16, workers=3)) == whole
    part = pack(folder, tmp_path / "part", short_side=16, workers=1)
    for left in ("complete.json", "names.json", "shards/000001.bin"):
        (part / left).unlink()
    (part / "shards/000005.bin").write_bytes(whole["000005.bin"][:-3])
    damaged = bytearray(whole["000007.bin"])
    damaged[-9] ^= 1
    (part / "shards/000007.bin").write_bytes(damaged)
    with pytest.raises(InputError, match=r"unfinished; run the command that began it again"):
        find_images(part)
    pack(folder, part, short_side=16, workers=1)
    assert bytes_of(part) == whole


def test_a_changed_image_is_copied_anew(folder: Path, tmp_path: Path) -> None:
    out = pack(folder, tmp_path / "p", workers=1)
    row = list(find_images(folder).names).index("plain.jpg")
    (folder / "plain.jpg").write_bytes(coded(picture(99), "JPEG", quality=90))
    assert find_images(out).read(row) != (folder / "plain.jpg").read_bytes()
    pack(folder, out, workers=1)
    assert find_images(out).read(row) == (folder / "plain.jpg").read_bytes()


def test_other_settings_or_images_are_refused(folder: Path, tmp_path: Path) -> None:
    out = pack(folder, tmp_path / "p", workers=1)
    with pytest.raises(InputError, match=r"other images or settings:\n.*quality"):
        pack(folder, out, quality=80, workers=1)
    raw = pack(folder, tmp_path / "r", format="raw", workers=1)
    assert pack(folder, raw, format="raw", quality=80, workers=1) == raw, "of no account to bitmaps"
    (folder / "a.bmp").unlink()
    with pytest.raises(InputError, match="other images or settings"):
        pack(folder, out, workers=1)
    for wrong, match in [
        ({"format": "png"}, "jpeg"),
        ({"quality": 101}, "quality"),
        ({"short_side": 5}, "at least 8 pixels, or 0"),
        ({"workers": 0}, "workers"),
    ]:
        with pytest.raises(InputError, match=match):
            pack(folder, tmp_path / "new", **wrong)


def test_originals_are_named(folder: Path, tmp_path: Path) -> None:
    out = pack(folder, tmp_path / "p", short_side=16, workers=1)
    done = json.loads((out / "complete.json").read_text())
    assert done["images_fingerprint"] == find_images(folder).fingerprint
    assert done["images_fingerprint"] != find_images(out).fingerprint
    assert json.loads((out / "names.json").read_text())["names"] == list(find_images(folder).names)


def broken(folder: Path) -> None:
    """An image that the header does not give away."""
    content = bytearray(coded(picture(1), "PNG"))
    content[60] ^= 255
    (folder / "broken.png").write_bytes(content)


def test_what_cannot_be_decoded_is_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for i in range(19):
        (data / f"{i:02d}.png").write_bytes(coded(picture(i), "PNG"))
    broken(data)
    out = pack(data, tmp_path / "p", format="raw", workers=2)
    copies = find_images(out)
    assert len(copies) == 19
    assert "broken.png" not in copies.names
    assert "broken.png: cannot be decoded" in capsys.readouterr().out
    (aside,) = json.loads((out / "complete.json").read_text())["summary"]["set_aside"]
    assert aside[0] == "broken.png"
    assert scan(copies)[1].used == 19
    (data / "00.png").unlink()
    with pytest.raises(InputError, match=r"1 of the 19 images .* at most 5% may be set aside.*\n  broken.png: cannot"):
        pack(data, tmp_path / "more", workers=1)
    with pytest.raises(InputError, match="unfinished"):
        find_images(tmp_path / "more")


class TestDamage:
    @pytest.fixture
    def out(self, folder: Path, tmp_path: Path) -> Path:
        return pack(folder, tmp_path / "p", format="raw", workers=1)

    def test_content(self, out: Path) -> None:
        shard = out / "shards/000003.bin"
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(content)
        copies = find_images(out)
        for _ in range(2):
            with pytest.raises(UnreadableImage, match=r"damaged shard: .*000003\.bin is damaged.*run the regions"):
                copies.load(3)
        assert copies.load(4).mode == "RGB"
        with pytest.raises(InputError, match=r"1 of the 14 images .*(?s:.*)damaged shard"):
            scan(copies)

    def test_a_shard_cut_short_while_it_is_read(self, out: Path) -> None:
        copies = find_images(out)
        assert copies.load(3).mode == "RGB"
        shard = out / "shards/000003.bin"
        shard.write_bytes(shard.read_bytes()[:-5])
        with pytest.raises(UnreadableImage, match="beyond the end"):
            copies.load(3)
        shard.unlink()
        with pytest.raises(UnreadableImage, match="missing"):
            copies.load(3)

    def test_what_is_seen_at_once(self, out: Path) -> None:
        shard = out / "shards/000003.bin"
        sound = shard.read_bytes()
        for content, match in [
            (sound[:-5], "cut short"),
            (sound[:20], "damaged"),
            (b"", "cannot be read"),
            (b"x" + sound[1:], "not a shard, or its index is damaged"),
        ]:
            shard.write_bytes(content)
            with pytest.raises(InputError, match=f"{match}.*run the regionssl pack that made .* again"):
                find_images(out)
        shard.unlink()
        with pytest.raises(InputError, match=r"000003\.bin cannot be read.*No such file"):
            find_images(out)
        shard.write_bytes((out / "shards/000002.bin").read_bytes())
        assert len(find_images(out)) == 14, "another image's bytes are sound by themselves"

    def test_names(self, out: Path) -> None:
        for content, match in [
            ('{"names": [1, 2]}', "broken"),
            ('{"names": ["a"]}', "1 names for 14 images"),
            ("{", "cannot be read"),
        ]:
            (out / "names.json").write_text(content)
            with pytest.raises(InputError, match=match):
                find_images(out)

    def test_a_store_of_something_else(self, folder: Path, tmp_path: Path) -> None:
        find_regions(folder, tmp_path / "s", kind="windows", set=["size=64"], devices=1)
        with pytest.raises(InputError, match="holds boxes, and images are needed"):
            find_images(tmp_path / "s")

    def test_image_root_is_refused(self, out: Path) -> None:
        with pytest.raises(InputError, match="is a pack; leave it out"):
            find_images(out, out)


def test_packs_are_lists_of_images(folder: Path, tmp_path: Path) -> None:
    copies = find_images(pack(folder, tmp_path / "p", format="raw", workers=1))
    expected = [copies.read(i) for i in range(14)]
    again = pickle.loads(pickle.dumps(copies))
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(again.read, list(range(14)) * 5)) == expected * 5
    chosen = copies.subset([3, 1])
    assert chosen.names == [copies.names[3], copies.names[1]]
    assert [chosen.read(0), chosen.read(1)] == [expected[3], expected[1]]
    assert chosen.stat[0].tolist() == [len(expected[3]), len(expected[1])]
    used, report = scan(copies, cache=tmp_path / "cache")
    assert (report.used, report.formats) == (14, {"BMP": 14})
    assert scan(copies, cache=tmp_path / "cache")[1].from_cache
    assert used.fingerprint == copies.fingerprint


def test_a_pack_of_a_pack(folder: Path, tmp_path: Path) -> None:
    first = pack(folder, tmp_path / "p", format="raw", workers=1)
    second = find_images(pack(first, tmp_path / "q", format="raw", short_side=16, workers=1))
    direct = find_images(pack(folder, tmp_path / "r", format="raw", short_side=16, workers=1))
    assert [second.read(i) for i in range(14)] == [direct.read(i) for i in range(14)]


def test_a_folder_with_a_json_of_that_name_is_a_folder(folder: Path) -> None:
    (folder / "store.json").write_text('{"shop": "flowers"}')
    assert re.search("14 images", repr(find_images(folder)))
