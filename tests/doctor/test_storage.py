"""Shared memory, open files and disks of pretend machines."""

import resource
from dataclasses import replace
from pathlib import Path

import pytest

from regionssl.doctor.finding import worst
from regionssl.doctor.storage import (
    Storage,
    check_cache,
    check_disk,
    check_open_files,
    check_shared_memory,
    measure_write,
    nearest_folder,
    read_storage,
)

GIB = 2**30
GOOD = Storage(GIB, (1024, 4096), Path("runs"), 100 * GIB, 5e8)


@pytest.mark.parametrize(
    ("free", "level", "size"), [(8 * GIB, "ok", ""), (3 * GIB, "warning", "4g"), (GIB, "fault", "4g")]
)
def test_shared_memory_holds_the_batches_in_flight(free: int, level: str, size: str) -> None:
    (finding,) = check_shared_memory(free, 2 * GIB, 8)
    assert finding.level == level
    assert size in finding.mend


def test_fewer_workers_are_proposed_that_fit_half_of_shared_memory() -> None:
    (finding,) = check_shared_memory(GIB, 2 * GIB, 8)
    assert finding.mend.endswith("--workers 2")
    assert check_shared_memory(64, 10**9, 0) == []
    assert check_shared_memory(None, 10**9, 4) == []


def test_open_files() -> None:
    assert worst(check_open_files((1024, 4096), 4, 2)) == "ok"
    assert worst(check_open_files((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 64, 8)) == "ok"
    (finding,) = check_open_files((256, 65536), 8, 2)
    assert (finding.level, finding.mend) == ("fault", "ulimit -n 4096")
    (finding,) = check_open_files((256, 300), 8, 2)
    assert "the most allowed is 300" in finding.mend


@pytest.mark.parametrize(
    ("change", "level", "word"),
    [
        ({}, "ok", "a second"),
        ({"free": GIB}, "warning", "1.07 GB free"),
        ({"free": GIB // 2}, "fault", "training.keep=1"),
        ({"write": 1e6}, "warning", "holds training up for 200 s"),
        ({"write": None, "refused": "Read-only file system"}, "fault", "Read-only file system"),
    ],
)
def test_disk(change: dict, level: str, word: str) -> None:
    findings = check_disk(replace(GOOD, **change), checkpoint=200_000_000, keep=3)
    assert worst(findings) == level
    assert any(word in finding.found + finding.mend for finding in findings)


def test_writing_is_timed_and_leaves_nothing(tmp_path: Path) -> None:
    speed, refused = measure_write(tmp_path, 2**20)
    assert speed is not None
    assert speed > 0
    assert refused == ""
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    speed, refused = measure_write(tmp_path / "absent", 2**20)
    assert (speed, refused) == (None, "No such file or directory")


def test_the_nearest_folder_exists(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert nearest_folder(tmp_path / "runs" / "first") == tmp_path
    assert nearest_folder(tmp_path / "file" / "below") == tmp_path
    facts = read_storage(tmp_path / "runs" / "first", tmp_path)
    assert (facts.folder, facts.cache) == (tmp_path, None)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_cache_that_cannot_be_written() -> None:
    assert check_cache(None) == []
    assert "REGIONSSL_CACHE" in check_cache(Path("/cache"))[0].mend
