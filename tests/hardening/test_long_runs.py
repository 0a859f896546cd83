"""Thousands of steps: memory and open files of a run, and of its loader process or threads, do not grow."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from regionssl.engine.log import read_log

pytestmark = pytest.mark.long

STEPS = 5000
ROOM = 24
"""MiB by which the most resident memory may differ between an early and a late part of the run."""
FILES = 40
"""The same of open files, of which batches on their way hold some: their number goes up and down."""
SETTINGS = ["--backbone", "test_resnet", "--size", "32", "--batch-size", "8", "--device", "cpu"]


def family(process: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [process, *(member for child in children for member in family(int(child)))]


def resident_mib(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def measured(process: int) -> tuple[int, float, int]:
    """Number of processes, their memory in MiB, their open files."""
    members = family(process)
    return len(members), sum(map(resident_mib, members)), sum(len(os.listdir(f"/proc/{m}/fd")) for m in members)


@pytest.mark.parametrize(("recipe", "workers"), [("byol_small", 1), ("moco_v2_small", 0), ("moco_v2_small", 1)])
def test_nothing_grows(recipe: str, workers: int, scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "regionssl", "pretrain", str(scenes), "--recipe", recipe, "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1" if workers else "2"}
    with (tmp_path / "said").open("wb") as said:
        run = subprocess.Popen(
            [*command, *SETTINGS, "--steps", str(STEPS), "--workers", str(workers)], stdout=said, env=environment
        )
    early, late = [], []
    while run.poll() is None:
        time.sleep(0.5)
        steps = read_log(out / "log.jsonl")[-1:] if (out / "log.jsonl").is_file() else []
        done = steps[0]["step"] / STEPS if steps else 0
        if 0.1 <= done < 0.4:
            early.append(measured(run.pid))
        elif 0.65 <= done < 0.95:
            late.append(measured(run.pid))
    assert run.returncode == 0
    assert {processes for processes, _, _ in early + late} == {1 + workers}
    for place, room in ((1, ROOM), (2, FILES)):
        assert max(one[place] for one in late) - max(one[place] for one in early) < room
