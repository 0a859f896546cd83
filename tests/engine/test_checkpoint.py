"""Checkpoints are whole or absent, and load without running code."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from regionssl.engine.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint, write_atomically, write_text
from regionssl.errors import InputError


def test_keeps_the_latest(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        save_checkpoint(tmp_path, step, {"step": step, "w": torch.ones(2) * step}, keep=2)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [15, 20]
    assert float(load_checkpoint(list_checkpoints(tmp_path)[-1][1])["w"][0]) == 20


def test_a_failed_write_leaves_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def fail(partial: Path) -> None:
        partial.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left on device"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_ends_in_a_sentence_and_spares_the_checkpoint(tmp_path: Path) -> None:
    """A real full device in the place of the partial file."""
    save_checkpoint(tmp_path, 1, {"step": 1}, keep=1)
    (tmp_path / f".step-000000002.ckpt.{os.getpid()}.partial").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"cannot write .*No space left on device"):
        save_checkpoint(tmp_path, 2, {"w": torch.zeros(100_000)}, keep=1)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [1]


def test_leftovers_of_a_killed_process_are_ignored_and_removed(tmp_path: Path) -> None:
    (tmp_path / ".step-000000009.ckpt.123.partial").write_bytes(b"half a checkpoint")
    assert list_checkpoints(tmp_path) == []
    save_checkpoint(tmp_path, 10, {"step": 10}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000010.ckpt"]


class Evil:
    def __reduce__(self):
        return (os.system, ("echo should not run > ran",))


def test_a_pickle_that_needs_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "step-000000001.ckpt"
    torch.save({"step": 1, "x": Evil()}, path)
    with pytest.raises(InputError, match="cannot be loaded"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match="cannot be loaded"):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 3, {"w": torch.zeros(100)}, keep=1)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="cannot be loaded"):
        load_checkpoint(path)
