"""What a machine does to a run: processes lost, files gone, disks full or slow, clocks set back."""

import ast
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from safetensors.torch import load_file

import regionssl
from regionssl import InputError, pretrain
from regionssl.data.images import find_images
from regionssl.data.store import Files
from regionssl.data.views import ViewPlan, ViewSpec
from regionssl.doctor.images import check_speed
from regionssl.doctor.looking import look_at
from regionssl.engine import run as engine_run
from regionssl.engine.checkpoint import list_checkpoints, load_identity
from regionssl.engine.lost import lost_loader, lost_process
from regionssl.engine.train import Trainer

TINY = str(Path(__file__).parents[1] / "tiny.yaml")


@pytest.fixture(scope="module")
def finished(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 12 steps."""
    return pretrain(scenes, tmp_path_factory.mktemp("runs") / "finished", recipe=TINY)


@pytest.fixture
def pictures(scenes: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scenes, tmp_path / "pictures"))


def same(one: Path, two: Path) -> bool:
    a, b = (load_file(str(run / "weights.safetensors")) for run in (one, two))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> None:
    """Do something in the middle of training, when a batch has come and before it is used."""
    known = engine_run.note_failures

    def watched(batch: Any, trainer: Any, *others: Any) -> None:
        if trainer.step == step:
            act()
        known(batch, trainer, *others)

    monkeypatch.setattr(engine_run, "note_failures", watched)


def test_a_killed_loader_process_ends_in_a_sentence_and_the_run_goes_on(
    finished: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def kill() -> None:
        for worker in multiprocessing.active_children():
            os.kill(int(worker.pid or 0), signal.SIGKILL)

    at_step(monkeypatch, 5, kill)
    with pytest.raises(InputError, match=r"a loader process was ended from outside .* go on with --resume"):
        pretrain(scenes, out, recipe=TINY, workers=1)
    monkeypatch.undo()
    checkpoint = list_checkpoints(out / "checkpoints")[-1][1]
    assert load_identity(checkpoint)[0]["step"] >= 4
    pretrain(scenes, out, resume=True)
    assert same(finished, out)


def test_a_loader_process_killed_while_it_hands_a_batch_over_is_a_lost_loader_too(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Trainer.loader

    def broken(self: Trainer, steps: int) -> Iterator[Any]:
        batches = iter(known(self, steps))
        yield from itertools.islice(batches, 5)
        (worker,) = multiprocessing.active_children()
        os.kill(int(worker.pid or 0), signal.SIGKILL)
        raise ConnectionResetError("Connection reset by peer")

    monkeypatch.setattr(Trainer, "loader", broken)
    with pytest.raises(InputError, match=r"a loader process was ended from outside .* go on with --resume"):
        pretrain(scenes, tmp_path / "run", recipe=TINY, workers=1)
    assert load_identity(list_checkpoints(tmp_path / "run" / "checkpoints")[-1][1])[0]["step"] == 5


def test_lost_processes_are_told_by_torchs_words_and_other_errors_are_not() -> None:
    assert lost_loader(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")) is not None
    assert lost_loader(RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly")) is not None
    closed = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:5")
    assert "another of the 2 processes" in str(lost_process(closed, 2))
    assert lost_process(closed, 1) is None
    for other in ("CUDA error: device-side assert", "mat1 and mat2 shapes cannot be multiplied", ""):
        assert lost_loader(RuntimeError(other)) is lost_process(RuntimeError(other), 2) is None


def test_an_image_removed_during_the_run_is_set_aside(pictures: Path, tmp_path: Path, monkeypatch: Any) -> None:
    first = sorted(path for path in pictures.rglob("*") if path.is_file())[0]
    at_step(monkeypatch, 1, first.unlink)
    pretrain(pictures, tmp_path / "run", recipe=TINY, steps=8)
    events = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    aside = [event for event in events if event.get("event") == "set_aside"]
    name = first.relative_to(pictures).as_posix()
    assert [(event["image"], event["reason"]) for event in aside] == [(name, "is missing")]
    assert [event["step"] for event in events if "loss" in event] == list(range(8))


def test_images_that_vanish_by_the_dozen_end_the_run(pictures: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def unlink() -> None:
        for path in [path for path in pictures.rglob("*") if path.is_file()][:20]:
            path.unlink()

    at_step(monkeypatch, 5, unlink)
    with pytest.raises(InputError, match="could not be read during training, which is too many"):
        pretrain(pictures, tmp_path / "run", recipe=TINY)
    assert list_checkpoints(tmp_path / "run" / "checkpoints")


def test_slow_reads_are_named_by_the_doctor(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Files.open

    def slow(self: Files, row: int) -> BinaryIO:
        time.sleep(0.3)
        return known(self, row)

    monkeypatch.setattr(Files, "open", slow)
    looks = look_at(find_images(scenes), ViewPlan(views=(ViewSpec(size=32),)), 3)
    (finding,) = check_speed(looks, 32, 1)
    assert finding.level == "warning"
    assert "reading takes longest" in finding.found


def clock_reads() -> Iterator[str]:
    root = Path(regionssl.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            wall = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            if wall and (node.value.id, node.attr) in {("time", "time"), ("datetime", "now")}:
                yield str(path.relative_to(root))


def test_no_duration_is_taken_from_a_clock_that_can_go_backwards() -> None:
    """The log says when; the age of a leftover file is a matter of the clock that dated it."""
    assert sorted(clock_reads()) == ["engine/run.py", "stores/build.py"]


def start(scenes: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "regionssl", "pretrain", str(scenes), "--recipe", TINY, "--out", str(out), *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


@pytest.mark.long
@pytest.mark.parametrize("victim", ["first", "second"])
def test_a_process_lost_among_two_ends_the_other_with_a_sentence(scenes: Path, tmp_path: Path, victim: str) -> None:
    out = tmp_path / "run"
    process = start(scenes, out, "--epochs", "1000", "--device", "cpu", "--devices", "2", "--workers", "0")
    while not (out / "log.jsonl").exists() or (out / "log.jsonl").stat().st_size < 1000:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    (second,) = [pid for pid in children(process.pid) if b"pretrain" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(process.pid if victim == "first" else second, signal.SIGKILL)
    output = process.communicate(timeout=60)[0]
    assert "another of the 2 processes of this run is gone" in output
    assert "--resume" in output
    if victim == "second":
        assert process.returncode == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory of its own, as large as is asked for by remounting."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, *options: str) -> None:
    subprocess.run(["mount", "-o", ",".join(("remount", *options)), str(folder)], check=True)


@pytest.mark.long
def test_a_real_full_disk(finished: Path, scenes: Path, small_disk: Path) -> None:
    size = max(path.stat().st_size for path in (finished / "checkpoints").iterdir())
    weights = (finished / "weights.safetensors").stat().st_size
    remount(small_disk, f"size={2 * size + 2 * weights + 2**19}")
    out = small_disk / "run"
    process = start(scenes, out)
    output = process.communicate()[0]
    assert process.returncode == 2, output
    assert "No space left on device" in output
    assert "Traceback" not in output
    for _, path in list_checkpoints(out / "checkpoints"):
        load_identity(path)
    remount(small_disk, "size=1g")
    pretrain(scenes, out, resume=True)
    assert same(finished, out)


@pytest.mark.long
def test_a_read_only_disk_is_refused_before_the_first_step(scenes: Path, small_disk: Path) -> None:
    out = small_disk / "run"
    out.mkdir()
    remount(small_disk, "ro")
    with pytest.raises(InputError, match=r"cannot write in .*Read-only file system"):
        pretrain(scenes, out, recipe=TINY)
