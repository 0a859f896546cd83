"""Names in other code, against the lists that the releases' converters make."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from regionssl.backbones.fpn import FPN
from regionssl.backbones.layouts import branch_keys, detectron2_fpn_key, detectron2_key, sequential_key
from regionssl.backbones.weights import Found

GOLDEN = Path(__file__).parents[1] / "golden"
PREFIX = "module.encoder_q."


def keymap(kind: str) -> list[tuple[str, str, tuple[int, ...]]]:
    entries = json.loads((GOLDEN / "resim_keymap.json").read_text())[kind]
    return [(entry["src"].removeprefix(PREFIX), entry["dst"], tuple(entry["shape"])) for entry in entries]


def test_orl_detectron2_names() -> None:
    golden = np.load(GOLDEN / "orl_detectron2_keymap.npz")
    assert [detectron2_key(str(key)) for key in golden["old"]] == [str(key) for key in golden["new"]]
    assert len(golden["old"]) == 318


@pytest.mark.parametrize("kind", ["fpn_nobn", "fpn_bn"])
def test_resim_detectron2_names(kind: str) -> None:
    """Its names of norms in the pyramid match nothing in detectron2; ours do (ReSim 6.1)."""
    fpn = FPN({"c3": 512, "c4": 1024, "c5": 2048}, 256, norm=kind == "fpn_bn").state_dict()
    counts = {"backbone": 0, "fpn": 0, "head": 0}
    for source, wanted, shape in keymap(kind):
        (name,) = branch_keys(source) or ("backbone",)
        counts[name.split(".")[0]] += 1
        if name.startswith("fpn."):
            ours = name.removeprefix("fpn.")
            assert fpn[ours].shape == shape
            repaired = wanted.replace(".0.", ".").replace(".1.", ".norm.")
            assert f"backbone.{detectron2_fpn_key(ours)}" == repaired
            assert branch_keys(wanted) == branch_keys(repaired) == (name,)
        elif name.startswith("head."):
            assert branch_keys(wanted) == (name,)
        else:
            assert detectron2_key(source) == wanted
    assert counts == {"backbone": 318, "fpn": len(fpn), "head": 4}


def test_names_by_position_are_those_of_a_sequence_of_children() -> None:
    with torch.device("meta"):
        model = torchvision.models.resnet50()
    children = nn.Sequential(*list(model.children())[:-1])
    ours = [sequential_key(key) for key in model.state_dict() if not key.startswith("fc.")]
    assert ours == list(children.state_dict())


def test_orls_heads_are_understood() -> None:
    """Every one of the 1002 names of its full-size model is the backbone's, a head's or the target's."""
    golden = np.load(GOLDEN / "orl_state_dict_keys.npz")
    others = {str(key): torch.zeros(()) for key in golden["keys"] if not str(key).startswith("backbone.")}
    found = Found("backbone.", "torchvision", {}, others).beside()
    layers = {"0": ("weight", "bias"), "1": ("weight", "bias", "running_mean", "running_var"), "3": ("weight",)}
    layers["1"] += ("num_batches_tracked",)
    modules = ("projector", "predictor.global", "predictor.intra", "predictor.inter")
    expected = {f"{module}.{layer}.{name}" for module in modules for layer, names in layers.items() for name in names}
    assert {names[0] for names in found.values()} == expected
    left = others.keys() - found.keys()
    assert {key.split(".")[0] for key in left} == {"online_net", "target_net"}
    assert not any(key.startswith("online_net.1") for key in left)
