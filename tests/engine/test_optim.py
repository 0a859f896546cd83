"""Optimisers against the authors' updates (``golden/scrl_lars_*.npz``, ``golden/r2o_lars.npz``) and plain formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from regionssl.engine.optim import Lars, OptimiserConfig, is_excluded, make_optimiser, peak_learning_rate

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize(("kind", "tolerance"), [("f64", 1e-10), ("f32", 1e-5)])
def test_lars_of_scrl(kind: str, tolerance: float) -> None:
    with np.load(GOLDEN / f"scrl_lars_{kind}.npz") as file:
        data = dict(file)
    groups = [data["group_lars"].tolist(), data["group_excluded"].tolist()]
    params = {name: nn.Parameter(torch.from_numpy(data[f"p0.{name}"])) for group in groups for name in group}
    decay = float(data["weight_decay"])
    optimiser = Lars(
        [
            {"params": [params[name] for name in groups[0]], "weight_decay": decay},
            {"params": [params[name] for name in groups[1]], "adapt": False, "lr_power": 2},
        ],
        lr=1.0,
        momentum=float(data["momentum"]),
        trust=float(data["trust_coef"]),
        eps=float(data["eps"]),
    )
    for t, lr in enumerate(data["lrs"].tolist()):
        for name, parameter in params.items():
            parameter.grad = torch.from_numpy(data[f"g{t}.{name}"])
        for group in optimiser.param_groups:
            group["lr"] = lr
        optimiser.step()
        for name, parameter in params.items():
            np.testing.assert_allclose(parameter.detach(), data[f"p{t + 1}.{name}"], rtol=tolerance, atol=tolerance)


def test_lars_of_r2o() -> None:
    with np.load(GOLDEN / "r2o_lars.npz") as file:
        data = dict(file)
    params = [nn.Parameter(torch.from_numpy(data[f"p{i}_init"])) for i in range(4)]
    excluded = data["excluded"].tolist()
    optimiser = Lars(
        [
            {"params": [p for p, out in zip(params, excluded, strict=True) if not out], "weight_decay": 1e-6},
            {"params": [p for p, out in zip(params, excluded, strict=True) if out], "adapt": False},
        ],
        lr=1.0,
        momentum=float(data["momentum"]),
        trust=float(data["eta"]),
        eps=0.0,
        lr_inside_momentum=True,
    )
    assert float(data["weight_decay"]) == 1e-6
    for t, lr in enumerate(data["lrs"].tolist()):
        for i, parameter in enumerate(params):
            parameter.grad = torch.from_numpy(data[f"p{i}_grads"][t])
        for group in optimiser.param_groups:
            group["lr"] = lr
        optimiser.step()
        for i, parameter in enumerate(params):
            np.testing.assert_allclose(parameter.detach(), data[f"p{i}_traj"][t], rtol=1e-5, atol=1e-6)
    for i, parameter in enumerate(params):
        buffer = optimiser.state[parameter]["momentum_buffer"]
        np.testing.assert_allclose(buffer, data[f"p{i}_momentum"], rtol=1e-5, atol=1e-6)


class Scrl(nn.Module):
    """The trained modules of SCRL under this package's names, without the release's probe."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"body": timm.create_model("resnet50", num_classes=0)})
        self.projector, self.predictor = (
            nn.Sequential(nn.Linear(width, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8, bias=False))
            for width in (2048, 8)
        )


def test_exclusion_of_the_scrl_release() -> None:
    """SCRL, section 5.2: 106 excluded tensors and 65 adapted ones, with the probe's bias and matrix."""
    names = {name: is_excluded("scrl_release", name, p) for name, p in Scrl().named_parameters()}
    excluded = [name for name, out in names.items() if out]
    adapted = [name for name, out in names.items() if not out]
    assert len(excluded) == 106 - 1
    assert len(adapted) == 65 - 1
    assert sum(name.endswith(".weight") for name in excluded) == 48
    for name in (
        "backbone.body.bn1.weight",
        "backbone.body.layer1.0.downsample.1.weight",
        "projector.1.weight",
        "predictor.1.weight",
        "backbone.body.layer1.0.conv1.weight",
    ):
        assert name in adapted
    for name in (
        "backbone.body.bn1.bias",
        "backbone.body.layer4.2.bn3.weight",
        "backbone.body.layer2.0.downsample.1.bias",
        "projector.0.bias",
        "predictor.1.bias",
    ):
        assert name in excluded


def test_feature_backbones_have_the_same_exclusions() -> None:
    whole = {
        n: is_excluded("scrl_release", f"body.{n}", p) for n, p in timm.create_model("resnet50").named_parameters()
    }
    features = timm.create_model("resnet50", features_only=True, out_indices=(4,))
    for name, parameter in features.named_parameters():
        assert is_excluded("scrl_release", f"body.{name}", parameter) == whole[name]


def test_other_exclusions() -> None:
    parameters = dict(Scrl().named_parameters())
    for name, parameter in parameters.items():
        assert not is_excluded("none", name, parameter)
        assert is_excluded("one_dimensional", name, parameter) == (parameter.ndim == 1)


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_groups(name: str) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    net[2].requires_grad_(False)
    config = OptimiserConfig.model_validate(
        {"name": name, "lr": 0.2, "weight_decay": 0.3, "exclude": "one_dimensional"}
    )
    optimiser = make_optimiser(config, net.named_parameters(), 512)
    decayed, excluded = optimiser.param_groups
    assert [p is q for p, q in zip(decayed["params"], [net[0].weight], strict=True)] == [True]
    assert {id(p) for p in excluded["params"]} == {id(net[0].bias), id(net[1].weight), id(net[1].bias)}
    assert (decayed["weight_decay"], excluded["weight_decay"]) == (0.3, 0)
    assert decayed["lr"] == excluded["lr"] == pytest.approx(0.4)


def test_nothing_excluded_makes_one_group() -> None:
    net = nn.Linear(3, 4)
    optimiser = make_optimiser(OptimiserConfig(lr=0.03), net.named_parameters(), 256)
    assert len(optimiser.param_groups) == 1
    assert isinstance(optimiser, torch.optim.SGD)


@pytest.mark.parametrize(
    ("reference", "scale", "batch", "expected"),
    [
        (256, "linear", 8192, 14.4),
        (256, "linear", 64, 0.1125),
        (256, "sqrt", 1024, 0.9),
        (None, "linear", 8192, 0.45),
        (512, "linear", 512, 0.45),
    ],
)
def test_peak_learning_rate(reference: int | None, scale: str, batch: int, expected: float) -> None:
    config = OptimiserConfig.model_validate({"lr": 0.45, "reference_batch": reference, "scale": scale})
    assert peak_learning_rate(config, batch) == pytest.approx(expected)


def test_lars_settings_are_refused_for_other_optimisers() -> None:
    with pytest.raises(ValidationError, match="belong to lars, but the name is sgd"):
        OptimiserConfig(lr=1, excluded_lr_power=2)
    with pytest.raises(ValidationError, match="belong to lars, but the name is adamw"):
        OptimiserConfig(name="adamw", lr=1, lr_inside_momentum=True)


def quadratic(params: list[Tensor]) -> Tensor:
    return sum((((p - 1) ** 2).sum() for p in params), torch.zeros(()))


def test_excluded_rate_enters_twice_or_once() -> None:
    for power in (1, 2):
        p = nn.Parameter(torch.zeros(3))
        config = OptimiserConfig(
            name="lars", lr=0.1, exclude="one_dimensional", excluded_lr_power=power, reference_batch=None
        )
        optimiser = make_optimiser(config, [("bn.bias", p)], 256)
        quadratic([p]).backward()
        optimiser.step()
        torch.testing.assert_close(p.detach(), torch.full((3,), 2 * 0.1**power))


def test_lars_does_not_depend_on_the_scale_of_the_loss() -> None:
    results = []
    for scale in (1.0, 1000.0):
        p = nn.Parameter(torch.linspace(1, 2, 5, dtype=torch.float64))
        optimiser = Lars([p], lr=1.0, eps=0.0)
        for _ in range(4):
            optimiser.zero_grad()
            (scale * quadratic([p])).backward()
            optimiser.step()
        results.append(p.detach())
    torch.testing.assert_close(results[0], results[1])


def test_lars_resumes_exactly() -> None:
    def fresh() -> tuple[list[nn.Parameter], Lars]:
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(3))]
        return params, Lars([{"params": params[:1]}, {"params": params[1:], "adapt": False}], lr=0.5, weight_decay=1e-3)

    def advance(params: list[nn.Parameter], optimiser: Lars, steps: int) -> None:
        for _ in range(steps):
            optimiser.zero_grad()
            quadratic(list(params)).backward()
            optimiser.step()

    through, optimiser = fresh()
    advance(through, optimiser, 5)
    stopped, optimiser = fresh()
    advance(stopped, optimiser, 2)
    state = optimiser.state_dict()
    resumed, optimiser = fresh()
    for p, q in zip(resumed, stopped, strict=True):
        p.data.copy_(q.data)
    optimiser.load_state_dict(state)
    advance(resumed, optimiser, 3)
    for p, q in zip(resumed, through, strict=True):
        assert torch.equal(p, q)


def test_parameters_without_gradient_stay() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimiser = Lars([used, unused], lr=0.1, weight_decay=0.1)
    used.grad = torch.ones(2)
    assert optimiser.step(lambda: 3.0) == 3.0
    assert torch.equal(unused, torch.ones(2))
    assert not torch.equal(used, torch.ones(2))
