"""The BYOL loss and heads against the arrays of the SCRL and ORL authors' computations."""

from pathlib import Path

import numpy as np
import pytest
import torch

from regionssl.methods.heads import mlp
from regionssl.methods.losses import regression
from regionssl.methods.momentum import rising_momentum

GOLDEN = Path(__file__).parents[1] / "golden"


def load(name: str) -> dict:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def crossed(online: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The loss of stacked halves (2P, D) through the package's own rows (P, 2, D)."""
    pairs, slow = (torch.stack(rows.chunk(2), 1) for rows in (online, target))
    return regression(pairs, slow.flip(1)).sum() / len(pairs)


def test_scrl_loss_and_gradient() -> None:
    golden = load("scrl_loss_f32")
    online = torch.from_numpy(golden["p_online"]).requires_grad_()
    target = torch.from_numpy(golden["p_target"])
    loss = crossed(online, target)
    loss.backward()
    assert float(loss) == pytest.approx(float(golden["loss"]), abs=1e-5)
    np.testing.assert_allclose(online.grad.numpy(), golden["grad_p_online"], atol=1e-6)
    swapped = torch.cat(target.chunk(2)[::-1])
    np.testing.assert_allclose(regression(online, swapped).detach().numpy(), golden["row_loss_crossed"], atol=1e-5)


def test_scrl_heads() -> None:
    golden = load("scrl_heads")

    def head(name: str, inputs: int) -> torch.nn.Sequential:
        module = mlp(inputs, 20, 8, norm=True, bias=False).double()
        prefix = f"{name}.net."
        module.load_state_dict(
            {k.removeprefix(prefix): torch.from_numpy(np.asarray(v)) for k, v in golden.items() if k.startswith(prefix)}
        )
        return module

    projector, target, predictor = head("proj_online", 12), head("proj_target", 12), head("predictor", 8)
    features = torch.from_numpy(golden["roi_feat_online"]).requires_grad_()
    prediction = predictor(projector(features))
    with torch.no_grad():
        projection = target(torch.from_numpy(golden["roi_feat_target"]))
    loss = crossed(prediction, projection)
    loss.backward()
    np.testing.assert_allclose(prediction.detach().numpy(), golden["pred_out"], atol=1e-10)
    np.testing.assert_allclose(projection.numpy(), golden["proj_out_target"], atol=1e-10)
    assert float(loss) == pytest.approx(float(golden["loss"]), abs=1e-10)
    np.testing.assert_allclose(features.grad.numpy(), golden["grad_roi_feat_online"], atol=1e-10)
    for name, module in (("proj_online", projector), ("predictor", predictor)):
        for key, parameter in module.named_parameters():
            np.testing.assert_allclose(parameter.grad.numpy(), golden[f"grad.{name}.net.{key}"], atol=1e-10)
    for name, module in (("proj_online", projector), ("predictor", predictor), ("proj_target", target)):
        for key in ("running_mean", "running_var"):
            np.testing.assert_allclose(
                module[1].state_dict()[key].numpy(), golden[f"after.{name}.net.1.{key}"], atol=1e-10
            )


@pytest.mark.parametrize(("kind", "tolerance"), [("f32", 1e-5), ("f64", 1e-12)])
def test_orl_loss(kind: str, tolerance: float) -> None:
    golden = load("orl_loss")
    one, two, t1, t2 = (torch.from_numpy(golden[f"{kind}_{n}"]) for n in ("pred1", "pred2", "target1", "target2"))
    first, second = regression(one, t2).mean(), regression(two, t1).mean()
    assert float(first) == pytest.approx(float(golden[f"{kind}_loss12"]), abs=tolerance)
    assert float(second) == pytest.approx(float(golden[f"{kind}_loss21"]), abs=tolerance)
    total = crossed(torch.cat([one, two]), torch.cat([t1, t2]))
    assert float(total) == pytest.approx(float(golden[f"{kind}_loss"]), abs=tolerance)


@pytest.mark.parametrize("run", ["scrl_200ep", "scrl_1000ep", "byol_200ep", "byol_1000ep"])
def test_scrl_momentum(run: str) -> None:
    golden = load("scrl_schedules")
    base, epochs = (0.97, 200) if "200" in run else (0.996, 1000)
    values = [rising_momentum(base, int(step), 157 * epochs) for step in golden[f"lr_{run}_step"]]
    np.testing.assert_allclose(values, golden[f"ema_{run}"], atol=1e-9)


@pytest.mark.parametrize("run", ["coco", "cocoplus"])
def test_orl_momentum(run: str) -> None:
    golden = load("orl_schedules")
    values = [rising_momentum(0.99, int(step), int(golden[f"{run}_K"])) for step in golden[f"{run}_iter"]]
    np.testing.assert_allclose(values, golden[f"{run}_m"], atol=1e-9)
