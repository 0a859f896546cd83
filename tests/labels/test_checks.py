"""Sizes of upright images, from headers that are read once."""

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from regionssl.data.image_list import ImageList
from regionssl.labels import checks
from regionssl.labels.checks import listed_files, read_headers


@pytest.fixture
def turned(tmp_path: Path, picture: Any) -> ImageList:
    """The eight orientations of EXIF as PNG and JPEG."""
    names = [f"{i}.{kind}" for kind in ("png", "jpg") for i in range(1, 9)]
    for name in names:
        picture(tmp_path / name, orientation=int(name[0]))
    return listed_files(str(tmp_path), names, tmp_path)


def test_sizes_are_those_of_the_decoded_images(turned: ImageList) -> None:
    headers = read_headers(turned)
    assert headers.sizes.tolist() == [list(turned.load(i).size) for i in range(16)]
    assert headers.sideways.tolist() == [False] * 4 + [True] * 4 + [False] * 4 + [True] * 4
    assert not headers.bad


def test_headers_are_read_again_only_when_a_file_changes(turned: ImageList, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_headers(turned)
    opened: list[int] = []
    original = checks.probe
    monkeypatch.setattr(checks, "probe", lambda file: opened.append(1) or original(file))
    again = read_headers(turned)
    assert (again.sizes == first.sizes).all()
    assert (again.sideways == first.sideways).all()
    assert not opened
    file = Path(turned.root) / "3.png"
    Image.new("RGB", (50, 20)).save(file)
    os.utime(file, (1, 1))
    fresh = listed_files(turned.root, list(turned.names), turned.root)
    assert read_headers(fresh).sizes[2].tolist() == [50, 20]
    assert len(opened) == 16


def test_unusable_files_are_named_and_looked_at_again(turned: ImageList) -> None:
    file = Path(turned.root) / "3.png"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    cut = listed_files(turned.root, list(turned.names), turned.root)
    headers = read_headers(cut)
    assert list(headers.bad) == [2]
    assert headers.sizes[2].tolist() == [0, 0]
    file.unlink()
    gone = listed_files(turned.root, list(turned.names), turned.root)
    assert read_headers(gone).bad == {2: "is missing"}
