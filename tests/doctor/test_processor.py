"""Processor and memory of pretend machines."""

from dataclasses import replace
from pathlib import Path

import pytest

from regionssl.doctor.processor import (
    Processor,
    available_memory,
    check_memory,
    check_processor,
    granted_cores,
    read_processor,
)

GOOD = Processor(installed=16, usable=16, quota=None, threads=8, capability="AVX512", bf16=True, memory=32 * 10**9)


def levels(facts: Processor, workers: int = 4, on_cpu: bool = True) -> list[str]:
    return [finding.level for finding in check_processor(facts, workers, on_cpu)]


def test_a_good_processor_is_summarised() -> None:
    (finding,) = check_processor(GOOD, 4, True)
    assert finding.level == "ok"
    assert finding.found == "16 of 16 cores, 8 threads, AVX512, with bfloat16"


@pytest.mark.parametrize(
    ("facts", "workers", "mend"),
    [
        (replace(GOOD, quota=2.0, threads=2), 2, "export OMP_NUM_THREADS=2; regionssl pretrain ... --workers 1"),
        (replace(GOOD, quota=1.5, threads=2), 2, "export OMP_NUM_THREADS=2; regionssl pretrain ... --workers 1"),
        (replace(GOOD, quota=2.0, threads=2), 0, "export OMP_NUM_THREADS=2"),
        (replace(GOOD, usable=4), 4, "export OMP_NUM_THREADS=4"),
        (replace(GOOD, threads=1), 4, "export OMP_NUM_THREADS=16"),
        (replace(GOOD, usable=4, threads=4), 9, "regionssl pretrain ... --workers 3"),
    ],
)
def test_a_bad_processor_is_told_with_its_line(facts: Processor, workers: int, mend: str) -> None:
    findings = check_processor(facts, workers, True)
    assert {finding.level for finding in findings} == {"warning"}
    assert findings[0].mend == mend


def test_one_thread_is_no_matter_beside_a_gpu_or_on_one_core() -> None:
    assert levels(replace(GOOD, threads=1), on_cpu=False) == ["ok"]
    assert levels(replace(GOOD, usable=1, threads=1), workers=1) == ["ok"]


def test_a_quota_above_the_cores_seen_changes_nothing() -> None:
    assert levels(replace(GOOD, quota=64.0)) == ["ok"]


@pytest.mark.parametrize(
    ("available", "level"), [(10**9, "ok"), (700_000_000, "warning"), (500_000_000, "fault"), (None, "note")]
)
def test_memory(available: int | None, level: str) -> None:
    (finding,) = check_memory(available, 2, in_flight=10**8, largest_image=83_333_333)  # 600 MB
    assert finding.level == level
    assert finding.mend.startswith("regionssl pretrain ... --workers 1") == (level in ("warning", "fault"))


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    (tmp_path / "membership").write_text("0::/a/b\n5:cpu,cpuacct:/job\n4:memory:/job\n")
    (tmp_path / "groups" / "a" / "b").mkdir(parents=True)
    (tmp_path / "groups" / "cpu" / "job").mkdir(parents=True)
    (tmp_path / "groups" / "memory" / "job").mkdir(parents=True)
    return tmp_path


def test_quota_is_the_least_on_the_way_up_of_both_versions(groups: Path) -> None:
    def granted() -> float | None:
        return granted_cores(groups / "groups", groups / "membership")

    assert granted() is None
    (groups / "groups" / "a" / "b" / "cpu.max").write_text("max 100000\n")
    assert granted() is None
    (groups / "groups" / "a" / "cpu.max").write_text("350000 100000\n")
    assert granted() == 3.5
    (groups / "groups" / "cpu" / "job" / "cpu.cfs_quota_us").write_text("-1\n")
    (groups / "groups" / "cpu" / "job" / "cpu.cfs_period_us").write_text("100000\n")
    assert granted() == 3.5
    (groups / "groups" / "cpu" / "job" / "cpu.cfs_quota_us").write_text("50000\n")
    assert granted() == 0.5


def test_memory_is_what_is_free_or_what_the_group_leaves(groups: Path) -> None:
    meminfo = groups / "meminfo"
    meminfo.write_text("MemTotal: 900 kB\nMemAvailable:     500 kB\n")

    def available() -> int | None:
        return available_memory(groups / "groups", groups / "membership", meminfo)

    assert available() == 512_000
    (groups / "groups" / "a" / "b" / "memory.max").write_text("300000")
    (groups / "groups" / "a" / "b" / "memory.current").write_text("100000")
    assert available() == 200_000
    (groups / "groups" / "memory" / "job" / "memory.limit_in_bytes").write_text(str(2**63 - 4096))
    (groups / "groups" / "memory" / "job" / "memory.usage_in_bytes").write_text("5")
    assert available() == 200_000
    meminfo.unlink()
    assert available() == 200_000
    assert available_memory(groups / "none", groups / "none", meminfo) is None


def test_this_machine_can_be_read() -> None:
    facts = read_processor()
    assert 1 <= facts.usable <= facts.installed
    assert facts.memory is None or facts.memory > 10**7
