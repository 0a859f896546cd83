"""What makes steps faster changes no number beyond rounding: losses of twenty seeded steps, with it and without."""

import pytest
import torch

from regionssl.backbones.norm import grouped_forward
from regionssl.build import trainable
from regionssl.data.images import ImageList
from regionssl.methods import moco, plrc, resim
from regionssl.methods.base import Progress

from method_variants import batch_of, method_of

STEPS = 20


def losses(variant: str, images: ImageList, compiled: bool = False) -> list[float]:
    """Losses of training in float64."""
    method = method_of(variant).double()
    if compiled:
        for child in method.children():
            child.compile()
    optimiser = torch.optim.SGD([p for _, p in trainable(method)], lr=0.02, momentum=0.9)
    found = []
    for step in range(STEPS):
        batch = batch_of(variant, images, first=8 * step, step=step)
        batch.views[:] = [view.double() for view in batch.views]
        loss = method(batch, method.targets(batch))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        method.after_step(Progress(step, STEPS))
        found.append(float(loss.detach()))
    return found


@pytest.mark.parametrize("variant", ["moco", "resim_fpn", "resim_c4", "plrc_P"])
def test_groups_together_as_apart(variant: str, images: ImageList, monkeypatch: pytest.MonkeyPatch) -> None:
    together = losses(variant, images)
    for module in (moco, resim, plrc):
        monkeypatch.setattr(module, "grouped_forward", lambda *inputs, rowwise: grouped_forward(*inputs))
    assert together == pytest.approx(losses(variant, images), rel=1e-9)


@pytest.mark.long
@pytest.mark.parametrize("variant", ["moco", "byol"])
def test_compiled_as_not(variant: str, images: ImageList) -> None:
    assert losses(variant, images, compiled=True) == pytest.approx(losses(variant, images), rel=1e-9)
