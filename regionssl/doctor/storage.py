"""Shared memory, open files, and the disk of a run."""

from __future__ import annotations

import os
import resource
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from regionssl.data.scan_report import amount
from regionssl.doctor.finding import Finding, Level

_SHARED = Path("/dev/shm")
_PROBE = 64 * 2**20
_OWN_FILES = 200  # libraries, logs, sockets
_SLOW_SAVE = 30.0  # seconds


@dataclass(frozen=True)
class Storage:
    """Facts about files and disks.

    Attributes:
        shared: bytes free in the shared memory that loader processes hand batches over in; None where there is none.
        open_files: how many files a process may open, now and at most.
        folder: the nearest folder to the run's that exists.
        free: bytes free there.
        write: bytes per second to it, forced to disk; None if nothing could be written, ``refused`` says why.
        cache: the folder of things kept, if it cannot be written.
    """

    shared: int | None
    open_files: tuple[int, int]
    folder: Path
    free: int
    write: float | None
    refused: str = ""
    cache: Path | None = None


def read_storage(out: Path, cache: Path) -> Storage:
    """The facts of this machine; writes and removes a file of 64 MiB where the run would be."""
    folder = nearest_folder(out)
    write, refused = measure_write(folder)
    return Storage(
        shutil.disk_usage(_SHARED).free if _SHARED.is_dir() else None,
        resource.getrlimit(resource.RLIMIT_NOFILE),
        folder,
        shutil.disk_usage(folder).free,
        write,
        refused,
        None if os.access(nearest_folder(cache), os.W_OK) else cache,
    )


def nearest_folder(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def measure_write(folder: Path, size: int = _PROBE) -> tuple[float | None, str]:
    """Bytes per second to a new file of ``size`` bytes there, forced to disk; or None, and why not."""
    path = folder / f".regionssl-doctor-{os.getpid()}"
    block = os.urandom(2**20)  # file systems that compress would be flattered by zeros
    try:
        start = time.perf_counter()
        with path.open("wb", buffering=0) as file:
            for _ in range(max(1, size // len(block))):
                file.write(block)
            os.fsync(file.fileno())
        return size / (time.perf_counter() - start), ""
    except OSError as error:
        return None, error.strerror or str(error)
    finally:
        path.unlink(missing_ok=True)


def check_shared_memory(free: int | None, in_flight: int, workers: int) -> list[Finding]:
    """Whether the batches that loader processes hold ready fit.

    Args:
        in_flight: their bytes, of all training processes on this machine.
    """
    if free is None or workers == 0:
        return []
    found = f"{amount(free)} free; the loader processes hold up to {amount(in_flight)} of views there"
    if in_flight < 0.5 * free:
        return [Finding("ok", "shared memory", found)]
    gigabytes = -(-2 * in_flight // 2**30)
    fewer = max(0, int(workers * 0.5 * free / in_flight))
    mend = f"docker run --shm-size={gigabytes}g ..., mount -o remount,size={gigabytes}G /dev/shm, or --workers {fewer}"
    return [Finding("fault" if in_flight > free else "warning", "shared memory", found, mend)]


def check_open_files(limit: tuple[int, int], workers: int, views: int) -> list[Finding]:
    """Whether a process may open as many files as batches in flight take: one for each tensor, and pipes."""
    soft, hard = limit
    needed = _OWN_FILES + workers * (4 * (views + 8) + 6)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return [
            Finding("ok", "open files", f"at most {soft if soft >= 0 else 'any number'}, up to {needed} are needed")
        ]
    raised = "" if hard == resource.RLIM_INFINITY or hard >= needed else f" (the most allowed is {hard}; ask for more)"
    found = f"a process may open {soft} files, and {workers} loader processes may need {needed}"
    return [Finding("fault", "open files", found, f"ulimit -n {max(needed, 4096)}{raised}")]


def check_disk(facts: Storage, checkpoint: int, keep: int) -> list[Finding]:
    """Room and speed for a run.

    Args:
        checkpoint: bytes of one.
        keep: checkpoints that stay; one more is there while it is written.
    """
    if facts.write is None:
        mend = "choose another --out, or free room there"
        return [Finding("fault", "disk", f"{facts.folder} cannot be written: {facts.refused}", mend)]
    needed, seconds = (keep + 2) * checkpoint, checkpoint / facts.write
    findings = []
    if facts.free < 1.5 * needed:
        found = f"{facts.folder} has {amount(facts.free)} free, and a run takes about {amount(needed)}"
        level: Level = "fault" if facts.free < needed else "warning"
        findings.append(Finding(level, "disk", found, f"free {amount(2 * needed)}, or --set training.keep=1"))
    if seconds > _SLOW_SAVE:
        found = (
            f"{facts.folder} is written at {amount(facts.write)} a second: each checkpoint of {amount(checkpoint)} "
            f"holds training up for {seconds:.0f} s"
        )
        findings.append(Finding("warning", "disk", found, "a faster disk for --out, or a larger --save-every"))
    summary = f"{amount(facts.free)} free, {amount(facts.write)} a second; a run takes about {amount(needed)}"
    return findings or [Finding("ok", "disk", summary)]


def check_cache(cache: Path | None) -> list[Finding]:
    """Whether outcomes of scans can be kept. ``cache`` is the folder if they cannot."""
    if cache is None:
        return []
    found = f"{cache} cannot be written, so every run scans its images anew"
    return [Finding("warning", "cache", found, "export REGIONSSL_CACHE=a folder that can be written")]
