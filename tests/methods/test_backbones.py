"""Every method trains on every kind of backbone."""

import itertools

import pytest
import torch

from regionssl.build import trainable
from regionssl.data.images import ImageList
from regionssl.methods.base import Progress

from method_variants import batch_of, method_of

BACKBONES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "convnext_tiny",
    "regnety_016",
    "efficientnet_b0",
    "swin_tiny",
    "vit_small",
)
METHODS = ("resim_fpn", "scrl", "moco", "byol", "resim_c4")
PAIRS = list(itertools.product(BACKBONES, METHODS))
# each backbone once and each method at least once; the other pairs run with `make test-long`
CHOSEN = {(backbone, METHODS[i % len(METHODS)]) for i, backbone in enumerate(BACKBONES)}


@pytest.mark.parametrize(
    ("backbone", "variant"), [pytest.param(*pair, marks=[] if pair in CHOSEN else pytest.mark.long) for pair in PAIRS]
)
def test_a_step(backbone: str, variant: str, images: ImageList) -> None:
    """One step: a finite loss, a gradient in every trained backbone parameter, a target that moves."""
    method = method_of(variant, backbone=backbone)
    batch = batch_of(variant, images, count=4)
    optimiser = torch.optim.SGD([parameter for _, parameter in trainable(method)], lr=0.01)
    loss = method(batch, method.targets(batch))["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(parameter.grad is not None for _, parameter in trainable(method))
    before = [parameter.clone() for parameter in method.parameters() if not parameter.requires_grad]
    optimiser.step()
    method.after_step(Progress(0, 10))
    after = [parameter for parameter in method.parameters() if not parameter.requires_grad]
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
