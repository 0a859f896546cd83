"""Checkpoints: written whole or not at all, the latest few kept, loaded without running code."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from regionssl.errors import InputError

_NAME = re.compile(r"step-(\d{9})\.ckpt")


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a file beside ``path``, force it to disk, and only then put it in the place of ``path``.

    Raises:
        InputError: no room on the disk, or the folder cannot be written; ``path`` is then unchanged.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror}; what was there before is unchanged") from error


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    write_atomically(path, lambda partial: _write_text(partial, json.dumps(content, indent=2) + "\n"))


def write_text(path: Path, content: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda partial: _write_text(partial, content))


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values atomically.

    Raises:
        InputError: as :func:`write_atomically`.
    """
    write_atomically(path, lambda partial: _write_state(partial, state))


def _write_state(path: Path, state: dict[str, Any]) -> None:
    with path.open("wb") as file:  # given a name instead, torch reports a full disk as an internal error
        torch.save(state, file)


def _write_text(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write ``step-000000123.ckpt`` and remove all but the latest ``keep`` checkpoints.

    Raises:
        InputError: the checkpoint cannot be written; the earlier ones are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:09d}.ckpt"
    write_state(path, state)
    for _, old in list_checkpoints(folder)[:-keep]:
        old.unlink(missing_ok=True)
    for partial in folder.glob(".*.partial"):
        partial.unlink(missing_ok=True)
    return path


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The complete checkpoints in a folder as (step, path), oldest first."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted(found)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state in a checkpoint, on the CPU.

    Raises:
        InputError: the file is broken, or holds more than tensors and plain values.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for broken archives and refused pickles
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{path} cannot be loaded as a checkpoint: {said}") from error
    if not isinstance(state, dict):
        raise InputError(f"{path} is not a checkpoint of regionssl")
    return state


def load_identity(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state in a checkpoint of a run, and what the run is.

    Raises:
        InputError: as :func:`load_checkpoint`, or it lacks a part.
    """
    state = load_checkpoint(path)
    identity = state.get("identity")
    absent = sorted({"method", "optimiser", "precision", "step", "identity"} - state.keys())
    if absent or not isinstance(identity, dict) or not {"init", "failed"} <= identity.keys():
        raise InputError(f"{path} is not a whole checkpoint of a run; remove it to go on from the one before")
    return state, identity
