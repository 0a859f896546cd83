"""The verb ``export``: places, refusals, replacement, comparison."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from regionssl import InputError, export
from regionssl.export.run_weights import CARD, WEIGHTS, digest
from regionssl.export.target import compare
from regionssl.verbs.export import TARGETS, images_of


def test_the_command_line_makes_folders_and_says_what_it_wrote(exported) -> None:
    for words in ("resnet18, step 7", "largest difference in c2, c3, c4, c5 is", "in p4, p3 is", "not pre-trained"):
        assert words in exported.said
    names = ["r18.fpn.json", "r18.fpn.safetensors", "r18.json", "r18.safetensors"]
    assert sorted(os.listdir(exported.out.parent)) == names


@pytest.mark.parametrize(
    ("to", "name", "words"),
    [
        ("torchvison", "a.safetensors", "did you mean torchvision"),
        ("caffe", "a.safetensors", "known: .*timm.*|did you mean"),
        ("detectron2", "a.safetensors", r"ends in \.pkl"),
        ("mmdetection", "a", r"ends in \.pth"),
        ("ultralytics", "a.json", r"ends in \.pt or \.pth"),
        ("onnx", "a.json", r"ends in \.onnx"),
        ("huggingface", "a.safetensors", "is a folder; give a name without the ending"),
        ("huggingface", "file", "exists, and no export has written it"),
        ("huggingface", "", "exists, and no export has written it"),
        ("timm", "", "is a folder; give the name of a file"),
        ("timm", "a.pth", r"ends in \.safetensors"),
        ("timm", "a.json", r"ends in \.safetensors"),
        ("timm", "file/a.safetensors", "cannot write .*what was there before is unchanged"),
    ],
)
def test_refusals(make_run, tmp_path: Path, to: str, name: str, words: str) -> None:
    (tmp_path / "file").write_text("in the way")
    before = sorted(tmp_path.rglob("*"))
    run = make_run("test_resnet")
    with pytest.raises(InputError, match=words):
        export(run, to, tmp_path / name)
    assert sorted(set(tmp_path.rglob("*")) - {run, run / CARD, run / WEIGHTS}) == before


@pytest.mark.parametrize(
    ("to", "name", "given", "words"),
    [
        ("timm", "a.safetensors", {"bgr": True}, "--bgr goes with detectron2, mmdetection, and this is --to timm"),
        ("onnx", "a.onnx", {"no_fpn": True}, "--no-fpn goes with torchvision, detectron2, mmdetection"),
        ("timm", "a.safetensors", {"config": ["coco_fpn_1x"]}, "--config goes with detectron2, mmdetection"),
        ("detectron2", "a.pkl", {"config": ["coco_fpn_1"]}, "did you mean coco_fpn_1x"),
        ("mmdetection", "a.pth", {"config": ["coco_keypoints"]}, "no such config for mmdetection"),
        ("detectron2", "a.pkl", {"config": ["coco_c4_1x"]}, "a C4 head is a stage of detectron2's bottleneck ResNets"),
    ],
)
def test_options_that_do_not_fit(make_run, tmp_path: Path, to: str, name: str, given: dict, words: str) -> None:
    run = make_run("resnet18")
    with pytest.raises(InputError, match=words):
        export(run, to, tmp_path / name, **given)
    assert not list(tmp_path.glob("a*"))


def test_runs_that_cannot_be_exported(make_run, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    with pytest.raises(InputError, match="is not a run folder"):
        export(tmp_path / "nowhere", "timm", out)
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.yaml").touch()
    with pytest.raises(InputError, match="no weights yet"):
        export(unfinished, "timm", out)
    assert not out.exists()


def test_corrupted_weights(make_run, tmp_path: Path) -> None:
    run, out = make_run("test_resnet"), tmp_path / "a.safetensors"
    whole = (run / WEIGHTS).read_bytes()
    (run / WEIGHTS).write_bytes(whole[:-1000])
    with pytest.raises(InputError, match="cannot be read"):
        export(run, "timm", out)
    (run / WEIGHTS).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match="hashes differ"):
        export(run, "timm", out)
    assert not out.exists()


@pytest.mark.parametrize(
    "key", ["backbone.layer1.0.conv1.weight", "fpn.layer_blocks.p4.0.weight", "fpn.inner_blocks.c5.0.bias"]
)
def test_weights_that_do_not_fit_their_card(make_run, tmp_path: Path, key: str) -> None:
    """The hash is right, but the tensors are not those of the architecture."""
    run = make_run("test_resnet", fpn=16)
    # copies: tensors of older safetensors lie in the file that is written over
    tensors = {name: tensor.clone() for name, tensor in load_file(run / WEIGHTS).items() if name != key}
    save_file(tensors, run / WEIGHTS)
    card = json.loads((run / CARD).read_text()) | {"sha256": digest(tensors)}
    (run / CARD).write_text(json.dumps(card))
    with pytest.raises(InputError, match="do not fit the test_resnet that it describes"):
        export(run, "timm", tmp_path / "a.safetensors")


def test_weights_that_are_not_finite_are_refused(make_run, tmp_path: Path) -> None:
    run = make_run("test_resnet")
    tensors = load_file(run / WEIGHTS)
    tensors["backbone.layer3.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    save_file(tensors, run / WEIGHTS)
    card = json.loads((run / CARD).read_text()) | {"sha256": digest(tensors)}
    (run / CARD).write_text(json.dumps(card))
    with pytest.raises(InputError, match="c4 differs by nan"):
        export(run, "timm", tmp_path / "a.safetensors")


def test_it_never_writes_over_a_runs_own_weights(make_run) -> None:
    run = make_run("test_resnet")
    before = (run / WEIGHTS).read_bytes(), (run / CARD).read_bytes()
    with pytest.raises(InputError, match="which no export has written"):
        export(run, "timm", run / WEIGHTS)
    assert ((run / WEIGHTS).read_bytes(), (run / CARD).read_bytes()) == before


def test_an_export_replaces_an_earlier_one_and_its_fpn(make_run, exported, tmp_path: Path) -> None:
    """A pyramid of another run must not stay beside a backbone it does not belong to."""
    out = tmp_path / "out" / "r18.safetensors"
    shutil.copytree(exported.out.parent, out.parent)
    first = out.read_bytes()
    export(make_run(seed=1), "torchvision", out)
    assert out.read_bytes() != first
    assert sorted(os.listdir(out.parent)) == ["r18.json", "r18.safetensors"]
    assert json.loads((out.parent / "r18.json").read_text())["fpn_file"] is None


def test_a_full_disk_leaves_the_earlier_export(make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("test_resnet")
    out = export(run, "timm", tmp_path / "out" / "a.safetensors")
    before = {path.name: path.read_bytes() for path in out.parent.iterdir()}

    def full(path: Path, tensors: object) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device")

    files = TARGETS["timm"].files
    broken = replace(TARGETS["timm"], files=lambda *given: [replace(file, write=full) for file in files(*given)])
    monkeypatch.setitem(TARGETS, "timm", broken)
    with pytest.raises(InputError, match=r"cannot write .*No space left"):
        export(run, "timm", out)
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == before


def test_files_of_others_are_not_touched(make_run, tmp_path: Path) -> None:
    run = make_run("test_resnet")
    (tmp_path / "a.fpn.safetensors").write_text("mine")
    export(run, "timm", tmp_path / "a.safetensors")
    assert (tmp_path / "a.fpn.safetensors").read_text() == "mine"
    (tmp_path / "b.fpn.json").write_text('{"target": "elsewhere"}')
    with pytest.raises(InputError, match=r"would replace .*b\.fpn\.json"):
        export(run, "timm", tmp_path / "b.safetensors")


def test_files_have_the_usual_permissions(make_run, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    usual = (tmp_path / "plain").stat().st_mode
    out = export(make_run("test_resnet"), "timm", tmp_path / "a.safetensors")
    assert {out.stat().st_mode, out.with_suffix(".json").stat().st_mode} == {usual}


def test_compare_fails_beyond_its_tolerance_only() -> None:
    ours = {"c2": torch.tensor([0.0, 100.0]), "c3": torch.zeros(2)}
    assert compare(ours, ours)["c2"] == {"max_abs_difference": 0.0, "max_abs_value": 100.0}
    compare(ours, ours | {"c2": torch.tensor([0.0009, 100.0])})
    for wrong in (torch.tensor([0.0011, 100.0]), torch.tensor([0.0, float("inf")]), torch.zeros(3)):
        with pytest.raises(InputError):
            compare(ours, ours | {"c2": wrong})
    with pytest.raises(InputError):
        compare(ours, ours | {"c3": torch.full((2,), 1e-30)})


def test_the_test_images_are_normalised_pictures() -> None:
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.1, 0.3]
    images = images_of(mean, std)(64)
    assert images.shape == (2, 3, 64, 64)
    pixels = images * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6
    assert pixels.std() > 0.05
