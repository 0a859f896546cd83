"""Stores: every byte checked, built by any number of processes, and gone on with after anything."""

import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from regionssl.errors import InputError
from regionssl.stores.build import Share, complete, fill, prepare, unfinished
from regionssl.stores.shards import DamagedShard, code, decode, read_digests, read_row, read_shard, write_shard
from regionssl.stores.store import Manifest, Store, check_contents, hash_names, open_store

NAMES = [f"{i:03d}.jpg" for i in range(70)]  # 18 shards of 4 images
MANIFEST = Manifest("labels", {"kind": "slic", "segments": 9}, hash_names(NAMES), len(NAMES))


@dataclass(frozen=True)
class Numbers:
    """Arrays that name their image and its version; image 5 cannot be read."""

    version: int = 0
    changed: tuple[int, ...] = ()
    seconds: float = 0.0
    fails: int = -1
    forks: bool = True

    def start(self, worker: int) -> None:
        pass

    def digest(self, i: int) -> bytes:
        return bytes([i, self.version if i in self.changed else 0] + [0] * 14)

    def make(self, positions: Sequence[int]) -> Iterator[np.ndarray | None]:
        for i in positions:
            time.sleep(self.seconds)
            if i == self.fails:
                raise InputError("image 40 is of the wrong kind")
            rng = np.random.default_rng(i + 1000 * self.digest(i)[1])
            yield None if i == 5 else rng.integers(0, 90, (6, 5))


class Counter:
    def __init__(self) -> None:
        self.images = self.made = 0

    def __call__(self, images: int, made: int) -> None:
        self.images, self.made = self.images + images, self.made + made


def build(folder: Path, work: Numbers = Numbers(), share: Share = Share()) -> Counter:
    store, counter = prepare(folder, MANIFEST), Counter()
    fill(store, work, share, counter)
    if not unfinished(store):
        complete(store, f"print{work.version}", {})
    return counter


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "store"
    counter = build(folder)
    assert (counter.images, counter.made) == (70, 70)
    return folder


INTEGERS = arrays.arrays(
    st.sampled_from([np.int8, np.uint8, np.int32, np.int64, np.uint16]), arrays.array_shapes(min_dims=0, min_side=0)
)
FLOATS = arrays.arrays(st.sampled_from([np.float16, np.float32, np.float64]), arrays.array_shapes(min_side=0))


@settings(max_examples=150)
@given(st.one_of(st.none(), INTEGERS, FLOATS))
def test_an_array_is_read_as_it_was_written(array: np.ndarray | None) -> None:
    again = decode(code(array))
    np.testing.assert_array_equal(again, array)
    assert array is None or again is not None
    if array is not None and array.dtype.kind == "f":
        assert again.dtype == array.dtype


def test_integers_are_kept_narrow() -> None:
    labels = np.random.default_rng(0).integers(0, 200, (40, 40))
    read = decode(code(labels))
    assert read is not None
    assert read.dtype == np.uint8
    assert len(code(np.zeros((400, 400), np.int64))[1]) < 1000


def test_any_damaged_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "shard.bin"
    rows = [(bytes([n] * 16), code(np.arange(n) if n % 2 else None)) for n in range(4)]
    write_shard(path, rows)
    sound = path.read_bytes()
    assert read_shard(path) == rows
    assert read_digests(path) == [digest for digest, _ in rows]
    for place in range(len(sound)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 4]) + sound[place + 1 :])
        with pytest.raises(DamagedShard):
            read_shard(path)
    for length in range(0, len(sound), 7):
        path.write_bytes(sound[:length])
        with pytest.raises(DamagedShard):
            read_shard(path)
    with pytest.raises(DamagedShard):
        read_shard(tmp_path / "absent.bin")


def test_a_damaged_row_leaves_the_others_readable(tmp_path: Path) -> None:
    path = tmp_path / "shard.bin"
    write_shard(path, [(bytes(16), code(np.full(30, n))) for n in range(3)])
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    np.testing.assert_array_equal(read_row(path, 1), np.full(30, 1))
    with pytest.raises(DamagedShard):
        read_row(path, 2)
    with pytest.raises(DamagedShard):
        read_row(path, 3)


def test_reading_at_random(whole: Path) -> None:
    store = open_store(whole, "print0", "labels", MANIFEST.settings)
    assert len(store) == 70
    for i in (69, 0, 37, 5, 38):
        array = store.read(i)
        if i == 5:
            assert array is None
        else:
            np.testing.assert_array_equal(array, np.random.default_rng(i).integers(0, 90, (6, 5)))
    with pytest.raises(IndexError):
        store.read(70)
    assert list(store.digests()) == [Numbers().digest(i) for i in range(70)]


def test_nothing_is_made_twice(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.bin")}
    counter = build(whole)
    assert (counter.images, counter.made) == (70, 0)
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.bin")} == before


@pytest.mark.parametrize("processes", [2, 3, 18])
def test_launched_processes_share_the_work(whole: Path, tmp_path: Path, processes: int) -> None:
    """As under torchrun; the last to end completes the store."""
    counters = []
    for rank in range(processes):
        assert not (tmp_path / "store" / "complete.json").exists()
        counters.append(build(tmp_path / "store", share=Share(1, rank, processes)))
    assert sum(counter.made for counter in counters) == 70
    assert content(tmp_path / "store") == content(whole)


@pytest.mark.parametrize("forks", [True, pytest.param(False, marks=pytest.mark.long)])
def test_two_worker_processes_give_the_same_bytes(whole: Path, tmp_path: Path, forks: bool) -> None:
    counter = build(tmp_path / "store", Numbers(forks=forks), Share(processes=2))
    assert (counter.images, counter.made) == (70, 70)
    assert content(tmp_path / "store") == content(whole)


def test_a_worker_passes_on_what_the_user_should_know(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="image 40 is of the wrong kind"):
        build(tmp_path / "store", Numbers(fails=40), Share(processes=2))
    assert not (tmp_path / "store" / "complete.json").exists()


@pytest.mark.parametrize("after", [1, 6, 17])
def test_killed_and_run_again_gives_the_same_bytes(whole: Path, tmp_path: Path, after: int) -> None:
    folder = tmp_path / "store"
    process = multiprocessing.get_context("fork").Process(target=build, args=(folder, Numbers(seconds=0.002)))
    process.start()
    while len(list(folder.glob("shards/*.bin"))) < after:
        assert process.is_alive()
        time.sleep(0.0005)
    process.kill()
    process.join()
    with pytest.raises(InputError, match="unfinished"):
        open_store(folder, None)
    counter = build(folder)
    assert counter.images == 70
    assert counter.made <= 70 - 4 * after + 4
    assert content(folder) == content(whole)


def test_what_a_killed_process_left_is_removed(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    prepare(folder, MANIFEST)
    left = folder / "shards" / ".000003.bin.77.partial"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    build(folder)
    assert content(folder) == content(whole)


def test_damaged_and_missing_shards_are_made_again(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    build(folder)
    damaged, missing = folder / "shards" / "000002.bin", folder / "shards" / "000009.bin"
    damaged.write_bytes(damaged.read_bytes()[:-3])
    missing.unlink()
    store = open_store(folder, "print0")
    for i in (11, 36):
        with pytest.raises(InputError, match="run the command that made the store again"):
            store.read(i)
    assert build(folder).made == 8
    assert content(folder) == content(whole)


def test_only_changed_images_are_made_again(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    build(folder)
    work = Numbers(version=7, changed=(0, 41, 43))
    store = open_store(folder, "print0")

    def digests() -> list[bytes]:
        return [work.digest(i) for i in range(70)]

    with pytest.raises(InputError, match=r"000\.jpg, 041\.jpg, 043\.jpg;"):
        check_contents(store, NAMES, "stamp", digests)
    assert build(folder, work).made == 3
    changed = {name for name, data in content(whole).items() if content(folder)[name] != data}
    assert changed == {"shards/000000.bin", "shards/000010.bin", "complete.json"}
    check_contents(store, NAMES, "stamp", digests)
    check_contents(store, NAMES, "stamp", list)  # nothing is hashed while the stamp is the same
    with pytest.raises(ValueError, match="shorter"):
        check_contents(store, NAMES, "other", list)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(MANIFEST, settings={"kind": "slic", "segments": 8}), "settings.segments: 9 -> 8"),
        (replace(MANIFEST, names=hash_names(NAMES[::-1])), "names: "),
        (replace(MANIFEST, images=71), "images: 70 -> 71"),
        (replace(MANIFEST, libraries={"scikit-image": "9"}), "scikit-image: .* -> 9"),
    ],
)
def test_a_store_of_something_else_is_not_gone_on_with(whole: Path, other: Manifest, said: str) -> None:
    with pytest.raises(InputError, match=f"(?s)other images or settings.*{said}"):
        prepare(whole, other)


def test_a_store_of_something_else_is_not_read(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"made from other images.*print0.*print9"):
        open_store(whole, "print9")
    with pytest.raises(InputError, match="holds labels, and boxes are needed"):
        open_store(whole, "print0", "boxes")
    with pytest.raises(InputError, match=r"(?s)other settings.*segments: 9 -> 10"):
        open_store(whole, "print0", "labels", {"kind": "slic", "segments": 10})
    with pytest.raises(InputError, match="is not a store: it has no"):
        open_store(tmp_path, None)


def test_other_files_are_not_mixed_with_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.pdf").write_bytes(b"")
    with pytest.raises(InputError, match=r"other files \(thesis\.pdf\)"):
        prepare(tmp_path, MANIFEST)


@pytest.mark.parametrize("text", ["", "{", '{"format": "regionssl store 1"}', '{"format": "regionssl store 0"}'])
def test_a_broken_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "store.json").write_text(text)
    with pytest.raises(InputError, match=r"store\.json"):
        open_store(tmp_path, None)


@settings(max_examples=60)
@given(st.integers(1, 10**7))
def test_every_image_is_in_one_shard(images: int) -> None:
    manifest = Manifest("boxes", {}, "", images)
    assert manifest.rows(0).start == 0
    assert manifest.rows(manifest.shards - 1).stop == images
    assert len(manifest.rows(manifest.shards - 1)) > 0
    middle = manifest.shards // 2
    assert all(i // manifest.shard_size == middle for i in manifest.rows(middle))
    assert manifest.shard_size <= 64


def test_a_manifest_survives_its_file(whole: Path) -> None:
    assert Store(whole, MANIFEST).manifest == open_store(whole, None).manifest
    assert json.loads((whole / "store.json").read_text())["content"] == "labels"
