"""What --to mmdetection writes: a state dict with backbone and neck."""

import json
from pathlib import Path

import pytest
import torch
import torchvision

from regionssl import InputError, export
from regionssl.export import mmdetection as target
from regionssl.export.resnets import RESNETS
from regionssl.export.target import read_trained


@pytest.mark.parametrize(("name", "norm", "bgr"), [("resnet18", False, True), ("resnet18", True, False)])
def test_backbone_and_neck(make_run, tmp_path: Path, name: str, norm: bool, bgr: bool) -> None:
    run = make_run(name, fpn=16, norm=norm)
    out = export(run, "mmdetection", tmp_path / "r.pth", bgr=bgr)
    tensors = torch.load(out, weights_only=True)["state_dict"]
    settings = json.loads((tmp_path / "r.json").read_text())["settings"]
    images = settings["data_preprocessor"]
    assert images["bgr_to_rgb"] is not bgr
    assert images["mean"] == ([103.53, 116.28, 123.675] if bgr else [123.675, 116.28, 103.53])
    assert settings["backbone"] == {"type": "ResNet", "depth": int(name[6:]), "style": "pytorch"}
    body = torchvision.models.get_model(name, weights=None)
    own = {key.removeprefix("backbone."): value for key, value in tensors.items() if key.startswith("backbone.")}
    missing, unexpected = body.load_state_dict(own, strict=False)
    assert (set(missing), unexpected) == ({"fc.weight", "fc.bias"}, [])
    turned = body.conv1.weight.flip(1) if bgr else body.conv1.weight
    trained = read_trained(run)
    assert torch.equal(turned, trained.body["conv1.weight"])
    necks = {key for key in tensors if key.startswith("neck.")}
    parts = ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked")
    parts = parts if norm else ("conv.weight", "conv.bias")
    blocks = ("lateral_convs.1", "lateral_convs.2", "lateral_convs.3", "fpn_convs.1", "fpn_convs.2")
    assert necks == {f"neck.{block}.{part}" for block in blocks for part in parts}
    assert torch.equal(tensors["neck.lateral_convs.3.conv.weight"], trained.fpn.inner_blocks["c5"][0].weight)
    assert torch.equal(tensors["neck.fpn_convs.1.conv.weight"], trained.fpn.layer_blocks["p3"][0].weight)


def test_grouped_and_wide_networks(make_run, tmp_path: Path) -> None:
    assert [name for name in RESNETS if name not in target.ARCHITECTURES] == ["wide_resnet50_2", "wide_resnet101_2"]
    with pytest.raises(InputError, match="this run trained test_resnet: use --to timm"):
        export(make_run("test_resnet"), "mmdetection", tmp_path / "r.pth")


@pytest.mark.parametrize("mistake", ["block", "key", "colours"])
def test_a_wrong_mapping_is_caught(make_run, tmp_path, monkeypatch, mistake: str) -> None:
    if mistake == "colours":
        monkeypatch.setattr(target, "for_colours", lambda tensors, colours: dict(tensors))
        found = "c2 differs"
    elif mistake == "block":
        blocks = target.NECK_BLOCKS
        other = {"layer_blocks.p3": blocks["layer_blocks.p4"], "layer_blocks.p4": blocks["layer_blocks.p3"]}
        monkeypatch.setattr(target, "NECK_BLOCKS", blocks | other)
        found = "p[34] differs"
    else:
        monkeypatch.setattr(target, "neck_key", lambda key: key)
        found = "keys are not the target's"
    with pytest.raises(InputError, match=found):
        export(make_run(fpn=16), "mmdetection", tmp_path / "r.pth", bgr=mistake == "colours")
    assert not list(tmp_path.glob("r.*"))
