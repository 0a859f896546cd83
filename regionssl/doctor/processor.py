"""Processor and memory: what the machine has, what this process was granted, and what torch makes of it."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from regionssl.data.scan import usable_cores
from regionssl.data.scan_report import amount
from regionssl.doctor.finding import Finding

_GROUPS, _MEMBERSHIP, _MEMINFO = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"), Path("/proc/meminfo")
_NO_LIMIT = 2**60  # version 1 of control groups writes a number near 2**63 for none


@dataclass(frozen=True)
class Processor:
    """Facts about processor and memory.

    Attributes:
        installed: cores of the machine.
        usable: cores that this process may run on.
        quota: cores' worth of time that its control group grants; None for no limit.
        threads: that torch computes with.
        capability: the widest vector instructions that torch uses.
        bf16: whether the processor multiplies in bfloat16.
        memory: bytes that can still be had; None where the system does not say.
    """

    installed: int
    usable: int
    quota: float | None
    threads: int
    capability: str
    bf16: bool
    memory: int | None


def read_processor() -> Processor:
    """The facts of this machine and process."""
    capability = torch.backends.cpu.get_cpu_capability()
    return Processor(
        os.cpu_count() or 1,
        usable_cores(),
        granted_cores(),
        torch.get_num_threads(),
        capability,
        capability == "AVX512" and torch.cpu._is_avx512_bf16_supported(),
        available_memory(),
    )


def check_processor(facts: Processor, workers: int, on_cpu: bool) -> list[Finding]:
    """Cores seen and granted, threads, and bfloat16.

    Args:
        workers: loader processes that a run would start.
        on_cpu: whether it would train on the processor.
    """
    cores = facts.usable if facts.quota is None else min(facts.usable, math.ceil(facts.quota))
    findings = []
    if cores < facts.usable:
        fewer = f"; regionssl pretrain ... --workers {max(1, min(workers, cores - 1))}" if workers else ""
        findings.append(
            Finding(
                "warning",
                "processor",
                f"the control group grants {facts.quota:g} cores' worth of time, but {facts.usable} cores are seen: "
                "threads and loader processes are chosen for too many",
                f"export OMP_NUM_THREADS={cores}{fewer}",
            )
        )
    if facts.threads > cores:
        findings.append(
            Finding(
                "warning",
                "processor",
                f"torch would compute with {facts.threads} threads on {cores} cores",
                f"export OMP_NUM_THREADS={cores}",
            )
        )
    elif on_cpu and facts.threads == 1 and cores > 1:
        findings.append(
            Finding(
                "warning",
                "processor",
                f"torch computes with one thread of {cores} cores, perhaps because a launcher set OMP_NUM_THREADS",
                f"export OMP_NUM_THREADS={cores}",
            )
        )
    if workers > cores:
        findings.append(
            Finding(
                "warning",
                "processor",
                f"{workers} loader processes share {cores} cores",
                f"regionssl pretrain ... --workers {max(1, cores - 1)}",
            )
        )
    arithmetic = "with bfloat16" if facts.bf16 else "without bfloat16: on the CPU a run computes in fp32"
    summary = f"{facts.usable} of {facts.installed} cores, {facts.threads} threads, {facts.capability}, {arithmetic}"
    return findings or [Finding("ok", "processor", summary)]


def check_memory(available: int | None, at_once: int, in_flight: int, largest_image: int) -> list[Finding]:
    """Whether there is room for the batches that loader processes hold ready and for the largest images.

    Args:
        at_once: images that are loaded at the same time.
        in_flight: bytes of all batches that are held ready.
        largest_image: bytes of its pixels; decoding holds them up to three times.
    """
    if available is None:
        return [Finding("note", "memory", "the system does not say how much memory is free")]
    needed = in_flight + 3 * largest_image * at_once
    if needed < 0.8 * available:
        loader = f"; the loader takes up to {amount(needed)}" if needed else ""
        return [Finding("ok", "memory", f"{amount(available)} can be had{loader}")]
    return [
        Finding(
            "warning" if needed < available else "fault",
            "memory",
            f"{at_once} images at a time and the batches held ready may take {amount(needed)}, and {amount(available)} "
            "can be had",
            f"regionssl pretrain ... --workers {max(1, at_once // 2)}, or first: regionssl pack DATA --out PACK",
        )
    ]


def granted_cores(groups: Path = _GROUPS, membership: Path = _MEMBERSHIP) -> float | None:
    """Cores' worth of time that the control groups of this process grant; None for no limit."""
    limits = []
    for text in _read(groups, membership, "", "cpu.max"):
        quota, _, period = text.partition(" ")
        if quota != "max":
            limits.append(int(quota) / int(period or 100_000))
    quotas = _read(groups, membership, "cpu", "cpu.cfs_quota_us")
    for text, period in zip(quotas, _read(groups, membership, "cpu", "cpu.cfs_period_us"), strict=False):
        if int(text) > 0:
            limits.append(int(text) / int(period))
    return min(limits, default=None)


def available_memory(groups: Path = _GROUPS, membership: Path = _MEMBERSHIP, meminfo: Path = _MEMINFO) -> int | None:
    """Bytes that this process can still have: what the system has free, or less if its control group allows less."""
    limits = []
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        limits.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        pass
    for controller, limit, usage in (
        ("", "memory.max", "memory.current"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        allowed, used = _read(groups, membership, controller, limit), _read(groups, membership, controller, usage)
        for most, now in zip(allowed, used, strict=False):
            if most.isdigit() and int(most) < _NO_LIMIT:
                limits.append(max(0, int(most) - int(now)))
    return min(limits, default=None)


def _read(groups: Path, membership: Path, controller: str, name: str) -> list[str]:
    """A file of the control groups that this process is in, from its own up to the root; "" names version 2."""
    try:
        rows = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return []
    places = [path for _, controllers, path in rows if controller in controllers.split(",")]
    found = []
    for place in places:
        own = groups / controller / place.lstrip("/")
        for folder in (own, *own.parents):
            if (folder / name).is_file():
                found.append((folder / name).read_text().strip())
            if folder in (groups, groups / controller):
                break
    return found
