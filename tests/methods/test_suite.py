"""What must hold for every method."""

import copy

import pytest
import torch
from torch import nn

from regionssl.build import trainable
from regionssl.data.images import ImageList
from regionssl.geometry import to_image
from regionssl.methods.base import Method, Progress
from regionssl.methods.momentum import rising_momentum

from method_variants import VARIANTS, batch_of, method_of

variants = pytest.mark.parametrize("variant", VARIANTS)


def networks(method: Method) -> tuple[nn.Module, nn.Module]:
    """The trained network and its slow copy."""
    return (method.query, method.key) if hasattr(method, "query") else (method.online, method.target)


@variants
def test_gradient_reaches_all_of_the_online_network_and_none_of_the_target(variant: str, images: ImageList) -> None:
    method = method_of(variant)
    batch = batch_of(variant, images)
    method(batch, method.targets(batch))["loss"].backward()
    online, target = networks(method)
    without = [name for name, p in online.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # a bias before batch norm has a gradient of exactly zero in real numbers, and noise in floating point
    assert [name for name in without if not name.endswith("0.bias")] == []
    assert all(p.grad is None and not p.requires_grad for p in target.parameters())
    assert {name.split(".")[0] for name, _ in trainable(method)} == {"query" if hasattr(method, "query") else "online"}


@variants
def test_the_targets_output_is_used(variant: str, images: ImageList) -> None:
    method = method_of(variant)
    batch = batch_of(variant, images)
    before = float(method(batch, method.targets(batch))["loss"])
    _, target = networks(method)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) * parameter.std().nan_to_num(1.0).clamp(min=0.01))
    assert float(method(batch, method.targets(batch))["loss"]) != pytest.approx(before, abs=1e-4)


@variants
def test_after_step_moves_the_target_by_the_stated_amount(variant: str, images: ImageList) -> None:
    method = method_of(variant)
    online, target = networks(method)
    with torch.no_grad():
        for parameter in online.parameters():
            parameter.add_(1.0)
    slow = {name: p.clone() for name, p in target.named_parameters()}
    buffers = {name: b.clone() for name, b in target.named_buffers()}
    method.after_step(Progress(3, 10))
    m = 0.9 if hasattr(method, "query") else rising_momentum(0.9, 3, 10)
    fast = dict(online.named_parameters())
    for name, parameter in target.named_parameters():
        torch.testing.assert_close(parameter, m * slow[name] + (1 - m) * fast[name], atol=1e-6, rtol=1e-5)
    for name, buffer in target.named_buffers():
        assert torch.equal(buffer, buffers[name]), "buffers are not averaged"


@variants
def test_a_tiny_set_is_overfitted(variant: str, images: ImageList) -> None:
    method = method_of(variant)
    optimiser = torch.optim.SGD([p for _, p in trainable(method)], lr=0.05, momentum=0.9)
    losses = []
    batch = batch_of(variant, images)
    for step in range(30):
        loss = method(batch, method.targets(batch))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if hasattr(method, "queue"):
            method._fresh_keys = None  # this set has one batch: its own old keys would be its negatives
        method.after_step(Progress(step, 10_000))
        losses.append(float(loss))
    assert sum(losses[-5:]) / 5 < 0.85 * losses[0], losses


@variants
def test_accumulated_parts_equal_the_whole(variant: str, images: ImageList) -> None:
    """With batch statistics per group, parts give the loss and gradients of the whole batch."""
    whole = method_of(variant)
    if not hasattr(whole, "query"):
        whole.config = whole.config.model_copy(update={"group_size": 4})
    parts = copy.deepcopy(whole)
    batch = batch_of(variant, images)
    loss = whole(batch, whole.targets(batch))["loss"]
    loss.backward()
    targets = parts.targets(batch)
    shares = [parts(*part) for part in parts.parts(batch, targets, 4)]
    for share in shares:
        share["loss"].backward()
    assert len(shares) == (6 if variant == "orl" else 2)
    assert sum(float(share["loss"]) for share in shares) == pytest.approx(float(loss), rel=1e-5)
    other = dict(trainable(parts))
    for name, parameter in trainable(whole):
        torch.testing.assert_close(other[name].grad, parameter.grad, rtol=2e-3, atol=2e-5)


@variants
def test_running_statistics_do_not_depend_on_the_split(variant: str, images: ImageList) -> None:
    method = method_of(variant)
    batch = batch_of(variant, images)
    method(batch, method.targets(batch))
    for name, buffer in method.named_buffers():
        assert torch.isfinite(buffer.float()).all(), name


@variants
def test_matches_are_the_same_place_of_the_image(variant: str, images: ImageList) -> None:
    method = method_of(variant)
    batch = batch_of(variant, images, count=16)
    matches = method.matches(batch)
    first = to_image(matches.first, batch.crops[matches.views[0]])
    second = to_image(matches.second, batch.crops[matches.views[1]])
    assert matches.valid.any()
    # SCRL clips its boxes to each view, by half a pixel of the coarser view at most (specification, 2.4)
    zoom = torch.stack([crops.zoom for crops in batch.crops[:2]]).amin((0, 2))[:, None, None]
    apart = ((first - second).abs() * zoom)[matches.valid]
    assert float(apart.max()) <= 0.5 + 1e-6
