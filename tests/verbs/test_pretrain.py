"""The command line as a user meets it: runs, resumes, refusals."""

import importlib
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
from safetensors.torch import load_file
from typer.testing import CliRunner

import regionssl
from regionssl import InputError, load_backbone, pretrain
from regionssl.build import recipe_names
from regionssl.cli import app
from regionssl.engine.checkpoint import list_checkpoints
from regionssl.engine.log import read_log
from regionssl.export import run_weights

TINY = str(Path(__file__).parents[1] / "tiny.yaml")


def refusal(*arguments: str) -> str:
    """The sentence with which the command line refuses."""
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, InputError), result.output
    return str(result.exception)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(str(run / "weights.safetensors"))


def same(one: Path, two: Path) -> bool:
    a, b = weights(one), weights(two)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def finished(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 12 steps."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert pretrain(scenes, out, recipe=TINY) == out
    return out


def test_a_run_leaves_what_the_docs_say(finished: Path) -> None:
    assert {"config.yaml", "run.json", "log.jsonl", "checkpoints", "weights.safetensors", "weights.json"} <= {
        path.name for path in finished.iterdir()
    }
    records = read_log(finished / "log.jsonl")
    assert [record["step"] for record in records] == list(range(12))
    assert {"step", "epoch", "loss", "images_per_second", "data_wait", "p4", "p3", "image"} <= set(records[0])
    assert [step for step, _ in list_checkpoints(finished / "checkpoints")] == [4, 8, 12]
    facts = json.loads((finished / "run.json").read_text())
    assert {choice["setting"] for choice in facts["choices"]} >= {"method.queue", "training.precision"}
    assert yaml.safe_load((finished / "config.yaml").read_text())["method"]["queue"] == 8
    card = json.loads((finished / "weights.json").read_text())
    assert card["step"] == 12
    assert any(key.startswith("fpn.") for key in weights(finished))


def test_the_weights_load_in_one_line(finished: Path) -> None:
    maps = load_backbone(finished)(torch.zeros(1, 3, 64, 64))
    assert {name: tuple(m.shape[2:]) for name, m in maps.items()} == {
        "c2": (16, 16),
        "c3": (8, 8),
        "c4": (4, 4),
        "c5": (2, 2),
    }


def test_a_part_of_the_maps_loads_too(finished: Path) -> None:
    whole, part = load_backbone(finished), load_backbone(finished, ("c3",))
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(part(image)["c3"], whole(image)["c3"])
    assert set(part(image)) == {"c3"}


def test_maps_beyond_the_trained_stages_are_refused(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shallow = {key: value for key, value in run_weights.read_tensors(finished).items() if "layer4" not in key}
    monkeypatch.setattr(run_weights, "read_tensors", lambda run: shallow)
    with pytest.raises(InputError, match="has no weights for layer4: its method trained fewer stages"):
        load_backbone(finished)
    assert load_backbone(finished, ("c4",))(torch.zeros(1, 3, 64, 64)).keys() == {"c4"}


def test_the_resolved_config_repeats_the_run(finished: Path, scenes: Path, tmp_path: Path) -> None:
    pretrain(scenes, tmp_path / "again", recipe=str(finished / "config.yaml"))
    assert same(finished, tmp_path / "again")


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_change_the_weights(finished: Path, scenes: Path, tmp_path: Path, workers: int) -> None:
    pretrain(scenes, tmp_path / "run", recipe=TINY, workers=workers)
    assert same(finished, tmp_path / "run")


def test_another_seed_changes_the_weights(finished: Path, scenes: Path, tmp_path: Path) -> None:
    pretrain(scenes, tmp_path / "run", recipe=TINY, seed=1)
    assert not same(finished, tmp_path / "run")


def test_resume_from_the_middle_is_exact(finished: Path, scenes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "checkpoints" / "step-000000012.ckpt").unlink()
    pretrain(scenes, run, resume=True, workers=1)
    assert same(finished, run)
    assert [record["step"] for record in read_log(run / "log.jsonl")] == list(range(12))


def test_resume_refuses_other_settings_and_other_images(finished: Path, scenes: Path, tmp_path: Path) -> None:
    message = refusal("pretrain", str(scenes), "--out", str(finished), "--resume", "--set", "optimiser.lr=0.2")
    assert "optimiser.lr: 0.1 -> 0.2" in message
    fewer = tmp_path / "fewer"
    shutil.copytree(scenes, fewer)
    next(iter(sorted(fewer.rglob("*.jpg")))).unlink()
    message = refusal("pretrain", str(fewer), "--out", str(finished), "--resume")
    assert "data.images" in message


def test_an_output_folder_with_a_run_is_refused(finished: Path, scenes: Path) -> None:
    before = sorted(path.name for path in finished.iterdir())
    assert "already holds a run" in refusal("pretrain", str(scenes), "--recipe", TINY, "--out", str(finished))
    assert sorted(path.name for path in finished.iterdir()) == before


def test_refusals_name_the_remedy(scenes: Path, tmp_path: Path) -> None:
    out, data = str(tmp_path / "out"), str(scenes)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    cases = {
        ("pretrain", str(tmp_path / "empty"), "--out", out): "no images",
        ("pretrain", str(tmp_path / "absent"), "--out", out): "absent",
        ("pretrain", data, "--recipe", "resim_fpn_smal", "--out", out): "did you mean resim_fpn_small",
        ("pretrain", data, "--recipe", TINY, "--out", out, "--set", "method.temprature=1"): "did you mean temperature",
        ("pretrain", data, "--recipe", TINY, "--out", out, "--set", "method.temperature"): "key.sub=value",
        ("pretrain", data, "--recipe", TINY, "--out", out, "--set", "method.temperature=-1"): "greater than 0",
        ("pretrain", data, "--recipe", TINY, "--out", out, "--set", "method.name=rsim"): "did you mean resim",
        ("pretrain", data, "--recipe", TINY, "--out", out, "--batch-size", "64"): "larger than the data",
        ("pretrain", data, "--recipe", TINY, "--out", out, "--size", "32"): "too small",
        ("pretrain", data, "--recipe", TINY, "--out", out, "--backbone", "resnet5"): "the nearest are resnet50",
        ("pretrain", data, "--recipe", TINY, "--out", out, "--init", str(tmp_path / "none.pth")): "none.pth",
        ("pretrain", data, "--recipe", TINY, "--out", out, "--precision", "fp8"): "fp32",
        ("pretrain", data, "--recipe", TINY, "--out", str(tmp_path / "file")): "is a file",
        ("pretrain", data, "--recipe", TINY, "--out", out, "--resume"): "holds no run",
        ("pretrain", data, "--recipe", TINY, "--out", out, "--devices", "0"): "count from 1",
    }
    if not torch.cuda.is_available():
        cases["pretrain", data, "--recipe", TINY, "--out", out, "--device", "cuda"] = "no CUDA device"
    for arguments, expected in cases.items():
        assert expected in refusal(*arguments), arguments


def test_the_shell_gets_exit_code_2_and_one_sentence(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "regionssl", "pretrain", str(tmp_path), "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("regionssl: ")
    assert "Traceback" not in result.stderr


def test_dry_run_explains_and_trains_nothing(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("regionssl.verbs.cost.SECONDS", 1.0)
    pretrain(scenes, tmp_path / "run", recipe=TINY, dry_run=True)
    text = capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    for expected in ("method.queue = 8 (recipe: 65536)", "temperature: 0.2", "images/s", "118,287", "memory"):
        assert expected in text


def test_a_loss_that_is_not_finite_stops_with_step_terms_and_files(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"loss of step \d+ is not finite \(.*p4.*\); images of this process: .*\.jpg"):
        pretrain(scenes, tmp_path / "run", recipe=TINY, set=["optimiser.lr=1e30"])


def test_every_recipe_parses_and_states_its_source() -> None:
    found = regionssl.recipes()
    assert sorted(found) == recipe_names()
    assert {"moco_v2_200", "byol_orl", "resim_fpn_200", "resim_c4_200", "scrl_1000", "scrl_small"} <= set(found)
    for config in found.values():
        assert config.about.source
        assert config.about.score


def start(scenes: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "regionssl", "pretrain", str(scenes), "--recipe", TINY, "--out", str(out), *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def run_with_kills(scenes: Path, out: Path, kills: int, seed: int, *more: str) -> int:
    """Start a run, kill -9 it at random moments after its first log line, resume until done; returns kills that hit."""
    rng, hits = random.Random(seed), 0
    while True:
        process = start(scenes, out, *more, *(["--resume"] if (out / "config.yaml").exists() else []))
        if hits < kills:
            deadline, size = time.time() + 60, (out / "log.jsonl").stat().st_size if (out / "log.jsonl").exists() else 0
            while process.poll() is None and time.time() < deadline:
                if (out / "log.jsonl").exists() and (out / "log.jsonl").stat().st_size != size:
                    break
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.6))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                hits += 1
        output = process.communicate()[0].decode()
        if process.returncode == 0:
            return hits
        assert process.returncode == -signal.SIGKILL, output


def test_killed_runs_end_with_the_same_weights(finished: Path, scenes: Path, tmp_path: Path) -> None:
    assert run_with_kills(scenes, tmp_path / "run", kills=2, seed=0) >= 1
    assert same(finished, tmp_path / "run")


@pytest.mark.parametrize("place", ["regionssl.verbs.job.write_weights", "regionssl.engine.run.save_checkpoint"])
@pytest.mark.parametrize("after", [False, True])
def test_a_run_cut_off_while_it_saves_the_last_step_ends_with_the_same_weights(
    finished: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, after: bool
) -> None:
    module, _, name = place.rpartition(".")
    write, calls = getattr(importlib.import_module(module), name), list[object]()

    def cut_off(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) < 3:
            return write(*arguments)
        if after:
            write(*arguments)
        raise ConnectionAbortedError

    monkeypatch.setattr(place, cut_off)
    with pytest.raises(ConnectionAbortedError):
        pretrain(scenes, tmp_path / "run", recipe=TINY)
    monkeypatch.undo()
    pretrain(scenes, tmp_path / "run", resume=True)
    assert same(finished, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "weights.json").read_text())["step"] == 12


@pytest.mark.parametrize("method", ["resim", "scrl"])
def test_two_processes_of_the_command_line_equal_one(scenes: Path, tmp_path: Path, method: str) -> None:
    """Grouped batch norm (ReSim) and synchronised batch norm (SCRL), launched by --devices 2."""
    recipe = yaml.safe_load(Path(TINY).read_text())
    if method == "scrl":
        views = recipe["method"]["plan"]["views"]
        recipe["method"] = {
            "name": "scrl",
            "hidden": 32,
            "plan": {"views": views},
            "boxes": {"boxes": 3, "min_size": 16},
        }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    options = ["--recipe", str(tmp_path / "recipe.yaml"), "--device", "cpu", "--steps", "3"]
    for name, devices in (("one", "1"), ("two", "2")):
        process = start(scenes, tmp_path / name, *options, "--devices", devices)
        output = process.communicate(timeout=120)[0].decode()
        assert process.returncode == 0, output
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, tensor in one.items():
        if "num_batches_tracked" not in name:
            torch.testing.assert_close(two[name], tensor, rtol=5e-3, atol=2e-4)


def test_a_full_disk_ends_in_a_sentence(scenes: Path, tmp_path: Path) -> None:
    """The log of the run is a full device: the real error of the operating system, in the middle of training."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "log.jsonl").symlink_to("/dev/full")
    process = start(scenes, run)
    output = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 2, output
    assert "No space left on device" in output
    assert "Traceback" not in output


@pytest.mark.long
def test_twenty_kills(scenes: Path, tmp_path: Path) -> None:
    pretrain(scenes, tmp_path / "whole", recipe=TINY, epochs=40)
    assert run_with_kills(scenes, tmp_path / "run", 20, 1, "--epochs", "40", "--workers", "1") == 20
    assert same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize(("number", "devices"), [(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_polite_stop_of_one_process_stops_all_and_saves(
    scenes: Path, tmp_path: Path, number: signal.Signals, devices: int
) -> None:
    run = tmp_path / "run"
    process = start(scenes, run, "--epochs", "1000", "--save-every", "100000", "--devices", str(devices))
    while not (run / "log.jsonl").exists() or (run / "log.jsonl").stat().st_size < 1000:
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.02)
    process.send_signal(number)
    output = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 128 + number
    (checkpoint,) = list_checkpoints(run / "checkpoints")
    assert f"stopped at step {checkpoint[0]} of" in output
    assert "--resume" in output
    assert (run / "weights.safetensors").exists()
