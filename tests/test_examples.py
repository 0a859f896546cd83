"""The examples, as their users run them."""

import runpy
from pathlib import Path

import pytest
import torch

from regionssl import build, load_backbone, pretrain
from regionssl.engine.log import read_log

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_a_method_of_ones_own(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "METHODS", dict(build.METHODS))
    runpy.run_path(str(EXAMPLES / "own_method.py"))
    settings = {"recipe": str(EXAMPLES / "own_method.yaml"), "backbone": "test_resnet", "size": 64, "batch_size": 8}
    whole = pretrain(scenes, tmp_path / "whole", steps=12, save_every=6, **settings)
    log = read_log(whole / "log.jsonl")
    assert log[-1]["loss"] < log[0]["loss"]
    assert load_backbone(whole)(torch.zeros(1, 3, 64, 64)).keys() == {"c2", "c3", "c4", "c5"}
    parts = pretrain(scenes, tmp_path / "parts", steps=12, set=["training.micro_batch=8"], **settings)
    assert read_log(parts / "log.jsonl")[-1]["loss"] == log[-1]["loss"]
