"""Run folders with weights of any backbone, without training."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from regionssl.backbones.encoder import Encoder, EncoderConfig
from regionssl.backbones.fpn import FPN
from regionssl.cli import app
from regionssl.verbs.run_folder import write_weights

from method_variants import config_of

MAPS = ("c2", "c3", "c4", "c5")
MakeRun = Callable[..., Path]


@dataclass(frozen=True)
class Exported:
    run: Path
    out: Path
    said: str


def randomise(module: nn.Module) -> None:
    """Give every tensor values that matter, those of batch norm and biases included."""
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.1)
        elif tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5)


@pytest.fixture(scope="session")
def _runs(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    @cache
    def make(backbone: str, fpn: int | None, norm: bool, seed: int) -> Path:
        torch.manual_seed(seed)
        encoder = Encoder(EncoderConfig(name=backbone), size=64, maps=MAPS)
        extras = {"fpn": FPN(encoder.channels, fpn, norm)} if fpn else {}
        for module in (encoder, *extras.values()):
            randomise(module)
        folder = tmp_path_factory.mktemp("run")
        method = SimpleNamespace(backbone=encoder, extras=lambda: extras)
        write_weights(folder, method, config_of("moco", backbone), SimpleNamespace(fingerprint="f00d"), "random", 7)
        return folder

    return make


@pytest.fixture
def make_run(_runs: MakeRun, tmp_path: Path) -> MakeRun:
    def make(backbone: str = "resnet18", fpn: int | None = None, norm: bool = False, seed: int = 0) -> Path:
        """A run folder of 64 px views at step 7, with an FPN of width ``fpn`` if given; the test's own copy."""
        original = _runs(backbone, fpn, norm, seed)
        folder = tmp_path / original.name
        shutil.copytree(original, folder, dirs_exist_ok=True)
        return folder

    return make


@pytest.fixture(scope="session")
def exported(_runs: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """ResNet-18 and its FPN of 256 channels for torchvision: the run, the file, and what the command line said."""
    run, out = (
        _runs("resnet18", 256, False, 0),
        tmp_path_factory.mktemp("exported") / "new" / "folder" / "r18.safetensors",
    )
    result = CliRunner().invoke(app, ["export", str(run), "--to", "torchvision", "--out", str(out)])
    assert result.exit_code == 0, result.output
    return Exported(run, out, result.output)
