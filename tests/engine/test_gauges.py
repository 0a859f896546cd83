"""What is measured of a step, against plain computations."""

import pytest
import torch
from torch import nn

from regionssl.engine.gauges import MotionGauge, gradient_scale, view_gauges

from method_variants import method_of


def test_views_are_measured_per_channel() -> None:
    views = [torch.randn(4, 3, 8, 8), 2 + 3 * torch.randn(4, 3, 8, 8)]
    found = view_gauges(views)
    both = torch.stack(views)
    for channel, name in enumerate("rgb"):
        pixels = both[:, :, channel].double()
        assert float(found[f"health/view_mean_{name}"]) == pytest.approx(float(pixels.mean()), abs=1e-5)
        assert float(found[f"health/view_std_{name}"]) == pytest.approx(float(pixels.std()), rel=0.01)
    assert float(found["health/view_min"]) == pytest.approx(float(both.min()))
    assert float(found["health/view_max"]) == pytest.approx(float(both.max()))


def flat(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])


def test_motion_is_measured_between_making_and_reading() -> None:
    method = method_of("moco")
    (pair,) = method.slow_pairs()
    slow, trained = pair
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
            parameter.grad = torch.full_like(parameter, 8.0)
    before, slow_before = flat(trained), flat(slow)
    gauge = MotionGauge(method, scale=4.0)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1.01)
        for one, other in zip(slow.parameters(), trained.parameters(), strict=True):
            one.lerp_(other, 0.25)
    found = {name.removeprefix("health/"): float(value) for name, value in gauge.read().items()}
    assert found["gradient"] == pytest.approx(2.0 * len(before) ** 0.5, rel=1e-5)
    assert found["update"] == pytest.approx(0.01, rel=1e-4)
    after, slow_after = flat(trained), flat(slow)
    assert found["slow_distance"] == pytest.approx(float((after - slow_after).norm() / after.norm()), rel=1e-4)
    assert found["slow_pull"] == pytest.approx(0.25, rel=1e-4)
    assert float((slow_after - slow_before).norm()) > 0


def test_a_method_without_slow_networks_has_no_gauges_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    method = method_of("moco")
    monkeypatch.setattr(method, "slow_pairs", list)
    assert set(MotionGauge(method).read()) == {"health/gradient", "health/update"}


def test_the_scale_of_gradients_is_the_scalers() -> None:
    class Plugin:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    assert gradient_scale(Plugin()) == 1024.0
    assert gradient_scale(object()) == 1.0
