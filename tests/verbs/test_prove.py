"""``prove`` from the command line on generated scenes: files, sentences, and the same digits again."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from proof_inputs import labelled_scenes, make_run
from typer.testing import CliRunner

from regionssl.cli import _repeated, app
from regionssl.errors import InputError
from regionssl.verbs.prove import prove

SMALL = ["short_side=64", "pixels=600"]
QUICK = ["--set", SMALL[0], "--set", SMALL[1], "--draws", "100"]


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_scenes(tmp_path_factory.mktemp("labels"), 8, 5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "mine")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_comparison_writes_its_files_and_comes_out_the_same_again(labels: Path, run: Path, tmp_path: Path) -> None:
    arguments = ["prove", str(run), "--against", "random", "--task", "pixel_probe", "--data", str(labels)]
    arguments += ["--fractions", "0.01", "1", "--seeds", "2", *QUICK]
    out = tmp_path / "first"
    said = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert said.exit_code == 0, said.output
    results = rows(out / "results.csv")
    assert [(row["start"], row["images"], row["seed"]) for row in results] == [
        (start, images, seed) for start in ("mine", "random") for images in ("1", "8") for seed in ("0", "1")
    ]
    leads = rows(out / "differences.csv")
    assert [row["fraction"] for row in leads] == ["0.01", "1.0", "all"]
    for row in leads:
        assert float(row["low"]) <= float(row["difference"]) <= float(row["high"])
    mean = sum(float(row["difference"]) for row in leads[:-1]) / 2
    assert float(leads[-1]["difference"]) == pytest.approx(mean)
    verdict = (out / "verdict.txt").read_text().strip()
    assert verdict in " ".join(said.output.split())
    assert verdict.endswith("; mean over 2 label fractions, 5 validation images, 2 seeds.")
    page = (out / "proof.html").read_text()
    assert "Did pre-training help? pixel_probe on" in page
    assert page.count("data:image/jpeg;base64") >= 1
    assert "0.01 of the labels is 1 image for 9 classes" in said.output
    assert "the images that mine was pre-trained on are not at hand" in said.output
    cost = {row["start"]: row for row in rows(out / "cost.csv")}
    assert float(cost["mine"]["pretraining_hours"]) == pytest.approx(20 * 0.5 / 3600)
    assert float(cost["random"]["pretraining_hours"]) == 0

    elsewhere = tmp_path / "second"
    assert CliRunner().invoke(app, [*arguments, "--out", str(elsewhere)]).exit_code == 0
    for name in ("results.csv", "differences.csv", "classes.csv", "verdict.txt", "leakage.csv"):
        assert (elsewhere / name).read_bytes() == (out / name).read_bytes(), name

    again = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert again.exit_code == 0
    assert again.output.count("found done") == 8
    (elsewhere / "leakage.json").write_text("{")  # looked for again
    (elsewhere / "plan.json").write_text("")
    damaged = CliRunner().invoke(app, [*arguments, "--out", str(elsewhere)])
    assert isinstance(damaged.exception, InputError)
    assert "plan.json is damaged" in str(damaged.exception)
    other = CliRunner().invoke(app, [*arguments, "--out", str(out), "--seeds", "1"])
    assert isinstance(other.exception, InputError)
    assert "seeds: 2 -> 1" in str(other.exception)
    assert f"--cells {out / 'cells'}" in str(other.exception)


def test_comparisons_share_trainings(labels: Path, run: Path, tmp_path: Path) -> None:
    arguments = ["prove", str(run), "--task", "pixel_probe", "--data", str(labels), "--seeds", "1", *QUICK]
    arguments += ["--cells", str(tmp_path / "cells")]
    first, more = tmp_path / "first", tmp_path / "more"
    assert CliRunner().invoke(app, [*arguments, "--fractions", "1", "--out", str(first)]).exit_code == 0
    said = CliRunner().invoke(app, [*arguments, "--fractions", "0.5", "1", "--out", str(more)])
    assert said.exit_code == 0, said.output
    assert said.output.count("found done") == 2
    assert [row for row in rows(more / "results.csv") if row["fraction"] == "1.0"] == rows(first / "results.csv")

    made_with = tmp_path / "cells" / "made_with.json"
    facts = json.loads(made_with.read_text())
    made_with.write_text(json.dumps(facts | {"device": "cuda"}))
    other = CliRunner().invoke(app, [*arguments, "--fractions", "1", "--out", str(tmp_path / "other")])
    assert isinstance(other.exception, InputError)
    assert re.search(r"cells holds trainings of another device .*\n  device: cuda -> cpu", str(other.exception))


def test_validation_images_that_were_pre_trained_on_do_not_count(labels: Path, run: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    seen.mkdir()
    chosen = sorted((labels / "images" / "val").iterdir())[:2]
    for image in chosen:
        (seen / image.name).write_bytes(image.read_bytes())
    prove(
        [str(run)],
        "pixel_probe",
        labels,
        tmp_path / "out",
        set=SMALL,
        fractions=[1.0],
        seeds=1,
        draws=100,
        unlabelled=seen,
    )
    listed = rows(tmp_path / "out" / "leakage.csv")
    assert {row["near_image"].split("/")[-1] for row in listed} == {image.name for image in chosen}
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["data"]["images"] == "8 train, 3 val"
    page = (tmp_path / "out" / "proof.html").read_text()
    assert "2 of 5 validation images are near-copies and were left out" in page
    assert "one seed: the intervals cover images alone" in page
    with pytest.raises(InputError, match="all 5 validation images are near-copies"):
        prove([str(run)], "pixel_probe", labels, tmp_path / "none", set=SMALL, unlabelled=labels / "images" / "val")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--task", "pixel_prob"], "unknown task 'pixel_prob'; did you mean pixel_probe"),
        (["--fractions", "0.5", "1.5"], "--fractions lie above 0 and are at most 1, got 1.5"),
        (["--fractions", "0"], "--fractions lie above 0 and are at most 1, got 0"),
        (["--seeds", "0"], "--seeds and --devices count from 1, got 0 and 1"),
        (["--budget", "soon"], "--budget soon: expected a time such as 90s"),
        (["--rates", "0"], "--rates are factors above 0, got 0"),
        (["--draws", "3"], "an interval needs at least 100 draws"),
        (["--search", "2"], "--search is a share of the iterations"),
        (["--recipe", "voc_fcn"], "voc_fcn.yaml is a protocol of the task segmentation"),
        (["--against", "random", "random"], "random is named twice"),
        (["--backbone", "resnet50"], "holds a resnet18, and --backbone says resnet50"),
        (["--unlabelled", "nowhere"], "there is no folder or file nowhere"),
    ],
)
def test_bad_input_is_a_sentence_before_anything_is_trained(
    labels: Path, run: Path, tmp_path: Path, options: list[str], says: str
) -> None:
    out = tmp_path / "out"
    task = [] if "--task" in options else ["--task", "pixel_probe"]
    result = CliRunner().invoke(
        app, ["prove", str(run), *task, "--data", str(labels), "--out", str(out), *QUICK, *options]
    )
    assert isinstance(result.exception, InputError), result.output
    with pytest.raises(InputError, match=re.escape(says)):
        raise result.exception
    assert not (out / "cells").exists()


def test_imagenet_without_a_network_is_a_sentence(
    labels: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("regionssl.backbones.weights.timm_model", offline)
    with pytest.raises(InputError, match="timm could not get weights for resnet18"):
        prove([str(run)], "pixel_probe", labels, tmp_path / "out", ["random", "imagenet"], set=SMALL)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_things_is_left_alone(labels: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("do not overwrite")
    with pytest.raises(InputError, match="holds other files"):
        prove([str(run)], "pixel_probe", labels, tmp_path, set=SMALL)


def test_several_values_in_a_row_belong_to_their_option() -> None:
    many = {"--against", "--fractions"}
    given = [
        "run1",
        "run2",
        "--against",
        "random",
        "imagenet",
        "--task",
        "x",
        "--fractions",
        "0.1",
        "1",
        "--seeds",
        "3",
    ]
    assert list(_repeated(given, many)) == [
        *("run1", "run2", "--against", "random", "--against", "imagenet", "--task", "x"),
        *("--fractions", "0.1", "--fractions", "1", "--seeds", "3"),
    ]


def test_a_task_that_trains_nothing_scores_all_images_at_one_fraction(run: Path, scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "other" / "noise.png")
    out, settings = tmp_path / "out", ["size=64", "boxes=2", "scales=[0.25]"]
    found = prove(
        [str(run)],
        "correspondence",
        scenes,
        out,
        set=settings,
        fractions=[0.5, 1],
        draws=100,
        unlabelled=tmp_path / "other",
    )
    assert {(point.fraction, point.images) for point in found.points} == {(1.0, 32)}
    assert json.loads((out / "plan.json").read_text())["data"]["images"] == "32 train, 32 val"
    page = (out / "proof.html").read_text()
    assert "correspondence trains nothing on labels, so there is one fraction, all of them" in page
    assert "looked for near-copies among 1 unlabelled, 32 val images" in page
