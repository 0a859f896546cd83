"""What --to ultralytics writes: a plain state dict for torchvision's ResNet, whole or as a sequence of its children."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from regionssl import InputError, export, load_backbone
from regionssl.export.ultralytics import load_into_children


class TorchVision(nn.Module):
    """As Ultralytics documents its module: children of a torchvision model, the last ``truncate`` left out."""

    def __init__(self, model: str, unwrap: bool = True, truncate: int = 2) -> None:
        super().__init__()
        self.m = torchvision.models.get_model(model, weights=None)
        if unwrap:
            self.m = nn.Sequential(*list(self.m.children())[:-truncate])


def test_it_loads_whole_and_in_parts(make_run, tmp_path: Path) -> None:
    name = "resnet18"
    run = make_run(name)
    out = export(run, "ultralytics", tmp_path / "r.pt")
    plain = torch.load(out, weights_only=True)
    missing, unexpected = getattr(torchvision.models, name)().load_state_dict(plain, strict=False)
    assert (set(missing), unexpected) == ({"fc.weight", "fc.bias"}, [])
    views = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours = load_backbone(run)(views)["c5"]
        for module in (TorchVision(name), TorchVision(name, truncate=1), TorchVision(name, unwrap=False)):
            assert load_into_children(module.m, out) == len(plain)
            if isinstance(module.m, nn.Sequential):
                assert torch.equal(module.m[:8].eval()(views), ours)
            else:
                assert torch.equal(module.m.layer4[0].conv1.weight, plain["layer4.0.conv1.weight"])


def test_other_models_are_refused(make_run, tmp_path: Path) -> None:
    out = export(make_run("resnet18"), "ultralytics", tmp_path / "r.pt")
    other = TorchVision("resnet34")
    before = {key: value.clone() for key, value in other.state_dict().items()}
    for model in (other.m, TorchVision("resnet18", truncate=3).m):
        with pytest.raises(InputError, match=r"is not the ResNet of .*r\.pt"):
            load_into_children(model, out)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
