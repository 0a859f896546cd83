"""What --to onnx writes must run in onnxruntime at any batch and size and give the run's features."""

import json
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from regionssl import InputError, export, load_backbone
from regionssl.export import onnx as target
from regionssl.export.target import compare


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_any_batch_and_size(make_run, tmp_path: Path, name: str) -> None:
    run = make_run(name)
    out = export(run, "onnx", tmp_path / "b.onnx")
    onnx.checker.check_model(onnx.load(out), full_check=True)
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    network = load_backbone(run)
    for shape in ((1, 3, 64, 64), (3, 3, 96, 160), (2, 3, 224, 32)):
        views = torch.randn(shape)
        with torch.no_grad():
            ours = network(views)
        outputs = session.run(None, {"images": views.numpy()})
        compare(ours, {key: torch.from_numpy(value) for key, value in zip(ours, outputs, strict=True)})
    card = json.loads((tmp_path / "b.json").read_text())
    assert card["architecture"] == name
    assert set(card["check"]["maps"]) == {"c2", "c3", "c4", "c5"}
    assert card["pixel_mean"] == [123.675, 116.28, 103.53]


def test_a_network_of_one_size_is_refused(make_run, tmp_path: Path, monkeypatch) -> None:
    """Its graph would run on the views' size alone."""
    original = target.torch.onnx.export

    def fixed(*given, dynamic_axes, **settings):
        original(*given, **settings)

    monkeypatch.setattr(target.torch.onnx, "export", fixed)
    with pytest.raises(InputError, match=r"does not run on images of 64x64 px: .*use --to timm"):
        export(make_run("test_resnet"), "onnx", tmp_path / "b.onnx")
    assert not list(tmp_path.glob("b.*"))


def test_other_weights_are_caught(make_run, tmp_path: Path, monkeypatch) -> None:
    other = load_backbone(make_run("test_resnet", seed=1))
    monkeypatch.setattr(target, "Maps", lambda encoder: _maps(other))
    with pytest.raises(InputError, match="c2 differs"):
        export(make_run("test_resnet"), "onnx", tmp_path / "b.onnx")


_maps = target.Maps


def test_without_the_runtime_the_extra_is_named(make_run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"needs onnxruntime, .*pip install 'regionssl\[onnx\]'"):
        export(make_run("test_resnet"), "onnx", tmp_path / "b.onnx")
