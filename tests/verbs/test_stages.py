"""ORL as one run: its stages follow each other, go on where they were interrupted, and can each be run alone."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from regionssl import InputError, pretrain, show
from regionssl.data.scenes import write_scenes
from regionssl.engine.checkpoint import list_checkpoints
from regionssl.engine.log import read_log
from regionssl.verbs import stages

pytest.importorskip("cv2")

TINY = str(Path(__file__).parents[1] / "tiny_orl.yaml")
FILE = Path("stage2") / stages.FILE


def same(one: Path, two: Path) -> bool:
    a, b = (load_file(str(run / "weights.safetensors")) for run in (one, two))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen scenes of 96 px."""
    folder = tmp_path_factory.mktemp("few")
    write_scenes(folder, 16, size=96, labels=False)
    return folder


@pytest.fixture(scope="module")
def finished(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three stages, four steps each where they train."""
    out = tmp_path_factory.mktemp("orl") / "run"
    assert pretrain(scenes, out, recipe=TINY) == out
    return out


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def forget_stage_3(run: Path) -> None:
    """Leave the run as if its third stage had not begun."""
    shutil.rmtree(run / "checkpoints")
    for name in ("weights.safetensors", "weights.json", "log.jsonl", "run.json"):
        (run / name).unlink()


def test_a_run_leaves_three_stages(finished: Path) -> None:
    first, last = (json.loads((run / "weights.json").read_text()) for run in (finished / "stage1", finished))
    assert (first["method"], first["step"]) == ("byol", 4)
    assert (last["method"], last["step"], last["init"]) == ("orl", 4, "random")
    assert (finished / FILE).is_file()
    assert {"global", "intra", "inter", "loss"} <= set(read_log(finished / "log.jsonl")[0])
    plan = yaml.safe_load((finished / "stage1" / "config.yaml").read_text())["method"]["plan"]
    assert [view["crop"] for view in plan["views"]] == ["random", "random"]
    ours, theirs = (load_file(str(run / "weights.safetensors")) for run in (finished / "stage1", finished))
    assert not torch.equal(ours["backbone.conv1.0.weight"], theirs["backbone.conv1.0.weight"])


@pytest.mark.parametrize("interrupted", ["stage 1", "stage 2", "stage 3"])
def test_resume_goes_on_in_the_stage_that_was_interrupted(
    copied: Path, finished: Path, scenes: Path, interrupted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last file of the interrupted stage and all later ones are missing, and the end is the same to the bit."""
    if interrupted == "stage 3":
        (copied / "checkpoints" / "step-000000004.ckpt").unlink()
    else:
        forget_stage_3(copied)
        (copied / FILE).unlink()
    if interrupted == "stage 1":
        (copied / "stage1" / "checkpoints" / "step-000000004.ckpt").unlink()
    pretrain(scenes, copied, resume=True)
    assert same(copied, finished)
    assert (copied / FILE).read_bytes() == (finished / FILE).read_bytes()
    text = capsys.readouterr().out
    assert ("going on from step 2 of 4" in text) == (interrupted != "stage 2")
    assert ("stage 2 of 3" in text) == (interrupted != "stage 3")


def test_stages_alone_equal_the_run(finished: Path, scenes: Path, tmp_path: Path) -> None:
    first = pretrain(scenes, tmp_path / "first", recipe=str(finished / "stage1" / "config.yaml"))
    assert same(first, finished / "stage1")
    last = pretrain(scenes, tmp_path / "last", recipe=TINY, correspondences=finished / FILE)
    assert same(last, finished)
    assert not (last / "stage1").exists()
    assert not (last / "stage2").exists()


def test_a_given_network_takes_the_place_of_stage_1(
    finished: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is remembered: the second stage is interrupted, and the run goes on without being told again."""
    run = tmp_path / "run"
    shutil.copytree(finished / "stage2", run / "stage2")
    (run / FILE).unlink()

    def interrupt(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stages, "correspond", interrupt)
        with pytest.raises(SystemExit):
            pretrain(scenes, run, recipe=TINY, init=str(finished / "stage1"))
    pretrain(scenes, run, resume=True)
    assert not (run / "stage1").exists()
    assert same(run, finished), "the third stage starts from random weights all the same"


def test_the_second_stage_leaves_the_process_as_it_was(
    copied: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(*arguments: object, **named: object) -> None:
        torch.set_num_threads(3)
        torch.backends.cudnn.allow_tf32 = False
        raise KeyboardInterrupt

    forget_stage_3(copied)
    (copied / FILE).unlink()
    monkeypatch.setattr(stages, "correspond", careless)
    before = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    with pytest.raises(SystemExit):
        pretrain(scenes, copied, resume=True)
    assert (torch.get_num_threads(), torch.backends.cudnn.allow_tf32) == before


def test_refusals_come_before_any_work(finished: Path, copied: Path, scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="at least 21 images"):
        pretrain(scenes, out, recipe=TINY, set=["method.correspondence.neighbours=20"])
    with pytest.raises(InputError, match="leave one out"):
        pretrain(scenes, out, recipe=TINY, init="imagenet", correspondences=finished / FILE)
    with pytest.raises(InputError, match="goes with orl"):
        pretrain(scenes, out, recipe=str(finished / "stage1" / "config.yaml"), correspondences=finished / FILE)
    with pytest.raises(InputError, match="cannot be read as correspondences"):
        pretrain(scenes, out, recipe=TINY, correspondences=tmp_path / "none.npz")
    fewer = Path(shutil.copytree(scenes, tmp_path / "fewer"))
    next(iter(sorted(fewer.rglob("*.jpg")))).unlink()
    with pytest.raises(InputError, match="other images"):
        pretrain(fewer, out, recipe=TINY, correspondences=finished / FILE)
    assert not (out / "config.yaml").exists()
    with pytest.raises(InputError, match=r"neighbours: 3 -> 4"):
        pretrain(scenes, finished, resume=True, set=["method.correspondence.neighbours=4"])
    with pytest.raises(InputError, match="network"):
        pretrain(scenes, finished, resume=True, init="imagenet")
    forget_stage_3(copied)
    with pytest.raises(InputError, match=r"optimiser.lr: 0.1 -> 0.2"):
        pretrain(scenes, copied, resume=True, set=["optimiser.lr=0.2"])
    with pytest.raises(InputError, match="already holds a run"):
        pretrain(scenes, finished, recipe=TINY)


def test_correspondences_are_part_of_what_a_run_is(copied: Path, scenes: Path) -> None:
    found = stages.Correspondences.load(copied / FILE)
    found.boxes.values[0] += 1
    found.save(copied / FILE)
    with pytest.raises(InputError, match=r"data.correspondences: \w{16} -> \w{16}"):
        pretrain(scenes, copied, resume=True)


def test_dry_run_tells_the_cost_of_the_stages(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("regionssl.verbs.cost.SECONDS", 0.2)
    pretrain(scenes, tmp_path / "run", recipe=TINY, dry_run=True)
    text = capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert text.index("stage 1 of 3") < text.index("images/s") < text.index("stage 3 of 3")
    assert text.count("images/s") == 2


def test_pictures_show_the_neighbours(finished: Path, scenes: Path, tmp_path: Path) -> None:
    show(finished, tmp_path / "pictures", samples=2)
    show(finished / "stage1", tmp_path / "first", samples=2)
    wide, plain = (Image.open(tmp_path / folder / "views.png").width for folder in ("pictures", "first"))
    assert wide - plain == 4 * (448 + 28) + (448 + 28), "four patches, and the image of the last"
    assert (tmp_path / "pictures" / "pairs.png").is_file()
    assert not (tmp_path / "first" / "pairs.png").exists()
    with pytest.raises(InputError, match="second stage"):
        show(scenes, tmp_path / "none", recipe=TINY)


@pytest.mark.long
def test_killed_runs_end_with_the_same_weights(finished: Path, scenes: Path, tmp_path: Path) -> None:
    run, rng, hits = tmp_path / "run", random.Random(0), 0
    command = [sys.executable, "-m", "regionssl", "pretrain", str(scenes), "--recipe", TINY, "--out", str(run)]
    while True:
        begun = (run / "config.yaml").exists()
        process = subprocess.Popen(
            [*command, *(["--resume"] if begun else [])], env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        deadline = time.time() + rng.uniform(4, 12) * (1 + hits / 4)
        while process.poll() is None and time.time() < deadline and hits < 10:
            time.sleep(0.05)
        if process.poll() is None and hits < 10:
            process.send_signal(signal.SIGKILL)
            hits += 1
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert hits >= 3
    assert same(run, finished)
    assert list_checkpoints(run / "checkpoints")[-1][0] == 4
