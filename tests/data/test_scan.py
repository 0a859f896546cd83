"""The first pass: what is set aside, what is reported, what is remembered."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regionssl.data import scan as scanning
from regionssl.data.images import default_cache, find_images, scan
from regionssl.data.store import Files
from regionssl.errors import InputError


def save(path: Path, width: int = 20, height: int = 10, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (width, height)).save(path)
    return path


@pytest.fixture
def forty(tmp_path: Path) -> Path:
    """38 good pictures of three kinds and 2 that cannot be used: just the share that may be set aside."""
    folder = tmp_path / "data"
    for i in range(30):
        save(folder / f"{i:02d}.jpg", 20 + i, 40)
    for i in range(30, 36):
        save(folder / f"{i}.png", 100, 300, "L")
    for i in range(36, 38):
        save(folder / f"{i}.tif", 100, 300, "CMYK")
    (folder / "38.jpg").write_bytes(b"<html>not found</html>")
    (folder / "39.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("ignored")
    return folder


def test_report(forty: Path, tmp_path: Path) -> None:
    used, report = scan(find_images(forty), cache=tmp_path / "cache")
    assert used.names == [path.name for path in sorted(forty.iterdir())[:38]]
    assert (report.found, report.used, report.ignored) == (40, 38, 1)
    assert [name for name, _ in report.set_aside] == ["38.jpg", "39.jpg"]
    assert "not a JPEG" in report.set_aside[0][1]
    assert "empty" in report.set_aside[1][1]
    assert report.formats == {"JPEG": 30, "PNG": 6, "TIFF": 2}
    assert report.modes == {"RGB": 30, "L": 6, "CMYK": 2}
    sides = [min(20 + i, 40) for i in range(30)] + [100] * 8
    assert report.shortest_side == (20, int(np.median(sides)), 100)
    assert report.megapixels == np.median([(20 + i) * 40 for i in range(30)] + [30000] * 8) / 1e6
    assert report.total_bytes == sum((forty / name).stat().st_size for name in used.names)
    assert report.seconds > 0
    assert not report.from_cache


def test_report_for_people_and_files(forty: Path, tmp_path: Path) -> None:
    _, report = scan(find_images(forty), cache=tmp_path)
    text = "\n".join(report.lines())
    for part in (
        "38 used of 40 found; 1 other files ignored",
        "JPEG 30, PNG 6",
        "20 to 100 pixels",
        "39.jpg: is empty",
    ):
        assert part in text
    plain = json.loads(json.dumps(report.to_plain()))
    assert plain == report.to_plain()
    assert plain["set_aside"][1] == ["39.jpg", "is empty (0 bytes)"]


def test_processes_find_what_one_does(forty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = find_images(forty)
    serial = scan(images, 1, tmp_path / "one")[1]
    monkeypatch.setattr(scanning, "_WORTH_PROCESSES", 0)
    monkeypatch.setattr(scanning, "_CHUNK", 7)
    seen: list[tuple[int, int]] = []
    parallel = scan(images, 2, tmp_path / "two", lambda done, total: seen.append((done, total)))[1]
    assert {**parallel.to_plain(), "seconds": 0} == {**serial.to_plain(), "seconds": 0}
    assert seen == [(7, 40), (14, 40), (21, 40), (28, 40), (35, 40), (40, 40)]


def test_more_than_five_percent(forty: Path, tmp_path: Path) -> None:
    (forty / "37.tif").write_bytes(b"II*\0")
    with pytest.raises(InputError, match=r"3 of the 40 images.*at most 5%") as caught:
        scan(find_images(forty), cache=tmp_path)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()[1:]] == ["  37.tif", "  38.jpg", "  39.jpg"]


def test_long_lists_are_cut(tmp_path: Path) -> None:
    for i in range(30):
        (tmp_path / f"{i:02d}.png").write_bytes(b"")
    with pytest.raises(InputError, match="30 of the 30") as caught:
        scan(find_images(tmp_path), cache=tmp_path)
    lines = str(caught.value).splitlines()
    assert (len(lines), lines[-1]) == (22, "  ... and 10 more")


def test_cut_short_is_noticed(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for suffix in ("jpg", "png", "webp", "bmp", "tif"):
        file = tmp_path / f"x.{suffix}"
        Image.fromarray(noise).save(file)
        file.write_bytes(file.read_bytes()[:-1000])
        with pytest.raises(InputError, match="1 of the 1 images"):
            scan(find_images(tmp_path), cache=tmp_path)
        file.unlink()


class TestCache:
    def test_recalled_until_something_changes(self, forty: Path, tmp_path: Path) -> None:
        cache = tmp_path / "cache"

        def again() -> tuple[bool, int]:
            used, report = scan(find_images(forty), cache=cache)
            return report.from_cache, len(used)

        assert again() == (False, 38)
        first = scan(find_images(forty), cache=cache)
        assert again() == (True, 38)
        assert first[1].set_aside
        os.utime(forty / "00.jpg", (1, 1))
        assert again() == (False, 38)
        assert again() == (True, 38)
        content = (forty / "00.jpg").read_bytes()
        (forty / "00.jpg").write_bytes(content + b"\0")
        os.utime(forty / "00.jpg", (1, 1))
        assert again() == (False, 38)
        save(forty / "40.jpg")
        assert again() == (False, 39)
        (forty / "40.jpg").rename(forty / "41.jpg")
        assert again() == (False, 39)
        (forty / "39.jpg").unlink()
        assert again() == (False, 39)
        assert len(list(cache.iterdir())) == 1

    def test_recalled_report_is_the_same(self, forty: Path, tmp_path: Path) -> None:
        (used, report), (recalled, repeated) = (scan(find_images(forty), cache=tmp_path) for _ in range(2))
        different = {"seconds": 0, "from_cache": False}
        assert repeated.from_cache
        assert {**repeated.to_plain(), **different} == {**report.to_plain(), **different}
        assert recalled.fingerprint == used.fingerprint
        assert pickle.loads(pickle.dumps(recalled)).names == used.names

    def test_in_another_folder_or_archive(self, forty: Path, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            for file in forty.iterdir():
                archive.write(file, file.name)
        from_folder, from_zip = (scan(find_images(data), cache=tmp_path) for data in (forty, tmp_path / "x.zip"))
        assert from_zip[0].fingerprint == from_folder[0].fingerprint
        assert from_zip[1].set_aside == from_folder[1].set_aside
        assert not from_zip[1].from_cache
        assert scan(find_images(tmp_path / "x.zip"), cache=tmp_path)[1].from_cache

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"stamp": 1}'])
    def test_broken_cache_is_made_anew(self, forty: Path, tmp_path: Path, content: bytes) -> None:
        cache = tmp_path / "cache"
        scan(find_images(forty), cache=cache)
        (kept,) = cache.iterdir()
        if content == b"{}":
            content = json.dumps({"stamp": json.loads(kept.read_bytes())["stamp"], "bad": "nonsense"}).encode()
        kept.write_bytes(content)
        assert not scan(find_images(forty), cache=cache)[1].from_cache
        assert scan(find_images(forty), cache=cache)[1].from_cache

    def test_cache_that_cannot_be_written(self, forty: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        for _ in range(2):
            assert not scan(find_images(forty), cache=tmp_path / "file" / "cache")[1].from_cache

    def test_failures_of_the_system_are_not_remembered(
        self, forty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (forty / "38.jpg").unlink()
        (forty / "39.jpg").unlink()
        with monkeypatch.context() as patch:
            opened = Files.open

            def closed(files: Files, row: int) -> io.BufferedReader:
                if row == 0:
                    raise PermissionError(13, "Permission denied")
                return opened(files, row)

            patch.setattr(Files, "open", closed)
            _, report = scan(find_images(forty), cache=tmp_path)
            assert report.set_aside == (("00.jpg", "cannot be read: Permission denied"),)
        for recalled in (False, True):
            used, report = scan(find_images(forty), cache=tmp_path)
            assert (len(used), report.from_cache) == (38, recalled)

    def test_where_it_is(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REGIONSSL_CACHE", str(tmp_path / "here"))
        assert default_cache() == tmp_path / "here"
        monkeypatch.delenv("REGIONSSL_CACHE")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert default_cache() == tmp_path / ".cache" / "regionssl"
        save(tmp_path / "data/a.png")
        scan(find_images(tmp_path / "data"))
        assert [file.suffix for file in default_cache().iterdir()] == [".json"]
