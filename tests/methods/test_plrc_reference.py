"""PLRC against reference arrays and against slow readable oracles of its equations (specification, section 8)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regionssl.build import parse_method
from regionssl.data.batch import Batch
from regionssl.engine.schedule import ScheduleConfig, learning_rate
from regionssl.geometry import Crops, centre_fractions
from regionssl.methods.affinity import distillation, row_factors, teacher_rows
from regionssl.methods.base import Progress, World
from regionssl.methods.losses import info_nce, unit
from regionssl.methods.momentum import moving_average
from regionssl.methods.plrc import Plrc, PlrcConfig, PointBranch
from regionssl.methods.region_contrast import PointLabels, region_contrast
from regionssl.regions.points import interpolation

GOLDEN = Path(__file__).parents[1] / "golden"
SIDE = 8


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"plrc_{name}.npz") as file:
        return dict(file)


def contrast(golden: dict, tag: str, region: np.ndarray, anchor: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Raw points, losses of the anchors, and which of them have positives."""
    raw = torch.from_numpy(golden[f"{tag}_Z"]).requires_grad_()
    image, view = (torch.from_numpy(golden[f"{tag}_{name}"]) for name in ("img", "view"))
    anchors = torch.from_numpy(anchor & ((golden[f"{tag}_view"] == 0) | (tag != "cross"))).nonzero().flatten()
    labels = PointLabels(image, torch.from_numpy(region), view)
    losses, found = region_contrast(
        unit(raw), labels, anchors, float(golden["T"]), intra_image=tag != "release", cross=tag == "cross"
    )
    return raw, losses, found


@pytest.mark.parametrize("tag", ["release", "paper", "cross"])
def test_region_contrast(tag: str) -> None:
    golden = load("point")
    raw, losses, found = contrast(golden, tag, golden[f"{tag}_reg"], golden[f"{tag}_anchor"])
    assert found.all()
    np.testing.assert_allclose(losses.detach().numpy(), golden[f"{tag}_terms"], atol=1e-9)
    assert float(losses.detach().mean()) == pytest.approx(float(golden[f"{tag}_loss_unscaled"]), abs=1e-9)
    loss = float(golden["T"]) / float(golden["T_base"]) * losses.mean()
    assert float(loss.detach()) == pytest.approx(float(golden[f"{tag}_loss"]), abs=1e-9)
    loss.backward()
    student = golden[f"{tag}_view"] == 0
    np.testing.assert_allclose(raw.grad.numpy()[student], golden[f"{tag}_grad_student"], atol=1e-9)


def test_an_image_without_a_common_region_is_no_anchor_but_stays_a_negative() -> None:
    golden = load("point")
    region, anchor = golden["release_masked_reg"], golden["release_masked_anchor"]
    _, losses, _ = contrast(golden, "release", region, anchor)
    loss = golden["T"] / golden["T_base"] * float(losses.detach().mean())
    assert loss == pytest.approx(float(golden["release_masked_loss"]), abs=1e-9)


def test_an_anchor_with_nothing_to_be_held_against_gives_zero_and_no_gradient() -> None:
    raw = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    labels = PointLabels(torch.tensor([0, 0]), torch.tensor([1, 2]), torch.tensor([0, 1]))
    losses, found = region_contrast(unit(raw), labels, torch.tensor([0, 1]), 0.2, intra_image=False, cross=False)
    assert not found.any()
    losses.sum().backward()
    assert losses.tolist() == [0, 0]
    assert float(raw.grad.abs().sum()) == 0


def test_image_loss() -> None:
    golden = load("image")
    query = torch.from_numpy(golden["q"]).requires_grad_()
    key, queue = torch.from_numpy(golden["k"]), torch.from_numpy(golden["queue"])
    loss = info_nce(unit(query), unit(key), queue, float(golden["T"]))[0].mean()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(golden["loss"]), abs=1e-9)
    np.testing.assert_allclose(query.grad.numpy(), golden["grad_q"], atol=1e-9)


class Maps(nn.Module):
    """An encoder that hands out its input as c5."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = {"c5": channels}

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        return {"c5": views}


def test_the_embedding_is_the_mean_of_the_projected_map() -> None:
    golden = load("image")
    branch = PointBranch(Maps(5), PlrcConfig(dim=6, hidden=32, cell_dim=4, prototypes=3)).double()
    branch.head[0], branch.head[2] = nn.Linear(5, 7), nn.Linear(7, 6)
    weights = {"0.weight": "W1", "0.bias": "b1", "2.weight": "W2", "2.bias": "b2"}
    branch.head.double().load_state_dict({name: torch.from_numpy(golden[key]) for name, key in weights.items()})
    outputs = branch(torch.from_numpy(golden["x"]).permute(0, 3, 1, 2))
    np.testing.assert_allclose(outputs["embedding"].detach().numpy(), golden["emb"], atol=1e-9)
    assert outputs["points"].shape == (2, 9, 6)
    assert torch.allclose(outputs["cells"].norm(dim=-1), torch.ones(2, 9, dtype=torch.float64))


def test_heads_have_the_published_sizes() -> None:
    """Section 3; the release counts the 4096 fixed magnitudes of its prototypes too."""
    branch = PointBranch(Maps(2048), PlrcConfig())
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in branch.named_children()}
    assert count == {"encoder": 0, "head": 4_458_624, "cell_head": 9_978_112 - 4096}


def test_schedules_weights_and_average() -> None:
    golden = load("sched")
    config = PlrcConfig()
    for epochs in (100, 200):
        temperatures = [config.teacher_temperature_of(epoch) for epoch in range(epochs)]
        np.testing.assert_allclose(temperatures, golden[f"tau{epochs}"], atol=1e-12)
        rates = [
            learning_rate(ScheduleConfig(kind="cosine", unit="epoch"), 0.03, 5 * e, 5, epochs) for e in range(epochs)
        ]
        np.testing.assert_allclose(rates, golden[f"lr{epochs}"], atol=1e-12)
    weights = (config.image_weight, config.point_weight, config.affinity_weight)
    losses = (golden["Lm"], golden["Lp"], golden["La"])
    total = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
    assert float(total) == pytest.approx(float(golden["total_intended"]), abs=1e-12)
    key, student = nn.Linear(3, 1, bias=False).double(), nn.Linear(3, 1, bias=False).double()
    for module, name in ((key, "ema_key"), (student, "ema_student")):
        module.weight.data = torch.from_numpy(golden[name])[None]
    moving_average(key, student, config.momentum)
    np.testing.assert_allclose(key.weight.detach().numpy()[0], golden["ema_next"], atol=1e-12)


def crops_of(seed: int, images: int, widest: int = 60) -> list[Crops]:
    """Views a, b, c of images of 80 x 60 px; a and c are near each other."""
    rng = np.random.default_rng(seed)
    box = np.concatenate([rng.integers(0, 12, (images, 2)), rng.integers(40, widest, (images, 2))], 1).astype(float)
    shifted = box + rng.integers(0, 8, (images, 4)) * [1, 1, -1, -1]
    boxes = (box, rng.permutation(box), shifted)
    return [Crops(torch.from_numpy(b), torch.from_numpy(rng.random(images) < 0.5), 64) for b in boxes]


SIZES = torch.tensor([[80.0, 60.0]], dtype=torch.float64)


def naive_distillation(
    student: Tensor,
    teacher: Tensor,
    reference: Tensor,
    near: Tensor,
    settings: PlrcConfig,
    epoch: int,
    centre: Tensor,
    prototypes: tuple[Tensor, Tensor],
) -> tuple[Tensor, int, Tensor]:
    """Equations 4.3 to 4.5 on enlarged maps, pair by pair: sum over pairs, their number, sum of teacher rows."""

    def lattice(cells: Tensor) -> Tensor:
        grid = round(len(cells) ** 0.5)
        maps = cells.T.reshape(1, -1, grid, grid)
        return F.interpolate(maps, settings.lattice, mode="bilinear").flatten(2)[0].T

    def row(cells: Tensor, weights: Tensor) -> Tensor:
        affinity = lattice(cells) @ lattice(reference).T * settings.affinity_scale
        return torch.cat([affinity, lattice(cells @ weights.T)], 1) if len(weights) else affinity

    mine, theirs = row(student, prototypes[0]), row(teacher, prototypes[1])
    total, row_sum = torch.zeros((), dtype=student.dtype), torch.zeros_like(theirs[0])
    for i, j in near.nonzero().tolist():
        p = ((theirs[j] - centre) / settings.teacher_temperature_of(epoch)).softmax(0)
        total = total - (p * (mine[i] / settings.student_temperature).log_softmax(0)).sum()
        row_sum = row_sum + theirs[j]
    return total, int(near.sum()), row_sum


def near_oracle(first: list[float], second: list[float], side: int, radius: float) -> Tensor:
    """Equation 2.4 point by point."""

    def centres(box: list[float]) -> tuple[np.ndarray, float]:
        step = np.array([(box[2] - box[0]) / side, (box[3] - box[1]) / side])
        points = [np.array(box[:2]) + (np.array([x, y]) + 0.5) * step for y in range(side) for x in range(side)]
        return np.array(points), float(np.linalg.norm(step))

    (one, d1), (two, d2) = centres(first), centres(second)
    return torch.from_numpy(np.linalg.norm(one[:, None] - two[None], axis=-1) < radius * max(d1, d2))


@pytest.mark.parametrize("prototypes", [0, 5])
def test_distillation_by_cells_equals_the_pairs(prototypes: int) -> None:
    """Value and gradients of the factored form against the enlarged maps, row by row."""
    generator = torch.Generator().manual_seed(3)
    config = PlrcConfig(lattice=6, affinity_scale=0.7, prototypes=prototypes)
    student, teacher, reference = (
        unit(torch.randn(2, 9, 4, generator=generator, dtype=torch.float64)) for _ in range(3)
    )
    own, slow = (unit(torch.randn(prototypes, 4, generator=generator, dtype=torch.float64)) for _ in range(2))
    centre = 0.1 * torch.randn(36 + prototypes, generator=generator, dtype=torch.float64)
    views = crops_of(0, 2)
    boxes = (centre_fractions(views[0], SIZES), centre_fractions(views[2], SIZES))
    lattice = interpolation(6, 3, student)
    results = []
    for naive in (False, True):
        x, w = student.clone().requires_grad_(), own.clone().requires_grad_()
        if naive:
            parts = [
                naive_distillation(
                    x[n],
                    teacher[n],
                    reference[n],
                    near_oracle(boxes[0][n].tolist(), boxes[1][n].tolist(), 6, 0.5),
                    config,
                    7,
                    centre,
                    (w, slow),
                )
                for n in range(2)
            ]
            loss, pairs, row_sum = (sum(values) for values in zip(*parts, strict=True))
        else:
            factors = row_factors(teacher, reference, slow, lattice, 0.7)
            rows = teacher_rows(factors, boxes, lattice, 0.5, config.teacher_temperature_of(7), centre)
            factors = row_factors(x, reference, w, lattice, 0.7)
            loss = distillation(factors, rows.pull, rows.partners, lattice, 0.1).sum()
            pairs, row_sum = rows.partners.sum(), rows.row_sum
        (loss / pairs).backward()
        results.append(
            (loss.detach(), torch.as_tensor(float(pairs)), row_sum, x.grad, *([w.grad] if prototypes else []))
        )
    assert float(results[0][1]) > 10
    for fast, slow_value in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow_value, atol=1e-9, rtol=1e-9)


class Prototypes(nn.Module):
    """What the loss asks a branch's head for."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def unit_prototypes(self, like: Tensor) -> Tensor:
        return unit(self.weight)


class Stored(nn.Module):
    """A branch that returns stored maps for the images that it is shown (identified by their first pixel)."""

    def __init__(self, config: PlrcConfig, views: int, images: int, generator: torch.Generator) -> None:
        super().__init__()

        def maps(channels: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(views, images, 4, channels, generator=generator, dtype=torch.float64))

        self.points, self.cells = maps(config.dim), maps(config.cell_dim)
        self.cell_head = Prototypes(torch.randn(config.prototypes, config.cell_dim, generator=generator).double())

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        view, image = views[:, 0, 0, 0].long(), views[:, 1, 0, 0].long()
        points = self.points[view, image]
        return {"embedding": points.mean(1), "points": points, "cells": unit(self.cells[view, image])}


IMAGES = 4


def stored(preset: str, group_size: int, **settings: object) -> Plrc:
    """A method whose networks return stored float64 maps of 2 x 2 cells."""
    tree = {
        "name": "plrc",
        "preset": preset,
        "dim": 6,
        "cell_dim": 5,
        "lattice": SIDE,
        "queue": 12,
        "points": 3,
        "group_size": group_size,
        "plan": {"views": [{"regions": SIDE}, {"regions": SIDE}, {}]},
    }
    config = parse_method(tree | ({"prototypes": 7} if preset == "R" else {"slots": 4}) | settings)
    assert isinstance(config, PlrcConfig)

    class StoredPlrc(Plrc):
        def make_branch(self, make_encoder: object) -> nn.Module:
            return nn.Identity()

    torch.manual_seed(0)
    method = StoredPlrc(config, lambda maps: None, World()).double()
    generator = torch.Generator().manual_seed(1)
    method.query = Stored(config, 3, IMAGES, generator)
    method.key = Stored(config, 3, IMAGES, generator)
    method.centre.copy_(0.05 * torch.randn(method.centre.shape, generator=generator, dtype=torch.float64))
    return method


def batch_of(invalid: int | None = None, order: tuple[int, ...] = tuple(range(IMAGES))) -> Batch:
    """Made-up label lattices; image ``invalid`` shows other regions in view b."""
    generator = torch.Generator().manual_seed(5)
    rows = torch.tensor(order)
    lattices = [torch.randint(1, 6, (IMAGES, SIDE, SIDE), generator=generator) for _ in range(2)]
    if invalid is not None:
        lattices[1][invalid] += 50
    views = []
    for view in range(3):
        pixels = torch.zeros(IMAGES, 3, 8, 8, dtype=torch.float64)
        pixels[:, 0], pixels[:, 1] = view, rows[:, None, None].double()
        views.append(pixels)
    crops = [crop[rows] for crop in crops_of(1, IMAGES)]
    return Batch(
        views,
        crops,
        [],
        rows,
        seed=0,
        epoch=4,
        step=9,
        first=0,
        total=IMAGES,
        regions=[lattices[0][rows], lattices[1][rows], None],
        image_size=SIZES.expand(IMAGES, 2),
    )


def read(maps: Tensor, cell: int) -> Tensor:
    """The map (4, C) of 2 x 2 cells at a lattice point, by grid_sample."""
    y, x = divmod(cell, SIDE)
    place = torch.tensor([[[[2 * (x + 0.5) / SIDE - 1, 2 * (y + 0.5) / SIDE - 1]]]], dtype=torch.float64)
    grid = maps.T.reshape(1, -1, 2, 2)
    return F.grid_sample(grid, place, padding_mode="border", align_corners=False)[0, :, 0, 0]


def point_oracle(method: Plrc, batch: Batch, images: range) -> Tensor:
    """L_p of a group: the reference computation of section 8, point by point."""
    config, drawn = method.config, method.draw(batch)
    points, tags = [], []
    for n in images:
        for view, branch in ((0, method.query), (1, method.key)):
            for slot in range(config.slots):
                for cell in drawn.cells[n, view, slot].tolist():
                    z = unit(read(branch.points[view, int(batch.index[n])], cell))
                    points.append(z if view == 0 else z.detach())
                    tags.append((n, int(drawn.regions[n, view, slot]), slot, bool(drawn.valid[n]), view))
    losses, cross = [], config.reach == "cross"
    for i, (image, region, slot, valid, view) in enumerate(tags):
        if slot or not valid or (cross and view == 1):
            continue
        others = [j for j, t in enumerate(tags) if j != i and (config.intra_image or t[0] != image or t[1] == region)]
        others = [j for j in others if not cross or tags[j][4] == 1]
        logits = torch.stack([points[i] @ points[j] for j in others]) / config.temperature
        positive = [k for k, j in enumerate(others) if tags[j][:2] == (image, region)]
        losses.append((logits.logsumexp(0) - logits[positive]).mean())
    return config.temperature / config.base_temperature * torch.stack(losses).mean()


def total_oracle(method: Plrc, batch: Batch, group_size: int) -> Tensor:
    """The whole loss, group by group (4.6)."""
    config = method.config
    query, key = (method.query.points[0].mean(1), method.key.points[1].mean(1).detach())
    keys = torch.cat([unit(key)[:, None], method.queue.keys.expand(IMAGES, -1, -1)], 1)
    logits = (keys @ unit(query)[:, :, None])[..., 0] / config.temperature
    image = (logits.logsumexp(1) - logits[:, 0]).mean()
    points, affinity = [], []
    boxes = [centre_fractions(batch.crops[view], batch.image_size) for view in (0, 2)]
    for start in range(0, IMAGES, group_size):
        group = range(start, start + group_size)
        points.append(point_oracle(method, batch, group))
        near = [near_oracle(boxes[0][n].tolist(), boxes[1][n].tolist(), SIDE, 0.5) for n in group]
        parts = [
            naive_distillation(
                unit(method.query.cells[0, n]),
                unit(method.key.cells[2, n]).detach(),
                unit(method.key.cells[1, n]).detach(),
                mask,
                config,
                batch.epoch,
                method.centre,
                (unit(method.query.cell_head.weight), unit(method.key.cell_head.weight).detach()),
            )
            for n, mask in zip(group, near, strict=True)
        ]
        affinity.append(sum(p[0] for p in parts) / sum(p[1] for p in parts))
    return (
        config.image_weight * image
        + config.point_weight * torch.stack(points).mean()
        + config.affinity_weight * torch.stack(affinity).mean()
    )


@pytest.mark.parametrize("preset", ["R", "P"])
@pytest.mark.parametrize("group_size", [2, 4])
@pytest.mark.parametrize("reach", ["all", "cross"])
def test_the_whole_loss_and_its_gradients(preset: str, group_size: int, reach: str) -> None:
    method, batch = stored(preset, group_size, reach=reach), batch_of(invalid=1)
    assert method.draw(batch).valid.tolist() == [True, False, True, True]
    expected = total_oracle(method, batch, group_size)
    expected_grads = torch.autograd.grad(expected, [p for p in method.query.parameters() if p.numel()])
    terms = method(batch, method.targets(batch))
    assert float(terms["loss"].detach()) == pytest.approx(float(expected.detach()), abs=1e-9)
    terms["loss"].backward()
    for parameter, grad in zip([p for p in method.query.parameters() if p.numel()], expected_grads, strict=True):
        torch.testing.assert_close(parameter.grad, grad, atol=1e-9, rtol=0)
    assert all(p.grad is None or not p.grad.any() for p in method.key.parameters())
    assert float(terms["valid"]) == pytest.approx(0.75)


@pytest.mark.parametrize("preset", ["R", "P"])
def test_single_precision(preset: str) -> None:
    double, batch = stored(preset, 4), batch_of()
    expected = double(batch, double.targets(batch))["loss"]
    single = stored(preset, 4).float()
    batch = replace(batch, views=[view.float() for view in batch.views])
    loss = single(batch, single.targets(batch))["loss"]
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


@pytest.mark.parametrize("preset", ["R", "P"])
def test_parts_add_up_to_the_batch(preset: str) -> None:
    whole, parts, batch = stored(preset, 2), stored(preset, 2), batch_of()
    terms = whole(batch, whole.targets(batch))
    targets = parts.targets(batch)
    shares = [parts(part, targets) for part in batch.split(2)]
    for name, value in terms.items():
        if name != "feature_std":
            total = sum(float(share[name].detach()) for share in shares)
            assert total == pytest.approx(float(value.detach()), abs=1e-9), name


def test_losses_can_be_left_out() -> None:
    """The contrast units of section 1: without points and affinities, what is left is the image loss."""
    whole, batch = stored("R", 4), batch_of()
    expected = whole(batch, whole.targets(batch))
    image = stored("R", 4, point_weight=0, affinity_weight=0, image_weight=1)
    terms = image(batch, image.targets(batch))
    assert float(terms["loss"].detach()) == pytest.approx(float(expected["image"]), abs=1e-12)
    assert terms.keys() == {"loss", "image", "image_top1", "feature_std"}
    branch = PointBranch(Maps(5), PlrcConfig(affinity_weight=0))
    assert branch.cell_head is None
    assert branch(torch.randn(2, 5, 3, 3)).keys() == {"embedding", "points"}


def test_the_order_of_images_does_not_matter() -> None:
    one, two = stored("R", 4), stored("R", 4)
    losses = [
        method(batch, method.targets(batch))
        for method, batch in ((one, batch_of()), (two, batch_of(order=(2, 0, 3, 1))))
    ]
    for name in ("loss", "points", "affinity"):
        assert float(losses[0][name].detach()) == pytest.approx(float(losses[1][name].detach()), abs=1e-9)


def test_the_centre_moves_by_the_mean_of_all_raw_teacher_rows() -> None:
    """Equation 4.5: mu <- 0.9 mu + 0.1 mean, over all pairs, before centring; P has none."""
    method, batch = stored("R", 2), batch_of()
    before = method.centre.clone()
    method.targets(batch)
    boxes = [centre_fractions(batch.crops[view], batch.image_size) for view in (0, 2)]
    parts = [
        naive_distillation(
            unit(method.query.cells[0, n]),
            unit(method.key.cells[2, n]),
            unit(method.key.cells[1, n]),
            near_oracle(boxes[0][n].tolist(), boxes[1][n].tolist(), SIDE, 0.5),
            method.config,
            4,
            before,
            (unit(method.query.cell_head.weight), unit(method.key.cell_head.weight)),
        )
        for n in range(IMAGES)
    ]
    mean = sum(part[2] for part in parts) / sum(part[1] for part in parts)
    method.after_step(Progress(0, 10))
    torch.testing.assert_close(method.centre, (0.9 * before + 0.1 * mean).detach(), atol=1e-12, rtol=0)
    pure = stored("P", 2)
    before = pure.centre.clone()
    pure.targets(batch)
    pure.after_step(Progress(0, 10))
    assert torch.equal(pure.centre, before)


def test_no_pairs_give_zero() -> None:
    """Crops a and c apart: the distillation is 0 and the centre stays (4.3)."""
    method, batch = stored("R", 4), batch_of()
    far = Crops(torch.tensor([[60.0, 40.0, 70.0, 50.0]], dtype=torch.float64).expand(4, 4), batch.crops[2].flip, 64)
    near = Crops(torch.tensor([[0.0, 0.0, 10.0, 10.0]], dtype=torch.float64).expand(4, 4), batch.crops[0].flip, 64)
    batch = replace(batch, crops=[near, batch.crops[1], far])
    before = method.centre.clone()
    terms = method(batch, method.targets(batch))
    assert float(terms["affinity"]) == 0
    terms["loss"].backward()
    assert float(method.query.cells.grad.abs().sum()) == 0
    method.query, method.key = nn.Linear(1, 1), nn.Linear(1, 1)
    method.after_step(Progress(0, 10))
    torch.testing.assert_close(method.centre, before, atol=1e-15, rtol=0)


def test_bounds_of_the_released_point_loss() -> None:
    """Section 4.2: equal points of 32 images give T/T_b ln 1023, perfect ones T/T_b ln 31."""
    shape = (32, 2, 16)
    image = torch.arange(32).view(-1, 1, 1).expand(shape).flatten()
    labels = PointLabels(image, torch.zeros_like(image), torch.arange(2).view(1, 2, 1).expand(shape).flatten())
    anchors = torch.arange(1024)
    equal, apart = torch.ones(1024, 4).double() / 2, torch.eye(32).double()[image]
    for points, temperature, expected in ((equal, 0.2, 19.80), (apart, 0.01, 9.81)):
        losses, _ = region_contrast(points, labels, anchors, temperature, intra_image=False, cross=False)
        assert 0.2 / 0.07 * float(losses.mean()) == pytest.approx(expected, abs=5e-3)


def test_configs() -> None:
    default, paper = parse_method({"name": "plrc", "preset": "R"}), parse_method({"name": "plrc", "preset": "P"})
    assert default == PlrcConfig()
    assert (paper.slots, paper.intra_image, paper.prototypes, paper.affinity_scale) == (16, True, 0, 1.0)
    assert paper.centre_momentum is None
    with pytest.raises(ValueError, match="three views"):
        PlrcConfig(plan={"views": [{}, {}]})
    with pytest.raises(ValueError, match="lattices of the same side, got 56 and None"):
        PlrcConfig(plan={"views": [{"regions": 56}, {}, {}]})
