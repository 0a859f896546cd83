"""Filling a store: by several processes, from where an earlier attempt stopped, and only where something is to do."""

from __future__ import annotations

import multiprocessing
import queue
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from regionssl.config import differences
from regionssl.errors import InputError
from regionssl.stores.shards import Coded, DamagedShard, code, read_shard, write_shard
from regionssl.stores.store import COMPLETE, MANIFEST, Manifest, Store, read_manifest, write_json


class Work(Protocol):
    """Makes the arrays or files of a store. It is sent to worker processes, so it must be picklable."""

    @property
    def forks(self) -> bool:
        """Whether a fork of this process may do the work, which starts at once where a new process takes seconds.

        Not so for networks: after a fork, OpenMP may hang and CUDA does not work.
        """

    def start(self, worker: int) -> None:
        """Called once in each process, with its number on this machine, before anything is made."""

    def digest(self, i: int) -> bytes:
        """16 bytes that change when image ``i`` does."""

    def make(self, positions: Sequence[int]) -> Iterator[np.ndarray | bytes | None]:
        """What is kept of the images at ``positions``, in that order; None for an image that cannot be read."""


@dataclass(frozen=True)
class Share:
    """Which shards a process fills: each of ``count`` in turn, so that any number of processes end with the same bytes.

    Attributes:
        processes: on this machine.
        rank, count: of this command among those that share the work (torchrun), 0 of 1 when it is alone.
    """

    processes: int = 1
    rank: int = 0
    count: int = 1


Done = Callable[[int, int], None]
"""Called with the number of images done and how many of them were made, not found."""


def prepare(folder: Path, manifest: Manifest) -> Store:
    """Begin a store, or find the one that was begun.

    Raises:
        InputError: the folder holds something else, or a store of other images or settings.
    """
    try:
        (folder / "shards").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the store {folder}: {error.strerror}") from error
    if not (folder / MANIFEST).is_file():
        others = [path.name for path in folder.iterdir() if path.name != "shards" and not path.name.startswith(".")]
        if others:
            raise InputError(
                f"{folder} holds other files ({', '.join(sorted(others)[:3])}); give the name of a new folder"
            )
        write_json(folder / MANIFEST, manifest.to_plain())
        return Store(folder, manifest)
    changed = differences(read_manifest(folder).to_plain(), manifest.to_plain())
    if changed:
        raise InputError(
            f"the store {folder} was made from other images or settings:\n  "
            + "\n  ".join(changed)
            + "\ngive the same ones, or another folder"
        )
    return Store(folder, manifest)


def fill(store: Store, work: Work, share: Share, done: Done) -> None:
    """Make what is missing, damaged or out of date, in this process or in several new ones.

    Raises:
        InputError: a worker met one.
    """
    if share.processes == 1:
        fill_share(store, work, share.rank, share.count, 0, done)
        return
    context: Any = multiprocessing.get_context("fork" if work.forks and sys.platform == "linux" else "spawn")
    progress = context.Queue()
    total = share.count * share.processes
    threads = max(1, torch.get_num_threads() // share.processes)
    workers = [
        context.Process(
            target=_worker,
            args=(store, work, share.rank * share.processes + number, total, number, threads, progress),
            daemon=True,
        )
        for number in range(share.processes)
    ]
    for worker in workers:
        worker.start()
    try:
        _follow(workers, progress, done)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _follow(workers: Sequence[Any], progress: Any, done: Done) -> None:
    """Pass on what workers report until all have ended."""
    running = True
    while running:
        running = any(worker.is_alive() for worker in workers)  # looked at before the queue, so that nothing is missed
        while True:
            try:
                kind, content = progress.get(timeout=0.1)
            except queue.Empty:
                break
            if kind == "input":
                raise InputError(content)
            if kind == "error":
                raise RuntimeError(f"a worker process failed:\n{content}")
            done(*content)
    failed = [worker.exitcode for worker in workers if worker.exitcode]
    if failed:
        raise InputError(
            f"a worker process was ended from outside (exit code {failed[0]}; out of memory?); run the command again "
            "to go on, perhaps with fewer --devices"
        )


def _worker(store: Store, work: Work, part: int, parts: int, number: int, threads: int, progress: Any) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    parent = multiprocessing.parent_process()

    def done(images: int, made: int) -> None:
        if parent is not None and not parent.is_alive():
            raise SystemExit(1)  # nobody waits for this work any more
        progress.put(("done", (images, made)))

    try:
        fill_share(store, work, part, parts, number, done)
    except InputError as error:
        progress.put(("input", str(error)))
    except OSError as error:
        progress.put(("input", f"cannot write the store {store.folder}: {error.strerror or error}"))
    except Exception:
        progress.put(("error", traceback.format_exc()))


def fill_share(store: Store, work: Work, part: int, parts: int, number: int, done: Done) -> None:
    """Bring every ``parts``-th shard from ``part`` on up to date. ``number`` is that of this process."""
    started = False
    for shard in range(part, store.manifest.shards, parts):
        rows = store.manifest.rows(shard)
        digests = [work.digest(i) for i in rows]
        found = _found(store.shard(shard), digests)
        missing = [i for i, coded in zip(rows, found, strict=True) if coded is None]
        done(len(rows) - len(missing), 0)
        if not missing:
            continue
        if not started:
            work.start(number)
            started = True
        made = {}
        for i, item in zip(missing, work.make(missing), strict=True):
            made[i] = code(item)
            done(1, 1)
        coded = [made[i] if one is None else one for i, one in zip(rows, found, strict=True)]
        write_shard(store.shard(shard), list(zip(digests, coded, strict=True)))


def _found(path: Path, digests: list[bytes]) -> list[Coded | None]:
    """The rows of a shard that are whole and up to date."""
    try:
        rows = read_shard(path)
    except DamagedShard:
        return [None] * len(digests)
    if len(rows) != len(digests):
        return [None] * len(digests)
    return [coded if before == now else None for (before, coded), now in zip(rows, digests, strict=True)]


def unfinished(store: Store) -> int:
    """How many shards are still to come."""
    return sum(not store.shard(number).is_file() for number in range(store.manifest.shards))


def complete(store: Store, fingerprint: str, summary: dict[str, Any]) -> None:
    """Declare the store complete, and remove what killed processes have left."""
    for partial in (store.folder / "shards").glob(".*.partial"):
        if time.time() - partial.stat().st_mtime > 60:  # younger ones may be another process's
            partial.unlink(missing_ok=True)
    write_json(store.folder / COMPLETE, {"images_fingerprint": fingerprint, "summary": summary})
