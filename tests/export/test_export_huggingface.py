"""What --to huggingface writes must load into transformers' own ResNet and give the run's features there."""

import json
from pathlib import Path

import pytest
import torch
from transformers import ResNetBackbone, ResNetModel

from regionssl import InputError, export, load_backbone
from regionssl.export import huggingface as target
from regionssl.export.target import compare


def test_transformers_takes_the_folder(make_run, tmp_path: Path) -> None:
    run = make_run("resnet50")
    folder = export(run, "huggingface", tmp_path / "new" / "hf")
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "export.json",
    }
    clean = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set()}
    views = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        ours = load_backbone(run)(views)
        backbone, loaded = ResNetBackbone.from_pretrained(folder, output_loading_info=True)
        assert {key: set(loaded[key]) for key in clean} == clean
        compare(ours, dict(zip(ours, backbone.eval()(views).feature_maps, strict=True)))
        model, loaded = ResNetModel.from_pretrained(folder, output_loading_info=True)
        assert {key: set(loaded[key]) for key in clean} == clean
        compare({"c5": ours["c5"]}, {"c5": model.eval()(views).last_hidden_state})


def test_the_stand_in_has_transformers_names(make_run, tmp_path: Path) -> None:
    folder = export(make_run("resnet18"), "huggingface", tmp_path / "hf")
    shapes = {key: value.shape for key, value in ResNetModel.from_pretrained(folder).state_dict().items()}
    stand_in = target.ResNet(json.loads((folder / "config.json").read_text()))
    assert {key: value.shape for key, value in stand_in.state_dict().items()} == shapes


def test_an_export_replaces_an_earlier_one_alone(make_run, tmp_path: Path) -> None:
    folder = export(make_run(), "huggingface", tmp_path / "hf")
    before = (folder / "model.safetensors").read_bytes()
    (folder / "extra.txt").write_text("of the earlier one")
    export(make_run(seed=1), "huggingface", folder)
    assert (folder / "model.safetensors").read_bytes() != before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("layer.0.normalization.weight", "layer.1.normalization.weight"),
        ("layer.0.convolution.weight", "layer.1.convolution.weight"),
    ],
)
def test_a_wrong_mapping_is_caught(make_run, tmp_path, monkeypatch, one: str, two: str) -> None:
    original, place = target.huggingface_key, "encoder.stages.0.layers.1."
    exchange = {place + one: place + two, place + two: place + one}
    monkeypatch.setattr(target, "huggingface_key", lambda key: exchange.get(original(key), original(key)))
    with pytest.raises(InputError, match="c2 differs"):
        export(make_run(), "huggingface", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_networks_that_transformers_lacks(make_run, tmp_path: Path) -> None:
    assert target.PLAIN == ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
    with pytest.raises(InputError, match="this run trained convnext_atto: use --to timm"):
        export(make_run("convnext_atto"), "huggingface", tmp_path / "hf")
