"""ReSim and MoCo against the arrays of the authors' computation (ReSim specification, section 8)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regionssl.data.batch import Batch
from regionssl.data.views import ViewPlan, ViewSpec
from regionssl.geometry import Crops
from regionssl.methods.base import Progress, World
from regionssl.methods.moco import Moco, MocoConfig
from regionssl.methods.resim import ReSim, ReSimConfig

GOLDEN = Path(__file__).parents[1] / "golden"


class Stored(nn.Module):
    """A branch that returns stored tensors for the images that it is shown (identified by their first pixel)."""

    def __init__(self, outputs: dict[str, Tensor]) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        images = views[:, 0, 0, 0].long()
        return {name: output[images] for name, output in self.outputs.items()}


def crops_of(tlhw: np.ndarray) -> Crops:
    top, left, height, width = torch.from_numpy(tlhw).double().unbind(1)
    return Crops(torch.stack([left, top, left + width, top + height], 1), torch.zeros(len(tlhw), dtype=torch.bool), 224)


def batch_of(crops: list[Crops]) -> Batch:
    n = len(crops[0])
    views = torch.arange(n, dtype=torch.float64).view(n, 1, 1, 1).expand(n, 3, 8, 8)
    return Batch([views, views], crops, [], torch.arange(n), seed=0, epoch=0, step=0, first=0, total=n)


def stored_resim(golden: dict, group_size: int = 32) -> ReSim:
    """A ReSim whose networks return the stored tensors."""
    config = ReSimConfig(dim=8, queue=golden["queue"].shape[1], temperature=float(golden["T"]), group_size=group_size)

    class StoredReSim(ReSim):
        def make_branch(self, make_encoder):
            return nn.Identity()

    method = StoredReSim(config, lambda maps: None, World())
    leaves = {
        name: torch.from_numpy(golden[key]).requires_grad_()
        for name, key in (("embedding", "q"), ("p4", "f4_q"), ("p3", "f3_q"))
    }
    method.query = Stored(leaves)
    method.key = Stored(
        {name: torch.from_numpy(golden[key]) for name, key in (("embedding", "k"), ("p4", "f4_k"), ("p3", "f3_k"))}
    )
    method.double()
    method.queue.keys.copy_(torch.from_numpy(golden["queue"].T))
    method.queue.pointer.fill_(int(golden["queue_ptr"]))
    return method


@pytest.fixture
def golden() -> dict:
    with np.load(GOLDEN / "resim_loss_1rank.npz") as file:
        return dict(file)


def test_losses_gradients_and_queue(golden: dict) -> None:
    method = stored_resim(golden)
    batch = batch_of([crops_of(golden["crop_q_tlhw"]), crops_of(golden["crop_k_tlhw"])])
    terms = method(batch, method.targets(batch))
    for name, key in (("image", "loss_img"), ("p4", "loss_p4"), ("p3", "loss_p3"), ("loss", "loss")):
        assert float(terms[name]) == pytest.approx(float(golden[key]), abs=1e-9)
    terms["loss"].backward()
    for name, key in (("embedding", "grad_q"), ("p4", "grad_f4q"), ("p3", "grad_f3q")):
        np.testing.assert_allclose(method.query.outputs[name].grad.numpy(), golden[key], atol=1e-9)
    method.key, method.query = nn.Linear(2, 2), nn.Linear(2, 2)
    method.after_step(Progress(0, 10))
    np.testing.assert_allclose(method.queue.keys.numpy().T, golden["queue_after"], atol=1e-12)
    assert int(method.queue.pointer) == int(golden["queue_ptr_after"])


def test_windows_and_labels(golden: dict) -> None:
    method = stored_resim(golden)
    batch = batch_of([crops_of(golden["crop_q_tlhw"]), crops_of(golden["crop_k_tlhw"])])
    for level in method.config.levels:
        grid, windows, valid = method.windows(level, batch)
        np.testing.assert_array_equal(grid.numpy(), golden[f"win_q_{level.map}"][0])
        np.testing.assert_array_equal(valid.numpy(), golden[f"label_{level.map}"] == 0)
        np.testing.assert_allclose(windows.numpy(), golden[f"win_k_{level.map}"], atol=1e-9)


def test_accumulated_parts_add_up_to_the_batch(golden: dict) -> None:
    """Three groups of one image: parts of one image give the same loss and gradients as the batch at once."""
    crops = [crops_of(golden["crop_q_tlhw"]), crops_of(golden["crop_k_tlhw"])]
    whole, parts = stored_resim(golden, group_size=1), stored_resim(golden, group_size=1)
    batch = batch_of(crops)
    loss = whole(batch, whole.targets(batch))["loss"]
    loss.backward()
    targets, total = parts.targets(batch), 0.0
    for part in batch.split(1):
        share = parts(part, targets)["loss"]
        share.backward()
        total += float(share)
    assert total == pytest.approx(float(loss), abs=1e-12)
    for name, leaf in whole.query.outputs.items():
        np.testing.assert_allclose(parts.query.outputs[name].grad.numpy(), leaf.grad.numpy(), atol=1e-12)


def test_no_valid_window_gives_zero(golden: dict) -> None:
    """A batch whose crops are disjoint: 0 for the levels instead of the release's NaN (quirk 4)."""
    method = stored_resim(golden)
    apart = [crops_of(np.array([[0, 0, 50, 50]] * 3)), crops_of(np.array([[100, 100, 50, 50]] * 3))]
    batch = batch_of(apart)
    terms = method(batch, method.targets(batch))
    assert float(terms["p4"]) == 0
    assert float(terms["p3"]) == 0
    terms["loss"].backward()
    assert torch.isfinite(method.query.outputs["embedding"].grad).all()
    assert float(method.query.outputs["p3"].grad.abs().sum()) == 0


def test_key_tensors_take_no_gradient(golden: dict) -> None:
    method = stored_resim(golden)
    for output in method.key.outputs.values():
        output.requires_grad_()
    batch = batch_of([crops_of(golden["crop_q_tlhw"]), crops_of(golden["crop_k_tlhw"])])
    method(batch, method.targets(batch))["loss"].backward()
    assert all(output.grad is None for output in method.key.outputs.values())


def test_average_precedes_keys_and_queue_follows_logits() -> None:
    """The order of MoCo's parts (golden ``resim_ema_queue``): average, keys, logits with the old queue, enqueue."""
    with np.load(GOLDEN / "resim_ema_queue.npz") as file:
        golden = dict(file)

    class Linear(nn.Module):
        def __init__(self, weight: np.ndarray) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.from_numpy(weight))

        def forward(self, views: Tensor) -> dict[str, Tensor]:
            return {"embedding": views.flatten(1)[:, :5] @ self.weight.T}

    class LinearMoco(Moco):
        def make_branch(self, make_encoder):
            return Linear(golden["w_q"])

    plan = ViewPlan(views=(ViewSpec(), ViewSpec()))
    config = MocoConfig(
        plan=plan, dim=4, queue=6, temperature=float(golden["T"]), momentum=float(golden["m"]), group_size=3
    )
    method = LinearMoco(config, lambda maps: None, World()).double()
    method.key = Linear(golden["w_k_before"]).requires_grad_(False)
    method.queue.keys.copy_(torch.from_numpy(golden["queue_before"].T))
    method.queue.pointer.fill_(int(golden["queue_ptr_before"]))
    method.after_step(Progress(0, 10))  # ends the step that moved w_q; no keys are waiting
    np.testing.assert_allclose(method.key.weight.numpy(), golden["w_k_after"], atol=1e-12)

    images = [torch.from_numpy(golden[name])[:, None, None] for name in ("im_q", "im_k")]
    batch = Batch(images, [], [], torch.arange(3), seed=0, epoch=0, step=1, first=0, total=3)
    loss = method(batch, method.targets(batch))["loss"]
    logits = torch.from_numpy(golden["logits"])
    assert float(loss) == pytest.approx(float((logits.logsumexp(1) - logits[:, 0]).mean()), abs=1e-9)
    before = method.queue.keys.clone()
    np.testing.assert_array_equal(before.numpy().T, golden["queue_before"])
    method.after_step(Progress(1, 10))
    np.testing.assert_allclose(method.queue.keys.numpy().T, golden["queue_after"], atol=1e-9)
    assert int(method.queue.pointer) == int(golden["queue_ptr_after"])
