"""Run folders with weights of any backbone, without training."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from regionssl.backbones.encoder import Encoder, EncoderConfig
from regionssl.backbones.fpn import FPN
from regionssl.verbs.run_folder import write_weights

from method_variants import config_of

MAPS = ("c2", "c3", "c4", "c5")
MakeRun = Callable[..., Path]


def randomise(module: nn.Module) -> None:
    """Give every tensor values that matter, those of batch norm and biases included."""
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.1)
        elif tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5)


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(backbone: str = "resnet18", fpn: int | None = None, norm: bool = False, seed: int = 0) -> Path:
        """A run folder of 64 px views at step 7, with an FPN of width ``fpn`` if given."""
        torch.manual_seed(seed)
        config = config_of("moco", backbone)
        encoder = Encoder(EncoderConfig(name=backbone), size=64, maps=MAPS)
        extras = {"fpn": FPN(encoder.channels, fpn, norm)} if fpn else {}
        for module in (encoder, *extras.values()):
            randomise(module)
        folder = tmp_path / f"run-{backbone}-{fpn}-{norm}-{seed}"
        folder.mkdir()
        method = SimpleNamespace(backbone=encoder, extras=lambda: extras)
        write_weights(folder, method, config, SimpleNamespace(fingerprint="f00d"), "random", 7)
        return folder

    return make
