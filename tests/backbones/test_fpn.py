import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork

from regionssl.backbones.fpn import FPN

GOLDEN = Path(__file__).parents[1] / "golden"
CHANNELS = {"c2": 256, "c3": 512, "c4": 1024, "c5": 2048}
# In the order of the reference: lat5, lat4, out4, lat3, out3.
BLOCKS = ("inner_blocks.c5.0", "inner_blocks.c4.0", "layer_blocks.p4.0", "inner_blocks.c3.0", "layer_blocks.p3.0")


def formula(n: int, shape: tuple[int, ...], a: float) -> torch.Tensor:
    """sin(a k + 0.2 n) over the flat index k."""
    return torch.from_numpy(np.sin(a * np.arange(math.prod(shape)) + 0.2 * n).reshape(shape))


@torch.no_grad()
def fill(layer: nn.Module, weight: int, bias: int) -> None:
    shape = tuple(layer.weight.shape)
    layer.weight.copy_(formula(weight, shape, 1.7) / math.sqrt(math.prod(shape[1:])))
    layer.bias.copy_(0.1 * formula(bias, tuple(layer.bias.shape), 1.7))


def small_maps(sizes: tuple[int, int, int]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {f"c{3 + i}": torch.randn(2, 4 + i, size, size) for i, size in enumerate(sizes)}


def test_outputs_of_the_release():
    fpn = FPN(CHANNELS).double()
    for position, name in enumerate(BLOCKS):
        fill(fpn.get_submodule(name), 10 + position, 20 + position)
    head = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 128)).double()
    for position, index in enumerate((0, 2)):
        fill(head[index], 30 + position, 40 + position)
    maps = {
        "c3": formula(1, (1, 512, 8, 8), 0.9),
        "c4": formula(2, (1, 1024, 4, 4), 0.9),
        "c5": formula(3, (1, 2048, 2, 2), 0.9),
    }
    expected = np.load(GOLDEN / "resim_fpn.npz")
    with torch.no_grad():
        outputs = fpn(maps)
        embedding = head(maps["c5"].mean((2, 3)))
    assert list(outputs) == ["p4", "p3"]
    np.testing.assert_allclose(outputs["p4"], expected["out4"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(outputs["p3"], expected["out3"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(embedding, expected["out5"], rtol=0, atol=1e-9)


def test_numbers_of_parameters_are_those_of_the_release():
    fpn = FPN(CHANNELS)
    counts = {name: sum(p.numel() for p in fpn.get_submodule(name).parameters()) for name in BLOCKS}
    assert list(counts.values()) == [524_544, 262_400, 590_080, 131_328, 590_080]
    assert sum(parameter.numel() for parameter in fpn.parameters()) == 2_098_432
    # whole encoders of 30,065,088 and 30,066,368 parameters differ in the FPN alone
    with_norm = sum(parameter.numel() for parameter in FPN(CHANNELS, norm=True).parameters())
    assert with_norm - 2_098_432 == 30_066_368 - 30_065_088


@pytest.mark.parametrize("sizes", [(8, 4, 2), (13, 7, 4), (9, 5, 3)])
def test_equals_torchvision_under_its_names_also_for_odd_sizes(sizes):
    maps = small_maps(sizes)
    fpn = FPN({"c3": 4, "c4": 5, "c5": 6}, width=3)
    reference = FeaturePyramidNetwork([4, 5, 6], 3)
    state = reference.state_dict()
    for key, value in fpn.state_dict().items():
        blocks, level, rest = key.split(".", 2)
        state[f"{blocks}.{int(level[1]) - 3}.{rest}"] = value
    reference.load_state_dict(state)
    expected = reference(maps)
    outputs = fpn(maps)
    torch.testing.assert_close(outputs["p4"], expected["c4"])
    torch.testing.assert_close(outputs["p3"], expected["c3"])


def test_initial_weights_are_uniform_by_fan_in():
    torch.manual_seed(0)
    fpn = FPN(CHANNELS)
    for name in BLOCKS:
        layer = fpn.get_submodule(name)
        bound = math.sqrt(3 / math.prod(layer.weight.shape[1:]))
        assert 0.999 * bound < layer.weight.abs().max().item() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
        assert not layer.bias.any()


def test_norm_stands_for_the_bias_and_every_parameter_gets_a_gradient():
    fpn = FPN({"c3": 4, "c4": 5, "c5": 6}, width=3, norm=True)
    assert len([module for module in fpn.modules() if isinstance(module, nn.BatchNorm2d)]) == 5
    assert not any(module.bias is not None for module in fpn.modules() if isinstance(module, nn.Conv2d))
    outputs = fpn(small_maps((8, 4, 2)))
    torch.testing.assert_close(outputs["p4"].mean((0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
    sum((values * torch.randn_like(values)).sum() for values in outputs.values()).backward()
    assert all(parameter.grad.any() for parameter in fpn.parameters())
