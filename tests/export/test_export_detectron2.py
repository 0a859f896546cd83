"""What --to detectron2 writes: found by the ends of names, fed with pixels, in both orders of colours."""

import json
import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from regionssl import InputError, export, load_backbone
from regionssl.backbones.beside import pyramid_tensors
from regionssl.backbones.encoder import Encoder
from regionssl.backbones.weights import initialise
from regionssl.export import detectron2 as target
from regionssl.export.detectron2_layout import Detector, Pyramid, ResNet, matched
from regionssl.export.resnets import RESNETS
from regionssl.export.target import read_trained


def arrays(path: Path) -> dict[str, np.ndarray]:
    content = pickle.loads(path.read_bytes())  # as detectron2 does it
    assert content["__author__"] == "regionssl"
    assert content["matching_heuristics"] is True
    return content["model"]


def fill(model: nn.Module, given: dict[str, np.ndarray]) -> dict[str, str]:
    """detectron2's rule, written out: the longest name that is the model's or its end; shapes must agree."""
    used = {}
    for key, value in model.state_dict().items():
        ends = sorted((name for name in given if ("." + key).endswith("." + name)), key=len)
        if ends:
            assert given[ends[-1]].shape == tuple(value.shape)
            value.copy_(torch.from_numpy(given[ends[-1]].copy()))
            used[key] = ends[-1]
    assert len(set(used.values())) == len(used)
    return used


MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@pytest.mark.parametrize(
    ("name", "fpn", "norm", "bgr"),
    [("resnet18", 32, False, False), ("resnet18", 16, True, True), ("resnet50", 16, False, True)],
)
def test_a_detector_with_pyramid(make_run, tmp_path: Path, name: str, fpn: int, norm: bool, bgr: bool) -> None:
    run = make_run(name, fpn=fpn, norm=norm)
    out = export(run, "detectron2", tmp_path / "r.pkl", bgr=bgr)
    card = json.loads((tmp_path / "r.json").read_text())
    settings = card["settings"]
    assert settings["INPUT.FORMAT"] == card["colour_order"] == ("BGR" if bgr else "RGB")
    assert settings["MODEL.PIXEL_MEAN"] == ([103.53, 116.28, 123.675] if bgr else [123.675, 116.28, 103.53])
    assert settings["MODEL.PIXEL_STD"] == ([57.375, 57.12, 58.395] if bgr else [58.395, 57.12, 57.375])
    assert settings["MODEL.RESNETS.STRIDE_IN_1X1"] is False
    assert settings["MODEL.FPN.OUT_CHANNELS"] == card["width"] == fpn
    assert card["batch_norm"] is norm
    detector = Detector(Pyramid(RESNETS[name], fpn, norm), settings["MODEL.PIXEL_MEAN"], settings["MODEL.PIXEL_STD"])
    given = arrays(out)
    used = fill(detector, given)
    assert set(used.values()) == given.keys()
    unset = {key.split(".")[1] for key in detector.state_dict().keys() - used.keys()}
    assert unset == set(card["not_in_file"]) == {"fpn_lateral2", "fpn_output2", "fpn_output5"}
    pixels = torch.randint(0, 256, (1, 3, 64, 96)).float()
    views = (pixels / 255 - MEAN) / STD
    trained = read_trained(run)
    with torch.no_grad():
        theirs = detector.eval()(pixels.flip(1) if bgr else pixels)
        ours = trained.encoder(views)
        ours |= trained.fpn(ours)
    for key, value in ours.items():
        assert torch.allclose(theirs[key.replace("c", "res")], value, rtol=1e-4, atol=1e-5 * value.abs().max().item())


def test_a_c4_detector_takes_the_last_stage_as_its_head(make_run, tmp_path: Path) -> None:
    """The pyramid's tensors find no place there, and that is no mistake (ReSim 6.1)."""
    run = make_run("resnet50", fpn=16)
    given = arrays(export(run, "detectron2", tmp_path / "r.pkl"))
    whole = ResNet(RESNETS["resnet50"])
    detector = nn.ModuleDict({"backbone": whole, "roi_heads": nn.ModuleDict({"res5": whole.res5})})
    del detector["backbone"].res5
    used = fill(detector, given)
    assert used.keys() == detector.state_dict().keys()
    assert {name.split(".")[1] for name in given.keys() - set(used.values())} == {
        "fpn_lateral3",
        "fpn_lateral4",
        "fpn_lateral5",
        "fpn_output3",
        "fpn_output4",
    }
    assert used["roi_heads.res5.0.conv1.weight"] == "res5.0.conv1.weight"
    expected = load_backbone(run).body.state_dict()["layer4.0.conv1.weight"]
    assert torch.equal(detector["roi_heads"]["res5"][0].conv1.weight, expected)


def test_without_the_pyramid(make_run, tmp_path: Path) -> None:
    out = export(make_run(fpn=32), "detectron2", tmp_path / "r.pkl", no_fpn=True)
    card = json.loads((tmp_path / "r.json").read_text())
    assert not any("fpn" in name for name in arrays(out))
    assert card["not_exported"] == ["fpn"]
    assert "MODEL.FPN.OUT_CHANNELS" not in card["settings"]


def test_every_numpy_reads_it(make_run, tmp_path: Path) -> None:
    """numpy 2 pickles by a module that numpy 1 lacks."""
    out = export(make_run("resnet18"), "detectron2", tmp_path / "r.pkl")
    codes = pickletools.genops(out.read_bytes())
    named = {str(argument) for code, argument, _ in codes if code.name == "SHORT_BINUNICODE"}
    assert {"numpy", "ndarray"} <= named
    assert not any("core" in name for name in named)


def test_it_can_be_started_from(make_run, tmp_path: Path) -> None:
    """An export is itself a file that --init takes."""
    run = make_run(fpn=32)
    out = export(run, "detectron2", tmp_path / "r.pkl")
    trained = read_trained(run)
    fresh = Encoder(trained.encoder.config, size=64)
    assert "in the layout detectron2" in initialise(fresh, str(out))
    assert all(torch.equal(value, trained.body[key]) for key, value in fresh.body.state_dict().items())
    assert pyramid_tensors(out, fresh).keys() == trained.fpn.state_dict().keys()
    other = export(run, "detectron2", tmp_path / "other.pkl", bgr=True)
    with pytest.raises(InputError, match=r"other\.json says that these weights take BGR images"):
        initialise(fresh, str(other))


@pytest.mark.parametrize(
    ("one", "two", "found"),
    [
        ("res2.0.conv1.weight", "res2.1.conv2.weight", "c2 differs"),
        ("stem.conv1.norm.bias", "stem.conv1.norm.running_mean", "c2 differs"),
        ("res5.1.conv2.norm.weight", "res5.1.conv2.norm.running_var", "c5 differs"),
        ("backbone.fpn_output3.weight", "backbone.fpn_output4.weight", "p[34] differs"),
    ],
)
def test_a_wrong_mapping_is_caught(make_run, tmp_path, monkeypatch, one: str, two: str, found: str) -> None:
    original = target.detectron2_tensors

    def swapped(trained, options):
        tensors = original(trained, options)
        return tensors | {one: tensors[two], two: tensors[one]}

    monkeypatch.setattr(target, "detectron2_tensors", swapped)
    with pytest.raises(InputError, match=found):
        export(make_run(fpn=16), "detectron2", tmp_path / "r.pkl")
    assert not list(tmp_path.glob("r.*"))


def test_forgotten_colours_names_and_strides_are_caught(make_run, tmp_path, monkeypatch) -> None:
    run = make_run("resnet50", fpn=16)
    with monkeypatch.context() as patch:
        patch.setattr(target, "for_colours", lambda tensors, colours: dict(tensors))
        with pytest.raises(InputError, match="c2 differs"):
            export(run, "detectron2", tmp_path / "r.pkl", bgr=True)
    with monkeypatch.context() as patch:
        patch.setattr(target, "detectron2_fpn_key", lambda key: key)
        with pytest.raises(InputError, match="would not load 10 of the exported tensors"):
            export(run, "detectron2", tmp_path / "r.pkl")
    with monkeypatch.context() as patch:
        patch.setattr(target, "Pyramid", lambda *given: Pyramid(*given, stride_in_1x1=True))
        with pytest.raises(InputError, match="c3 differs"):
            export(run, "detectron2", tmp_path / "r.pkl")


def test_ambiguous_names_are_refused() -> None:
    model = nn.ModuleDict({"a": nn.ModuleDict({"x": nn.Linear(2, 2)}), "b": nn.ModuleDict({"x": nn.Linear(2, 2)})})
    assert matched(model, {"a.x.weight": torch.zeros(2, 2)}) == {"a.x.weight": "a.x.weight"}
    with pytest.raises(InputError, match="more than one tensor"):
        matched(model, {"x.weight": torch.zeros(2, 2)})
    with pytest.raises(InputError, match="has shape"):
        matched(model, {"a.x.weight": torch.zeros(3, 2)})
