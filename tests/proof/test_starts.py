"""Starts are opened, told apart, and refused before anything is trained; what they cost is read from their logs."""

import json
from pathlib import Path

import pytest
from fake_evaluator import start
from proof_inputs import make_run, weights_file

from regionssl.backbones.encoder import EncoderConfig
from regionssl.errors import InputError
from regionssl.evaluation.start import Start, weights_digest
from regionssl.proof.cost import pretraining_hours
from regionssl.proof.starts import checked_inputs, maps_of, open_starts


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "a" / "run")


def test_all_starts_take_the_backbone_of_the_first_run(run: Path, tmp_path: Path) -> None:
    file = weights_file(run, tmp_path / "weights.safetensors")
    starts = open_starts([str(run)], ["random", "imagenet", str(file)], None)
    assert [one.name for one in starts] == ["run", "random", "imagenet", "weights"]
    assert {one.config.name for one in starts} == {"resnet18"}


def test_random_weights_do_not_depend_on_the_run(run: Path, tmp_path: Path) -> None:
    card = json.loads((run / "weights.json").read_text())
    other = make_run(tmp_path / "other", {"backbone": card["backbone"] | {"zero_init_last": True}})
    opponents = [open_starts([str(one)], ["random"], None)[1] for one in (run, other)]
    assert opponents[0] == opponents[1]
    assert opponents[1].config == EncoderConfig(name="resnet18")


def test_names_tell_runs_apart(run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "b" / "run", seed=6)
    starts = open_starts([str(run), str(other)], ["random"], None)
    assert [one.name for one in starts] == ["a/run", "b/run", "random"]
    assert len({weights_digest(one) for one in starts}) == 3
    with pytest.raises(InputError, match="is named twice"):
        open_starts([str(run)], [str(run)], None)


def test_another_architecture_is_refused(run: Path, tmp_path: Path) -> None:
    card = json.loads((run / "weights.json").read_text())
    other = make_run(tmp_path / "other", {"backbone": card["backbone"] | {"name": "resnet34"}})
    with pytest.raises(InputError, match=r"holds a resnet34 and .* a resnet18"):
        open_starts([str(run)], [str(other)], None)


def test_imagenet_weights_are_fed_what_they_were_made_for() -> None:
    transformer = Start("imagenet", "imagenet", EncoderConfig(name="vit_small_patch16_224"))
    assert checked_inputs(transformer).mean == (0.5, 0.5, 0.5)
    assert checked_inputs(start("imagenet")).mean == (0.485, 0.456, 0.406)
    assert checked_inputs(start("random")) == start("random")


def test_the_weights_decide_the_digest(run: Path, tmp_path: Path) -> None:
    same = make_run(tmp_path / "same")
    assert weights_digest(start("x", str(run))) == weights_digest(start("y", str(same)))
    file = weights_file(run, tmp_path / "weights.safetensors")
    before = weights_digest(start("x", str(file)))
    file.write_bytes(file.read_bytes() + b" ")
    assert weights_digest(start("x", str(file))) != before


def test_maps_are_those_that_the_settings_name() -> None:
    assert maps_of({"maps": ["c3", "c4"]}) == ("c3", "c4")
    assert maps_of({"maps": ["c1"]}) == maps_of({}) == ("c5",)


def test_hours_are_those_of_all_logged_steps(run: Path) -> None:
    assert pretraining_hours(start("run", str(run))) == pytest.approx(20 * 0.5 / 3600)
    (run / "stage1").mkdir()
    (run / "stage1" / "log.jsonl").write_text('{"step": 99, "loss": 1, "seconds_per_step": 2}\n{"event": "x"}\ntorn')
    assert pretraining_hours(start("run", str(run))) == pytest.approx((20 * 0.5 + 100 * 2) / 3600)
    assert pretraining_hours(start("random")) == 0
    assert pretraining_hours(start("imagenet")) is None
