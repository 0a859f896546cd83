"""Two hundred kills at random instants: what lies on disk can be read, and what is resumed ends as if unbroken."""

import csv
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from proof_inputs import labelled_scenes, make_run
from safetensors.torch import load_file

from regionssl import InputError, pretrain
from regionssl.data.scenes import write_scenes
from regionssl.engine.checkpoint import list_checkpoints, load_identity
from regionssl.engine.log import read_log
from regionssl.verbs.pack import pack
from regionssl.verbs.prove import prove
from regionssl.verbs.regions import find_regions

pytestmark = pytest.mark.long

KILLS = 200
"""Of all jobs together."""
TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Job:
    """A command that can be killed.

    Attributes:
        run: begins it in a folder, or goes on with it.
        outcome: what must be equal at its end, by name.
        share: of the kills.
    """

    run: Callable[[Path], object]
    outcome: Callable[[Path], dict[str, bytes]]
    share: float


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, labelled scenes and a run to compare."""
    folder = tmp_path_factory.mktemp("inputs")
    write_scenes(folder / "scenes", 48, size=96, labels=False)
    write_scenes(folder / "few", 16, size=96, labels=False)
    labelled_scenes(folder / "labels", 8, 5)
    make_run(folder / "mine")
    return folder


def job(name: str, inputs: Path) -> Job:
    def train(recipe: str, images: str) -> Callable[[Path], object]:
        return lambda out: pretrain(
            inputs / images,
            out,
            recipe=str(TESTS / recipe),
            workers=1,
            resume=(out / "config.yaml").is_file(),
        )

    if name == "pretrain":
        return Job(train("tiny.yaml", "scenes"), trained, 0.3)
    if name == "stages":
        return Job(train("tiny_orl.yaml", "few"), trained, 0.2)
    if name == "regions":
        return Job(lambda out: find_regions(inputs / "scenes", out, kind="slic", devices=2), everything, 0.15)
    if name == "pack":
        return Job(lambda out: pack(inputs / "scenes", out, workers=2), everything, 0.15)
    settings = ["short_side=64", "pixels=600"]
    return Job(
        lambda out: prove(
            [str(inputs / "mine")],
            "pixel_probe",
            inputs / "labels",
            out,
            fractions=[0.5, 1],
            seeds=2,
            draws=100,
            set=settings,
        ),
        tables,
        0.2,
    )


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def trained(run: Path) -> dict[str, bytes]:
    """Weights of all stages, correspondences, and that each step is in the log once."""
    parts = {}
    for path in sorted(run.rglob("weights.safetensors")):
        for name, tensor in load_file(path).items():
            parts[f"{path.relative_to(run)} {name}"] = tensor.numpy().tobytes()
        steps = [record["step"] for record in read_log(path.with_name("log.jsonl"))]
        assert steps == list(range(len(steps)))
    return parts | {path.name: path.read_bytes() for path in run.glob("stage2/*.npz")}


def tables(proof: Path) -> dict[str, bytes]:
    names = ("results.csv", "differences.csv", "classes.csv", "verdict.txt", "leakage.csv")
    return {name: (proof / name).read_bytes() for name in names}


def read_all(folder: Path) -> None:
    """Whatever has its final name is whole. Names that begin with a dot are of what is being written."""
    for path in folder.rglob("*"):
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".npy":
            np.load(path)
        elif path.suffix == ".npz":
            with np.load(path) as parts:
                for part in parts:
                    parts[part]
        elif path.suffix == ".csv":
            with path.open() as file:
                assert len({len(row) for row in csv.reader(file)}) == 1
        elif path.name == "log.jsonl":
            read_log(path)
    for checkpoints in folder.rglob("checkpoints"):
        for _, path in list_checkpoints(checkpoints):
            load_identity(path)


def work(run: Callable[[Path], object], out: Path, said: Path) -> None:
    """Run a job as a command does: 0 for done, 2 for a sentence, 1 for a crash."""
    os.setsid()
    with said.open("w") as sys.stdout:
        sys.stderr = sys.stdout
        try:
            run(out)
        except InputError as error:
            print(error)
            code = 2
        except BaseException:
            traceback.print_exc()
            code = 1
        else:
            code = 0
        sys.stdout.flush()
    os._exit(code)


def children(parent: int) -> list[int]:
    with suppress(OSError):
        return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    return []


def group_is_gone(leader: int, patience: float = 30) -> bool:
    """Whether all processes of a group end by themselves."""
    limit = time.monotonic() + patience
    while time.monotonic() < limit:
        try:
            os.killpg(leader, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def strike(process: multiprocessing.process.BaseProcess, rng: random.Random) -> str:
    """Kill a job: it alone, it with its workers, or one of its workers."""
    leader = int(process.pid or 0)
    workers = children(leader)
    victim = rng.choice(["leader", "group", *(["worker"] if workers else [])])
    with suppress(ProcessLookupError):
        if victim == "group":
            os.killpg(leader, signal.SIGKILL)
        else:
            os.kill(leader if victim == "leader" else rng.choice(workers), signal.SIGKILL)
    return victim


@pytest.mark.parametrize("name", ["pretrain", "stages", "regions", "pack", "prove"])
def test_kills_at_any_instant_leave_what_can_be_read_and_gone_on_with(name: str, inputs: Path, tmp_path: Path) -> None:
    chosen, rng, context = job(name, inputs), random.Random(name), multiprocessing.get_context("fork")

    def begin(out: Path) -> multiprocessing.process.BaseProcess:
        process = context.Process(target=work, args=(chosen.run, out, tmp_path / "said"))
        process.start()
        return process

    start = time.monotonic()
    begun = begin(tmp_path / "whole")
    begun.join()
    seconds = time.monotonic() - start
    assert begun.exitcode == 0, (tmp_path / "said").read_text()
    expected, wanted, kills = chosen.outcome(tmp_path / "whole"), round(KILLS * chosen.share), 0
    assert expected
    out = tmp_path / "out"
    while kills < wanted:
        process = begin(out)
        process.join(rng.uniform(0, seconds))
        victim = strike(process, rng) if process.is_alive() else None
        process.join(60)
        text = (tmp_path / "said").read_text()
        assert process.exitcode is not None, f"{victim} was killed and the rest waits on: {text}"
        assert process.exitcode in (0, 2, -signal.SIGKILL), text
        assert process.exitcode != 2 or victim == "worker", text
        assert group_is_gone(int(process.pid or 0)), f"{victim} was killed and its workers go on"
        kills += victim is not None
        read_all(out)
        if process.exitcode == 0:
            assert chosen.outcome(out) == expected
            shutil.rmtree(out)
    process = begin(out)
    process.join()
    assert process.exitcode == 0, (tmp_path / "said").read_text()
    assert chosen.outcome(out) == expected
