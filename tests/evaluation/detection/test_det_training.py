"""The training loop on a model that can be followed by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from regionssl.errors import InputError
from regionssl.evaluation.detection.training import TrainingSettings, fit, learning_rate, make_optimiser


class Numbers:
    """Ten constant images whose value is their place, plus a hundredth of the epoch."""

    def __len__(self) -> int:
        return 10

    def name(self, i: int) -> str:
        return f"{i}.jpg"

    def draw(self, i: int, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        return torch.full((3, 4, 4), i + epoch / 100), {"value": torch.tensor(float(i))}


class Follower(nn.Module):
    """Remembers what it is given, and learns the targets from the images' means and from noise."""

    def __init__(self, noise: float = 0.01) -> None:
        super().__init__()
        self.noise = noise
        self.linear = nn.Linear(1, 1)
        self.norm = nn.BatchNorm2d(3)
        self.seen: list[list[float]] = []

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        if torch.is_grad_enabled():
            self.seen.append([round(float(image.mean()), 2) for image in images])
        stacked = torch.stack(images)
        normed = self.norm(stacked).mean((1, 2, 3))[:, None]
        wanted = torch.stack([target["value"] for target in targets])[:, None]
        noise = self.noise * torch.rand_like(normed)
        return {"square": (self.linear(normed + noise) - wanted).square().mean(), "extra": 0.1 * self.norm.weight.sum()}


SETTINGS = TrainingSettings(lr=0.01, batch_size=4, iterations=5, warmup=2, drops=(), precise_norm=3)


def test_rates() -> None:
    plan = TrainingSettings(lr=1.0, iterations=100, warmup=10, warmup_start=0.1, drops=(0.5, 80))
    rates = [learning_rate(plan, iteration) for iteration in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[5] == pytest.approx(0.55)
    assert rates[10:50] == [1.0] * 40
    assert rates[50:80] == pytest.approx([0.1] * 30)
    assert rates[80:] == pytest.approx([0.01] * 20)


def test_every_image_once_in_an_epoch_and_batches_go_on_across() -> None:
    model = Follower()
    losses = fit(model, Numbers(), SETTINGS, seed=7)
    assert len(losses) == 5
    assert not model.training
    flat = [value for batch in model.seen for value in batch]
    assert [len(batch) for batch in model.seen] == [4] * 5
    assert sorted(flat[:10]) == [float(i) for i in range(10)]
    assert sorted(flat[10:]) == [pytest.approx(i + 0.01) for i in range(10)]
    assert [round(value) for value in flat[:10]] != [round(value) for value in flat[10:]]


def run(seed: int) -> tuple[list[float], dict[str, Any]]:
    torch.manual_seed(0)
    model = Follower()
    return fit(model, Numbers(), SETTINGS, seed), model.state_dict()


def test_equal_to_the_last_digit() -> None:
    first, weights = run(1)
    second, again = run(1)
    assert first == second
    assert all(torch.equal(value, again[key]) for key, value in weights.items())
    assert run(2)[0] != first


def test_torch_s_generator_is_left_alone() -> None:
    model = Follower()
    before = torch.get_rng_state()
    fit(model, Numbers(), SETTINGS)
    assert torch.equal(before, torch.get_rng_state())


def test_precise_statistics_are_means_over_batches() -> None:
    """Of the three batches, which are those that training began with."""
    model = Follower()
    fit(model, Numbers(), SETTINGS, seed=7)
    batches = [torch.tensor(batch)[:, None, None].expand(4, 4, 4) for batch in model.seen[:3]]
    mean = float(np.mean([float(batch.mean()) for batch in batches]))
    spread = float(np.mean([float(batch.var()) for batch in batches]))
    torch.testing.assert_close(model.norm.running_mean, torch.full((3,), mean), atol=2e-2, rtol=0)
    torch.testing.assert_close(model.norm.running_var, torch.full((3,), spread), atol=0.2, rtol=0)
    assert model.norm.momentum == 0.1
    moving = Follower()
    fit(moving, Numbers(), SETTINGS.model_copy(update={"precise_norm": 0}), seed=7)
    assert (moving.norm.running_mean - mean).abs().min() > 0.1


def test_bfloat16_rounds_what_is_computed_not_what_is_kept() -> None:
    torch.manual_seed(0)
    model = Follower()
    rounded = fit(model, Numbers(), SETTINGS.model_copy(update={"precision": "bf16"}), seed=1)
    exact, _ = run(1)
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.05)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_norms_do_not_decay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.Linear(4, 4))
    model[3].bias.requires_grad_(False)
    decayed, spared = make_optimiser(model, TrainingSettings(weight_decay=0.1)).param_groups
    assert decayed["weight_decay"] == 0.1
    assert spared["weight_decay"] == 0
    assert {id(one) for one in decayed["params"]} == {id(model[0].weight), id(model[0].bias), id(model[3].weight)}
    assert len(spared["params"]) == 4


class Broken(Follower):
    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        losses = super().forward(images, targets)
        return losses if len(self.seen) < 3 else {"square": losses["square"] * float("nan")}


def test_a_loss_that_is_not_finite_names_its_images() -> None:
    model = Broken()
    with pytest.raises(InputError) as error:
        fit(model, Numbers(), SETTINGS, seed=7)
    assert "not finite at iteration 2" in str(error.value)
    for value in model.seen[2]:
        assert f"{int(value)}.jpg" in str(error.value)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_clip_bounds_the_step() -> None:
    plan = TrainingSettings(lr=1.0, batch_size=4, iterations=1, warmup=0, drops=(), clip=0.01, weight_decay=0)
    model = Follower()
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    fit(model, Numbers(), plan)
    moved = torch.cat([(value.detach() - before[key]).flatten() for key, value in model.named_parameters()])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)


def followed() -> tuple[list[float], dict[str, Tensor]]:
    torch.manual_seed(0)
    model = Follower(noise=0.0).double()
    losses = fit(model, Doubles(), SETTINGS, seed=3)
    return losses, dict(model.state_dict())


class Doubles(Numbers):
    def draw(self, i: int, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, target = super().draw(i, epoch)
        return image.double(), {key: value.double() for key, value in target.items()}


def one_of_two(rank: int, meeting: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    torch.save(followed(), f"{out}/{rank}.pt")
    if rank == 0:
        with pytest.raises(InputError, match="a batch of 5 cannot be shared by 2 processes"):
            fit(Follower(), Numbers(), SETTINGS.model_copy(update={"batch_size": 5}))
    dist.destroy_process_group()


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    mp.start_processes(one_of_two, (str(tmp_path / "meeting"), str(tmp_path)), nprocs=2, start_method="fork")
    losses, weights = followed()
    for rank in range(2):
        found, state = torch.load(tmp_path / f"{rank}.pt")
        assert found == pytest.approx(losses, rel=1e-9)
        for key, value in weights.items():
            if "num_batches" not in key:
                rtol = 1e-6 if "running" in key else 1e-9  # batch norms count rows in float32
                torch.testing.assert_close(state[key], value, rtol=rtol, atol=1e-9)
