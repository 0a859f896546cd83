"""``evaluate`` from the command line: numbers, evidence, artefacts, and sentences for what cannot be used."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from proof_inputs import labelled_scenes, make_run, weights_file
from rich.console import Console
from typer.testing import CliRunner

from regionssl.cli import app
from regionssl.data.scenes import write_scenes
from regionssl.errors import InputError
from regionssl.evaluation.outcome import Confusions, Outcome
from regionssl.evaluation.segmentation.pixel_probe import PixelProbeTask
from regionssl.evaluation.start import open_start
from regionssl.evaluation.tasks import TASKS, load_protocol, protocol_names
from regionssl.verbs.evaluate import evaluate, show_published

SMALL = ["--set", "short_side=64", "--set", "pixels=600"]


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_scenes(tmp_path_factory.mktemp("labels"), 6, 4)


def test_a_run_is_evaluated_and_everything_written(labels: Path, tmp_path: Path) -> None:
    run, out = make_run(tmp_path / "run"), tmp_path / "out"
    said = CliRunner().invoke(
        app, ["evaluate", str(run), "--task", "pixel_probe", "--data", str(labels), "--out", str(out), *SMALL]
    )
    assert said.exit_code == 0, said.output
    kept = json.loads((out / "outcome.json").read_text())
    assert kept["settings"]["short_side"] == 64
    assert kept["protocol"] == "pixel_probe"
    changes = ["pixels: 40000 -> 600", "short_side: 320 -> 64"]
    assert kept["changes"] == changes
    source = load_protocol("pixel_probe").about.source
    assert kept["about"]["source"] == source
    assert f"settings of pixel_probe: {source}" in said.output
    assert f"changed here: {'; '.join(changes)}" in said.output
    assert kept["weights"] == f"run {json.loads((run / 'weights.json').read_text())['sha256']}"
    assert set(kept["versions"]) >= {"torch", "regionssl"}
    assert kept["data"]["source"] == str(labels.resolve())
    counts = np.load(out / "evidence.npz")["counts"]
    assert Confusions(counts).metric(np.arange(4)) == pytest.approx(kept["metrics"][kept["primary"]])
    for place in kept["artefacts"].values():
        assert (out / place).exists()
    assert "6 images to train on, 4 to score on" in said.output
    assert "no paper reports pixel_probe" in said.output
    again = CliRunner().invoke(
        app, ["evaluate", str(run), "--task", "pixel_probe", "--data", str(labels), "--out", str(out), *SMALL]
    )
    assert isinstance(again.exception, InputError)
    assert "already holds outcome.json" in str(again.exception)


@pytest.mark.parametrize(
    ("changes", "backbone", "told"),
    [
        ([], "resnet50", ""),
        (["iterations=1"], "resnet50", "iterations: 80000 -> 1"),
        ([], "resnet18", "backbone: resnet50 -> resnet18"),
    ],
)
def test_papers_rows_are_said_to_be_of_other_settings(changes: list[str], backbone: str, told: str) -> None:
    protocol = load_protocol("segmentation", "ade20k_fcn", changes)
    outcome = Outcome("mIoU", {"mIoU": 12.3}, {}, Confusions(np.ones((1, 2, 2), np.int64)), {}, 1.0)
    console = Console(record=True, width=400, file=io.StringIO())
    show_published(protocol, outcome, open_start("random", backbone), console)
    said = console.export_text()
    assert "settings of ade20k_fcn: settings not published" in said
    assert "37.9" in said
    apart = f"changed here, so the papers' rows are of other settings: {told}"
    assert (apart in said) == ("measured here, with other settings" in said) == bool(told)


def test_the_help_names_all_tasks_and_recipes_all_protocols() -> None:
    wide = {"COLUMNS": "300", "TERMINAL_WIDTH": "300"}
    said = CliRunner().invoke(app, ["evaluate", "--help"], env=wide).output
    assert ", ".join(TASKS) in " ".join(said.split())
    assert "regionssl recipes" in said
    listed = CliRunner().invoke(app, ["recipes"], env=wide).output
    rows = [re.split(r"\s*[│|]\s*", line.strip("│ ")) for line in listed.splitlines()]
    for task in TASKS:
        for name in protocol_names(task):
            assert [task, name, load_protocol(task, name).about.summary] in rows, name


def test_two_evaluations_are_equal_to_the_last_digit(labels: Path, tmp_path: Path) -> None:
    settings = ["short_side=64", "pixels=600"]
    first, second = (
        evaluate("random", "pixel_probe", labels, tmp_path / name, backbone="resnet18", set=settings, seed=3)
        for name in ("a", "b")
    )
    assert first.metrics == second.metrics
    assert first.per_class == second.per_class


@pytest.mark.parametrize(
    ("weights", "options", "says"),
    [
        ("random", ["--task", "pixel_prob"], "unknown task 'pixel_prob'; did you mean pixel_probe"),
        ("random", [], "random does not say which backbone it is for; add --backbone"),
        ("nowhere", [], "there is no run folder or file of weights nowhere"),
        ("random", ["--backbone", "resnet18", "--task", "detection"], "no known layout|labels of objects|objects"),
        (
            "random",
            ["--backbone", "resnet18", "--devices", "2"],
            "pixel_probe runs in one process; --devices is for det",
        ),
        ("random", ["--backbone", "resnet18", "--devices", "0"], "--devices counts from 1, got 0"),
        (
            "random",
            ["--backbone", "resnet18", "--set", "short_sid=3"],
            "unknown key 'short_sid'; did you mean short_side",
        ),
    ],
)
def test_bad_input_is_a_sentence(labels: Path, tmp_path: Path, weights: str, options: list[str], says: str) -> None:
    arguments = ["evaluate", weights, "--data", str(labels), "--out", str(tmp_path / "out")]
    task = [] if "--task" in options else ["--task", "pixel_probe"]
    result = CliRunner().invoke(app, [*arguments, *task, *options])
    assert isinstance(result.exception, InputError), result.output
    with pytest.raises(InputError, match=says):
        raise result.exception
    assert not (tmp_path / "out" / "outcome.json").exists()


def test_what_trains_nothing_scores_all_images_and_says_so(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", 5, size=48)
    command = ["evaluate", "random", "--backbone", "resnet18", "--data", str(tmp_path / "scenes")]
    options = ["--task", "unsupervised_objects", "--set", "size=64", "--set", "clusters=2", "--device", "cpu"]
    said = CliRunner().invoke(app, [*command, *options, "--out", str(tmp_path / "a")])
    assert "none of the 9 classes (0, 1, 2, 3, 4, 5, ...) is called background" in str(said.exception)
    said = CliRunner().invoke(app, [*command, *options, "--set", 'background=["0"]', "--out", str(tmp_path / "b")])
    assert said.exit_code == 0, said.output
    assert "5 images, all to score on (nothing is trained, and no split is given), 9 classes" in said.output
    assert "to train on" not in said.output
    assert len(np.load(tmp_path / "b" / "evidence.npz")["counts"]) == 5


def test_objects_of_any_area_are_scored(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", 5, size=48)
    file = tmp_path / "scenes" / "annotations.json"
    content = json.loads(file.read_text())
    for one in content["annotations"]:
        one["area"] = 1e11
    file.write_text(json.dumps(content))
    settings = ["iterations=1", "batch_size=2", "train_sizes=[48]", "test_size=48", "max_size=64", "pictures=0"]
    outcome = evaluate("random", "detection", file, tmp_path / "out", backbone="resnet18", set=settings, device="cpu")
    assert outcome.value >= 0


def test_a_lost_loader_process_is_a_sentence(labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*arguments: object) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr(PixelProbeTask, "run", lost)
    with pytest.raises(InputError, match=r"a loader process was ended from outside .* run the command again"):
        evaluate("random", "pixel_probe", labels, tmp_path / "out", backbone="resnet18")


def test_weights_that_take_other_inputs_are_refused(labels: Path, tmp_path: Path) -> None:
    for number, change in enumerate(
        ({"colour_order": "BGR"}, {"value_range": [0, 255]}, {"mean": [123.7, 116.3, 103.5]})
    ):
        run = make_run(tmp_path / f"run{number}", change)
        with pytest.raises(InputError, match=r"BGR|\[0, 255\]|divide them by 255"):
            evaluate(str(run), "pixel_probe", labels, tmp_path / "out", set=["short_side=64", "pixels=600"])


def test_a_backbone_without_the_maps_is_refused(labels: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="all its maps at stride 7"):
        evaluate("random", "pixel_probe", labels, tmp_path / "out", backbone="convmixer_768_32")


def test_a_file_of_weights_gives_what_its_run_gives(labels: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    run = make_run(tmp_path / "run")
    file = weights_file(run, tmp_path / "weights.safetensors")
    settings = ["short_side=64", "pixels=600"]
    by_run = evaluate(str(run), "pixel_probe", labels, tmp_path / "a", set=settings)
    by_file = evaluate(str(file), "pixel_probe", labels, tmp_path / "b", backbone="resnet18", set=settings)
    assert by_run.metrics == by_file.metrics


@pytest.mark.long
def test_two_processes_of_the_command_line_score_what_one_does(labels: Path, tmp_path: Path) -> None:
    options = ["--backbone", "resnet18", "--task", "segmentation", "--device", "cpu"]
    settings = ["crop.size=48", "channels=8", "batch_size=4", "iterations=3", "dropout=0", "lr=0.001"]
    command = [sys.executable, "-m", "regionssl", "evaluate", "random", "--data", str(labels), *options]
    for setting in settings:
        command += ["--set", setting]
    found = {}
    for devices in ("1", "2"):
        out = tmp_path / devices
        subprocess.run(
            [*command, "--out", str(out), "--devices", devices], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        found[devices] = json.loads((out / "outcome.json").read_text())
        assert (out / "evidence.npz").is_file()
    assert found["2"]["devices"] == 2
    assert found["2"]["metrics"] == pytest.approx(found["1"]["metrics"], abs=0.5)
