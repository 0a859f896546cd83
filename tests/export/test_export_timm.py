"""What --to timm writes must load into timm's own models and give the run's features there."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from regionssl import InputError, export, load_backbone
from regionssl.export import timm as target
from regionssl.export.target import compare, read_trained


@pytest.mark.parametrize(
    ("name", "absent", "size"),
    [
        ("resnet18", [], 64),
        ("regnety_002", [], 64),
        ("convnext_atto", ["head.norm.bias", "head.norm.weight"], 64),
        ("vit_tiny_patch16_224", [], 224),
    ],
)
def test_round_trip(make_run, tmp_path: Path, name: str, absent: list[str], size: int) -> None:
    run = make_run(name)
    out = export(run, "timm", tmp_path / "backbone.safetensors")
    model = timm.create_model(name, num_classes=0)
    missing, unexpected = model.load_state_dict(load_file(out), strict=False)
    assert (sorted(missing), unexpected) == (absent, [])
    card = json.loads((tmp_path / "backbone.json").read_text())
    assert (card["architecture"], card["not_in_file"]) == (name, absent)
    assert card["keys"] == f"timm.create_model('{name}', num_classes=0)"
    views = torch.randn(1, 3, size, size)
    with torch.no_grad():
        theirs = model.eval().forward_features(views)
        ours = load_backbone(run, ("c4",) if name.startswith("vit") else ("c5",))(views)
    if name.startswith("vit"):
        theirs = theirs[:, 1:].transpose(1, 2).unflatten(2, (14, 14))
    (ours,) = ours.values()
    assert theirs.shape == ours.shape
    assert torch.allclose(theirs, ours, rtol=1e-5, atol=1e-5 * ours.abs().max().item())


@pytest.mark.parametrize("name", ["test_resnet", "convnext_atto"])
def test_feature_models_of_timm_take_the_file(make_run, tmp_path: Path, name: str) -> None:
    """``features_only`` as docs/export.md shows it."""
    run = make_run(name)
    out = export(run, "timm", tmp_path / "backbone.safetensors")
    model = timm.create_model(name, features_only=True, pretrained=True, pretrained_cfg_overlay={"file": str(out)})
    views = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        theirs, ours = model.eval()(views)[-4:], load_backbone(run)(views)
    compare(ours, dict(zip(ours, theirs, strict=True)))


def test_an_fpn_stays_in_the_run_and_that_is_said(make_run, tmp_path: Path) -> None:
    export(make_run("test_resnet", fpn=16), "timm", tmp_path / "b.safetensors")
    assert json.loads((tmp_path / "b.json").read_text())["not_exported"] == ["fpn"]
    assert not (tmp_path / "b.fpn.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "one", "two"),
    [
        ("resnet18", "layer2.0.conv2.weight", "layer2.1.conv1.weight"),
        ("convnext_atto", "stages.1.blocks.0.norm.weight", "stages.1.blocks.1.norm.weight"),
        ("vit_tiny_patch16_224", "blocks.3.attn.qkv.weight", "blocks.4.attn.qkv.weight"),
    ],
)
def test_a_wrong_file_is_caught(make_run, tmp_path: Path, monkeypatch, name: str, one: str, two: str) -> None:
    original = target.weight_files

    def swapped(trained, options):
        (file,) = original(trained, options)
        file.tensors.update({one: file.tensors[two], two: file.tensors[one]})
        return [file]

    monkeypatch.setattr("regionssl.verbs.export.TARGETS", {"timm": replace(target.TARGET, files=swapped)})
    with pytest.raises(InputError, match="do not give the run's features"):
        export(make_run(name), "timm", tmp_path / "b.safetensors")
    assert not list(tmp_path.glob("b.*"))


def test_the_check_leaves_the_runs_encoder_alone(make_run) -> None:
    trained = read_trained(make_run())
    body = trained.encoder.body
    with pytest.raises(FileNotFoundError):
        target.verify(trained, Path("none.safetensors"), lambda size: torch.zeros(1, 3, size, size))
    assert trained.encoder.body is body
