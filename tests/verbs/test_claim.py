"""One command at a time on a folder, and no lock outlives its process."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from regionssl.errors import InputError
from regionssl.verbs.claim import LOCK, claimed
from regionssl.verbs.pack import pack
from regionssl.verbs.pretrain import pretrain

HOLD = """
import os, sys, time
from pathlib import Path
from regionssl.verbs.claim import claimed
with claimed(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        time.sleep(600)
    print(child, flush=True)
    time.sleep(600)
"""
RECIPE = str(Path(__file__).parents[1] / "tiny.yaml")


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder, with a child that outlives it, as a loader process may."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            yield process
        finally:
            process.kill()
            os.kill(child, signal.SIGKILL)


def test_a_held_folder_is_refused_by_every_verb_until_its_process_is_gone(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    with held(tmp_path) as process:
        with pytest.raises(InputError, match=f"process {process.pid} on {socket.gethostname()} is writing"):
            pretrain(scenes, tmp_path, recipe=RECIPE, steps=1)
        with pytest.raises(InputError, match="choose another --out"):
            pack(scenes, tmp_path, workers=1)
        process.kill()
        process.wait()
        with claimed(tmp_path):
            assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert not (tmp_path / LOCK).exists()


def test_other_ranks_and_dry_runs_hold_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with claimed(tmp_path, wanted=False):
        assert not (tmp_path / LOCK).exists()
    monkeypatch.setenv("RANK", "1")
    with claimed(tmp_path):
        assert not (tmp_path / LOCK).exists()


def test_an_error_inside_gives_the_folder_back(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), claimed(tmp_path):
        raise ZeroDivisionError
    assert not (tmp_path / LOCK).exists()


def unsupported(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def write_holder(folder: Path, host: str, process: int) -> None:
    (folder / LOCK).write_text(json.dumps({"host": host, "process": process, "command": "regionssl pretrain"}))


def test_without_locks_the_file_counts_while_its_process_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "lockf", unsupported)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_holder(tmp_path, socket.gethostname(), ended.pid)
    with claimed(tmp_path), pytest.raises(InputError, match=f"process {os.getpid()} on"), claimed(tmp_path):
        pass
    write_holder(tmp_path, "elsewhere", ended.pid)
    with pytest.raises(InputError, match=r"on elsewhere .* if that one has ended, remove "), claimed(tmp_path):
        pass
    (tmp_path / LOCK).write_text("torn{")
    with claimed(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / LOCK).mkdir()
    with pytest.raises(InputError, match="cannot write in"), claimed(tmp_path):
        pass
