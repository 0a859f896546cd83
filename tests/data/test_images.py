"""Finding and reading images in folders, lists, COCO jsons, zips and tars."""

import hashlib
import io
import json
import multiprocessing
import os
import pickle
import struct
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from regionssl.data import archives
from regionssl.data.decode import UnreadableImage
from regionssl.data.images import ImageList, find_images, scan
from regionssl.data.store import Names, Section
from regionssl.errors import InputError


def picture(seed: int = 0, fmt: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)).save(file, fmt)
    return file.getvalue()


def write(folder: Path, *names: str) -> Path:
    """Pictures under these names, each another one."""
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(seed))
    return folder


def make_zip(path: Path, contents: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, contents: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


PICTURES = {f"a/{i}.png": picture(i) for i in range(5)}
MAKERS = {
    "stored zip": lambda path: make_zip(path / "x.zip", PICTURES, zipfile.ZIP_STORED),
    "deflated zip": lambda path: make_zip(path / "x.zip", PICTURES),
    "tar": lambda path: make_tar(path / "x.tar", PICTURES),
    "folder": lambda path: write(path / "x", *PICTURES),
}


@pytest.fixture(params=MAKERS)
def five(request: pytest.FixtureRequest, tmp_path: Path) -> ImageList:
    return find_images(MAKERS[request.param](tmp_path))


class TestFolder:
    def test_any_depth_any_case_in_order(self, tmp_path: Path) -> None:
        write(tmp_path, "b/c/d/x.JPG", "a.png", "B.Tiff", "b/y.webp", "b/z.bmp", "c.jpeg", "notes.txt", "b/data.csv")
        images = find_images(tmp_path)
        assert images.names == ["B.Tiff", "a.png", "b/c/d/x.JPG", "b/y.webp", "b/z.bmp", "c.jpeg"]
        assert images.ignored == 2
        assert images.root == str(tmp_path)

    def test_hidden_files_are_skipped(self, tmp_path: Path) -> None:
        write(tmp_path, "a.png", ".b.png", ".git/c.png", "d/.e/f.png", "._a.png")
        assert find_images(tmp_path).names == ["a.png"]

    def test_links_are_followed_and_circles_end(self, tmp_path: Path) -> None:
        write(tmp_path / "elsewhere", "far/x.png")
        data = write(tmp_path / "data", "real/a.png")
        (data / "real/up").symlink_to(data)
        (data / "again").symlink_to(data / "real")
        (data / "linked").symlink_to(tmp_path / "elsewhere")
        (data / "file.png").symlink_to(tmp_path / "elsewhere/far/x.png")
        (data / "self.png").symlink_to(data / "self.png")
        (data / "gone.png").symlink_to(data / "nothing.png")
        images = find_images(data)
        assert images.names == ["file.png", "gone.png", "linked/far/x.png", "real/a.png", "self.png"]
        assert images.load(0).size == (16, 12)
        for row, reason in ((1, "missing"), (4, "cannot be read")):
            with pytest.raises(UnreadableImage, match=reason):
                images.load(row)

    def test_folder_named_as_an_image(self, tmp_path: Path) -> None:
        assert find_images(write(tmp_path, "a.jpg/b.png")).names == ["a.jpg/b.png"]

    def test_names_that_are_not_utf8(self, tmp_path: Path) -> None:
        with open(os.path.join(os.fsencode(tmp_path), b"\xff\xe4.png"), "wb") as file:
            file.write(picture())
        images = find_images(tmp_path)
        assert images.load(0).size == (16, 12)
        _, report = scan(images)
        "\n".join([*report.lines(), json.dumps(report.to_plain())]).encode()

    def test_relative_root_survives_a_change_of_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path, "x/a.png", "y/b.txt")
        monkeypatch.chdir(tmp_path)
        images = find_images(Path("x"))
        monkeypatch.chdir(tmp_path / "y")
        assert images.load(0).size == (16, 12)

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no folder or file"):
            find_images(tmp_path / "nowhere")

    def test_no_images(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"no images.*\.jpeg \.jpg.*no files at all"):
            find_images(tmp_path)
        write(tmp_path, "a.txt", "b.txt", "c.npy", "README")
        with pytest.raises(InputError, match=r"4 other files \(2 \.txt, "):
            find_images(tmp_path)

    def test_no_permission(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path, "a.png", "closed/b.png")
        scandir = os.scandir

        def closed(folder: Path) -> object:
            if Path(folder).name == "closed":
                raise PermissionError(13, "Permission denied", str(folder))
            return scandir(folder)

        monkeypatch.setattr(os, "scandir", closed)
        with pytest.raises(InputError, match=r"cannot read .*closed: Permission denied"):
            find_images(tmp_path)

    def test_image_root_is_refused(self, tmp_path: Path) -> None:
        write(tmp_path, "a.png")
        with pytest.raises(InputError, match="leave it out"):
            find_images(tmp_path, tmp_path)
        with pytest.raises(InputError, match="not a folder"):
            find_images(tmp_path, tmp_path / "nowhere")


class TestList:
    def test_relative_absolute_comments_and_repeats(self, tmp_path: Path) -> None:
        write(tmp_path, "in/a.png", "in/b", "out/c.png")
        lines = [
            "\ufeff# mine",
            "a.png",
            "",
            f"  {tmp_path}/in/b  ",
            "./a.png",
            "../out/c.png",
            f"{tmp_path}/out/c.png",
        ]
        (tmp_path / "in/list.txt").write_text("\r\n".join(lines))
        images = find_images(tmp_path / "in/list.txt")
        assert images.names == sorted(["../out/c.png", "a.png", "b", f"{tmp_path}/out/c.png"])
        assert all(images.load(i).size == (16, 12) for i in range(4))

    def test_image_root(self, tmp_path: Path) -> None:
        write(tmp_path / "in", "a.png")
        (tmp_path / "list.txt").write_text("a.png\n")
        assert len(find_images(tmp_path / "list.txt", tmp_path / "in")) == 1
        with pytest.raises(InputError, match=r"none of the 1 files listed.*'a\.png'.*--image-root"):
            find_images(tmp_path / "list.txt")

    def test_some_missing_are_left_to_the_scan(self, tmp_path: Path) -> None:
        write(tmp_path, *(f"{i}.png" for i in range(19)))
        (tmp_path / "list.txt").write_text("\n".join(f"{i}.png" for i in range(20)))
        images = find_images(tmp_path / "list.txt")
        used, report = scan(images)
        assert (len(images), len(used)) == (20, 19)
        assert report.set_aside == (("19.png", "is missing"),)

    @pytest.mark.parametrize(
        ("name", "content", "match"),
        [
            ("l.txt", b"", "lists no images"),
            ("l.txt", b"# nothing\n\n", "lists no images"),
            ("l.txt", b"x" * 5000, "none of the 1 files"),
            ("l.txt", b"\xff\xfe\x00\x01", "another kind"),
            ("l.jpg", picture(), "give its folder"),
        ],
    )
    def test_not_a_list(self, tmp_path: Path, name: str, content: bytes, match: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=match):
            find_images(tmp_path / name)


class TestCoco:
    @pytest.mark.parametrize(
        ("file", "root"),
        [
            ("instances.json", ""),
            ("instances.json", "images/"),
            ("annotations/instances_train2017.json", "train2017/"),
            ("annotations/instances_train2017.json", "images/train2017/"),
            ("annotations/train.json", "images/"),
            ("annotations/anything.json", "val2017/"),
            ("train/_annotations.coco.json", "train/"),
        ],
    )
    def test_images_are_found_next_to_the_json(self, tmp_path: Path, file: str, root: str) -> None:
        write(tmp_path, f"{root}b.png", f"{root}a.png", "decoy/images/a.png", "val2014/c.png")
        images = find_images(self.json(tmp_path / file, "b.png", "a.png", "b.png"))
        assert images.names == ["a.png", "b.png"]
        assert images.read(0) == (tmp_path / root / "a.png").read_bytes()

    @staticmethod
    def json(path: Path, *names: str) -> Path:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"images": [{"id": i, "file_name": name} for i, name in enumerate(names)]}))
        return path

    def test_the_folder_with_most_of_them_wins(self, tmp_path: Path) -> None:
        write(tmp_path, "annotations/a.png", "images/a.png", "images/b.png")
        images = find_images(self.json(tmp_path / "annotations/x.json", "a.png", "b.png"))
        assert images.read(1) == (tmp_path / "images/b.png").read_bytes()

    def test_image_root(self, tmp_path: Path) -> None:
        write(tmp_path, "far/a.png", "a.png")
        images = find_images(self.json(tmp_path / "x.json", "a.png"), tmp_path / "far")
        assert images.read(0) == (tmp_path / "far/a.png").read_bytes()

    def test_not_found(self, tmp_path: Path) -> None:
        (tmp_path / "images").mkdir()
        file = self.json(tmp_path / "annotations/x.json", "a.png", "b.png", "c.png", "d.png")
        with pytest.raises(InputError, match=r"'a\.png', 'b\.png', 'c\.png'; give their folder") as caught:
            find_images(file)
        assert {f"  {tmp_path / 'annotations'}", f"  {tmp_path / 'images'}"} < set(str(caught.value).splitlines())
        with pytest.raises(InputError, match="Looked in"):
            find_images(file, tmp_path)

    @pytest.mark.parametrize(
        ("content", "match"),
        [
            ("{", "not a json file"),
            ("", "not a json file"),
            ('["a.png"]', "not a COCO json"),
            ('{"images": []}', "not a COCO json"),
            ('{"images": {"a": 1}}', "not a COCO json"),
            ('{"images": [{"id": 1}, {"file_name": "a"}, 3]}', "2 of the 3 images .* no file_name"),
            ('{"images": [{"file_name": "\\ud800.png"}]}', "not found"),
        ],
    )
    def test_broken(self, tmp_path: Path, content: str, match: str) -> None:
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(InputError, match=match):
            find_images(tmp_path / "x.json")


class TestArchives:
    def test_contents(self, five: ImageList) -> None:
        assert [five.read(i) for i in range(5)] == list(PICTURES.values())
        assert five.load(3).size == (16, 12)

    def test_what_is_in_a_tar(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT) as archive:
            for name, kind, content in [
                ("./a", tarfile.DIRTYPE, b""),
                ("./a/b.png", tarfile.REGTYPE, picture(1)),
                ("../../etc/evil.png", tarfile.REGTYPE, picture(2)),
                ("/root.png", tarfile.REGTYPE, picture(3)),
                ("soft.png", tarfile.SYMTYPE, b""),
                ("hard.png", tarfile.LNKTYPE, b""),
                ("./._b.png", tarfile.REGTYPE, b"resource fork"),
                ("a/notes.txt", tarfile.REGTYPE, b"text"),
                ("a//b.png", tarfile.REGTYPE, picture(4)),
                (f"{'long' * 60}.png", tarfile.REGTYPE, picture(5)),
            ]:
                member = tarfile.TarInfo(name)
                member.type, member.size, member.linkname = kind, len(content), "a/b.png"
                archive.addfile(member, io.BytesIO(content))
        images = find_images(tmp_path / "x.tar")
        assert images.names == ["../../etc/evil.png", "/root.png", "a/b.png", f"{'long' * 60}.png"]
        assert images.ignored == 1
        assert [images.read(i) for i in range(4)] == [picture(2), picture(3), picture(4), picture(5)]
        assert {path.name for path in tmp_path.iterdir()} == {"x.tar"}

    @pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_tar_formats_and_odd_names(self, tmp_path: Path, form: int) -> None:
        with tarfile.open(tmp_path / "x", "w", format=form) as archive:
            member = tarfile.TarInfo("grün\udcff.png")
            member.size = len(picture())
            archive.addfile(member, io.BytesIO(picture()))
        images = find_images(tmp_path / "x")
        assert (images.names, images.read(0)) == (["grün\udcff.png"], picture())

    def test_what_is_in_a_zip(self, tmp_path: Path) -> None:
        contents = {
            "a/": b"",
            "a/b.PNG": picture(1),
            "__MACOSX/a/._b.PNG": b"fork",
            "notes.txt": b"x",
            "../up.png": b"y",
        }
        images = find_images(make_zip(tmp_path / "x.zip", contents))
        assert (images.names, images.ignored) == (["../up.png", "a/b.PNG"], 1)
        assert images.read(1) == picture(1)

    def test_zip_behind_other_bytes(self, tmp_path: Path) -> None:
        path = make_zip(tmp_path / "x.zip", PICTURES)
        path.write_bytes(b"#!/bin/sh self-extracting" + path.read_bytes())
        assert find_images(path).read(4) == PICTURES["a/4.png"]

    def test_members_that_cannot_be_unpacked(self, tmp_path: Path) -> None:
        path = make_zip(tmp_path / "x.zip", {"a.png": picture(), "b.png": picture()})
        content = bytearray(path.read_bytes())
        content[60] ^= 255  # within the deflated data of the first
        path.write_bytes(content)
        with zipfile.ZipFile(tmp_path / "y.zip", "w", zipfile.ZIP_LZMA) as archive:
            archive.writestr("a.png", picture())
        encrypted = bytearray(make_zip(tmp_path / "z.zip", {"a.png": picture()}).read_bytes())
        encrypted[encrypted.index(b"PK\1\2") + 8] |= 1
        (tmp_path / "z.zip").write_bytes(encrypted)
        for name, match in (("x", "unpacked"), ("y", "method 14"), ("z", "encrypted")):
            with pytest.raises(UnreadableImage, match=match):
                find_images(tmp_path / f"{name}.zip").read(0)
        assert find_images(path).read(1) == picture()

    def test_archive_replaced_by_a_shorter_one(self, tmp_path: Path) -> None:
        for path in (make_zip(tmp_path / "x.zip", PICTURES), make_tar(tmp_path / "x.tar", PICTURES)):
            images = find_images(path)
            path.write_bytes(path.read_bytes()[:300])
            with pytest.raises(UnreadableImage):
                images.load(4)
            path.unlink()
            with pytest.raises(UnreadableImage, match="missing"):
                find_images_again(images).load(4)

    @pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
    def test_compressed_tars_are_refused(self, tmp_path: Path, mode: str) -> None:
        with pytest.raises(InputError, match=r"compressed \(.*unpack it.*without compression"):
            find_images(make_tar(tmp_path / "x.tar", PICTURES, mode))

    @pytest.mark.parametrize("cut", [700, 1500, -11000])
    def test_broken_tars(self, tmp_path: Path, cut: int) -> None:
        path = make_tar(tmp_path / "x.tar", PICTURES)
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(InputError, match="not a whole tar"):
            find_images(path)

    def test_tar_with_a_damaged_header(self, tmp_path: Path) -> None:
        path = make_tar(tmp_path / "x.tar", PICTURES)
        content = bytearray(path.read_bytes())
        content[content.index(b"a/2.png")] ^= 1
        path.write_bytes(content)
        with pytest.raises(InputError, match="no header at byte"):
            find_images(path)

    @pytest.mark.parametrize(
        ("name", "content"), [("x.zip", b""), ("x.zip", b"PK\3\4junk"), ("x.tar", b""), ("x.tar", b"j")]
    )
    def test_broken_archives(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="not a whole"):
            find_images(tmp_path / name)

    def test_truncated_zip(self, tmp_path: Path) -> None:
        path = make_zip(tmp_path / "x.zip", PICTURES)
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(InputError, match="not a whole zip"):
            find_images(path)

    def test_no_images_in_it(self, tmp_path: Path) -> None:
        for path in (make_zip(tmp_path / "x.zip", {"a.txt": b""}), make_tar(tmp_path / "x.tar", {"a.txt": b""})):
            with pytest.raises(InputError, match=r"no images.*1 other files \(1 \.txt\)"):
                find_images(path)

    def test_index_is_made_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REGIONSSL_CACHE", str(tmp_path / "cache"))
        paths = [make_zip(tmp_path / "x.zip", PICTURES), make_tar(tmp_path / "x.tar", PICTURES)]
        first = [find_images(path) for path in paths]
        with monkeypatch.context() as patch:
            for kind in ("zip", "tar"):
                patch.setattr(archives, f"_{kind}_members", lambda _: pytest.fail("indexed again"))
            for path, before in zip(paths, first, strict=True):
                again = find_images(path)
                assert again.names == before.names
                assert again.read(2) == PICTURES["a/2.png"]
        make_tar(paths[1], {"other.png": picture(9)})
        assert find_images(paths[1]).names == ["other.png"]
        for kept in (tmp_path / "cache").iterdir():
            kept.write_bytes(kept.read_bytes()[:100])
        assert find_images(paths[0]).names == first[0].names


def find_images_again(images: ImageList) -> ImageList:
    return pickle.loads(pickle.dumps(images))


class TestImageList:
    def test_pickle_and_fork_and_threads(self, five: ImageList) -> None:
        expected = list(PICTURES.values()) * 40
        rows = list(range(5)) * 40
        assert five.read(0) == expected[0]  # opens the archive before the fork
        with multiprocessing.get_context("fork").Pool(2) as pool:
            forked = pool.map_async(five.read, rows, chunksize=5)
            assert [five.read(row) for row in rows] == expected
            assert forked.get(30) == expected
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(five.read, rows)) == expected
        copy = find_images_again(five)
        assert copy.names == five.names
        assert copy.fingerprint == five.fingerprint
        assert copy.read(4) == expected[4]

    def test_subset(self, five: ImageList) -> None:
        chosen = five.subset([3, 1])
        assert chosen.names == ["a/3.png", "a/1.png"]
        assert [chosen.read(i) for i in range(2)] == [PICTURES["a/3.png"], PICTURES["a/1.png"]]
        assert five.fingerprint != chosen.fingerprint == five.subset([3, 1]).fingerprint
        assert len(five.subset([])) == 0

    def test_fingerprint_is_of_names_and_sizes_alone(self, tmp_path: Path) -> None:
        prints = {name: find_images(make(tmp_path)).fingerprint for name, make in MAKERS.items()}
        assert len(set(prints.values())) == 1
        file = tmp_path / "x/a/0.png"
        os.utime(file, (0, 0))
        assert find_images(tmp_path / "x").fingerprint == prints["folder"]
        file.write_bytes(file.read_bytes() + b"x")
        assert find_images(tmp_path / "x").fingerprint != prints["folder"]

    def test_fingerprint_stays_the_same_over_versions(self, tmp_path: Path) -> None:
        for name in ("a.png", "b/c.jpg"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(bytes(10))
        ends, sizes = struct.pack("<2q", 5, 12), struct.pack("<2q", 10, 10)
        expected = hashlib.sha256(ends + b"a.pngb/c.jpg" + sizes).hexdigest()[:16]
        assert find_images(tmp_path).fingerprint == expected == "825b1246381de310"

    def test_io_errors_become_unreadable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        images = find_images(write(tmp_path, "a.png", "b.png"))

        def fail(row: int) -> io.BytesIO:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(images.store, "open", fail)
        with pytest.raises(UnreadableImage, match="cannot be read: Input/output error"):
            images.load(0)

    def test_a_million_names_stay_small(self) -> None:
        names = Names(f"train/n{i:08d}/image_{i:08d}.JPEG" for i in range(100_000))
        assert len(pickle.dumps(names)) < 50 * 100_000
        assert names[99_999] == names[-1] == "train/n00099999/image_00099999.JPEG"


@given(st.lists(st.text(max_size=6), max_size=8))
def test_names_are_what_went_in(strings: list[str]) -> None:
    names = Names(strings)
    assert names == strings
    assert list(names) == strings
    assert names[::-2] == strings[::-2]
    assert names == pickle.loads(pickle.dumps(names))
    assert names != [*strings, ""]
    with pytest.raises(IndexError):
        names[len(strings)]


@given(
    st.integers(0, 30),
    st.integers(0, 30),
    st.lists(st.tuples(st.sampled_from(["read", "set", "move", "end"]), st.integers(0, 40)), max_size=8),
)
def test_section_is_a_file(tmp_path_factory: pytest.TempPathFactory, start: int, length: int, steps: list) -> None:
    path = tmp_path_factory.getbasetemp() / "section"
    path.write_bytes(bytes(range(60)))
    oracle = io.BytesIO(bytes(range(60))[start : start + length])
    with path.open("rb") as whole, io.BufferedReader(Section(whole.fileno(), start, length), 4) as section:
        for step, amount in steps:
            if step == "read":
                assert section.read(amount) == oracle.read(amount)
            elif step == "set":
                assert section.seek(amount) == oracle.seek(amount)
            elif step == "move":
                assert section.seek(amount, io.SEEK_CUR) == oracle.seek(amount, io.SEEK_CUR)
            else:
                assert section.seek(-min(amount, length), io.SEEK_END) == oracle.seek(-min(amount, length), io.SEEK_END)
        assert section.read() == oracle.read()
