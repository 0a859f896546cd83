"""R2O against the authors' views and loss (``golden/r2o_data.npz``, ``r2o_loss.npz``), a slow oracle of whole
iterations, and its specification."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from regionssl.build import parse_method, trainable
from regionssl.data.batch import Batch
from regionssl.data.views import CropDraw, cut
from regionssl.engine.choices import resolve
from regionssl.engine.optim import OptimiserConfig, is_excluded
from regionssl.engine.schedule import ScheduleConfig
from regionssl.engine.train import TrainingConfig
from regionssl.errors import InputError
from regionssl.geometry import Crops, on_lattice
from regionssl.methods.base import Progress, World
from regionssl.methods.losses import regression
from regionssl.methods.masked import mask_weights, valid_masks
from regionssl.methods.momentum import rising_momentum
from regionssl.methods.r2o import R2o
from regionssl.regions.clusters import candidates_per_centre
from regionssl.regions.refine import compact_labels

from method_variants import method_of

with np.load(Path(__file__).parents[1] / "golden" / "r2o_loss.npz") as file:
    GOLDEN = {name: torch.from_numpy(np.asarray(file[name])) for name in file.files if name != "versions"}

with np.load(Path(__file__).parents[1] / "golden" / "r2o_data.npz") as file:
    DATA = {name: file[name] for name in file.files if name != "versions"}

SIDE, LATTICE, IMAGES, MOMENTUM, STEPS = 64, 32, 6, 0.8, 3


@pytest.mark.parametrize("image", range(3))
def test_views(image: int) -> None:
    """Pixels of the three views, and the crops in mask cells, from the recorded boxes."""
    picture = Image.fromarray(DATA[f"img{image}"])
    plan, size = parse_method({"name": "r2o", "preset": "official"}).plan, np.array([*picture.size] * 2)
    draws = []
    for spec, recorded in zip(plan.views, DATA[f"roi{image}"].astype(np.float64), strict=True):
        left, top, right, bottom = np.round(recorded[[1, 0, 3, 2]] * size).astype(int).tolist()
        draws.append(CropDraw(left, top, right - left, bottom - top, bool(recorded[4])))
        view = cut(picture, draws[-1], spec)
        np.testing.assert_array_equal(view.transpose(1, 2, 0), DATA[f"views{image}_u8"][len(draws) - 1])
    crops = Crops(torch.tensor([draw.box for draw in draws]).double(), torch.tensor([d.flip for d in draws]), 224)
    whole = Crops(crops.box[2:].expand(3, 4), crops.flip[2:].expand(3), 224)
    cells = 56 * torch.from_numpy(DATA[f"roi{image}"][:, [1, 0, 3, 2]])
    assert torch.equal(on_lattice(crops, whole, 56), cells), "also the last bit: it decides how often RoIAlign samples"


def test_the_release_mirrors_every_crop() -> None:
    """Quirk Q1."""
    assert DATA["roi_release_call"][:, :2, 4].all()
    flips = {
        preset: [view.flip for view in parse_method({"name": "r2o", "preset": preset}).plan.views[:2]]
        for preset in ("official", "clean")
    }
    assert flips == {"official": [1, 1], "clean": [0.5, 0.5]}


@pytest.mark.parametrize("indicator", [True, False])
@pytest.mark.parametrize("by_area", [True, False])
def test_loss(indicator: bool, by_area: bool) -> None:
    case = {(True, False): "default", (False, False): "no_indicator", (True, True): "weighted"}.get(
        (indicator, by_area), "weighted_no_indicator"
    )
    predictions = GOLDEN["preds"].clone().requires_grad_()
    areas = torch.stack(GOLDEN["masks"].sum(-1).chunk(2), 1)
    assert torch.equal(valid_masks(areas), GOLDEN["valid"])
    assert float(valid_masks(areas).sum()) / 4 == float(GOLDEN[f"mean_valid_{case}"])
    weights = mask_weights(areas, 1, indicator, by_area)
    loss = (weights * sum(regression(predictions, GOLDEN["targets"]).chunk(2))).sum()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(GOLDEN[f"loss_{case}"]), abs=1e-5)
    torch.testing.assert_close(predictions.grad, GOLDEN[f"grad_{case}"], atol=1e-6, rtol=0)


def test_weights_of_groups() -> None:
    """The mean over groups of each group's mean; both crops must see a mask; a group without such has no weights."""
    areas = torch.zeros(4, 2, 3)
    areas[0, :, 0] = areas[1, :, 1:] = 2.0
    areas[2, 0] = 5.0
    areas[3, :, 2] = 1e-3
    weights = mask_weights(areas, 2)
    assert weights[:2].tolist() == [[pytest.approx(1 / 12), 0, 0], [0, pytest.approx(1 / 12), pytest.approx(1 / 12)]]
    assert not weights[2:].any()
    assert float(mask_weights(areas, 1).sum()) == pytest.approx(0.5)


class TinyEncoder(nn.Module):
    """c4: a colour per 16 px, expanded; c5: half of that. Small enough for the oracle."""

    channels = {"c4": 12, "c5": 8}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 1)
        self.norm = nn.BatchNorm2d(12)
        self.second = nn.Conv2d(12, 8, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        c4 = F.relu(self.norm(self.first(F.avg_pool2d(x, 16))))
        return {"c4": c4, "c5": self.second(F.avg_pool2d(c4, 2))}


def tiny(preset: str | None = "official", world: World | None = None, **settings: object) -> R2o:
    torch.manual_seed(3)
    plan = parse_method({"name": "r2o"}).model_dump()["plan"]
    for view in plan["views"]:
        view["size"] = SIDE
    values = {"name": "r2o", "plan": plan, "hidden": 32, "dim": 16, "momentum": MOMENTUM}
    values |= {"curriculum": {"kind": "constant", "clusters": [4]}} | settings
    config = parse_method(values | ({"preset": preset} if preset else {}))
    return R2o(config, lambda maps: TinyEncoder(), world or World())


def batch_at(step: int, images: int = IMAGES, seed: int = 0) -> Batch:
    """Random pictures with random blocks as regions; images of 80 x 50 pixels."""
    rng = torch.Generator().manual_seed(100 * seed + step)
    corner = torch.randint(0, 20, (2, images, 2), generator=rng).double()
    extent = torch.randint(15, 31, (2, images, 2), generator=rng).double()
    flips = torch.rand(2, images, generator=rng) < 0.5
    whole = torch.tensor([[0.0, 0, 80, 50]]).double().expand(images, 4)
    crops = [Crops(torch.cat([corner[v], corner[v] + extent[v]], 1), flips[v], SIDE) for v in range(2)]
    blocks = torch.stack([torch.randperm(9 + i % 3, generator=rng)[:9].view(3, 3) for i in range(images)])
    regions = F.interpolate(blocks[:, None].float(), (LATTICE, LATTICE), mode="nearest")[:, 0].long()
    regions[:, 20, 20] = blocks.flatten(1).amax(1)  # one pixel, seen by no cell of c4
    return Batch(
        views=[torch.randn(images, 3, SIDE, SIDE, generator=rng) for _ in range(3)],
        crops=[*crops, Crops(whole, torch.zeros(images, dtype=torch.bool), SIDE)],
        colours=[],
        index=torch.arange(images),
        seed=seed,
        epoch=0,
        step=step,
        first=0,
        total=images,
        regions=[None, None, regions],
    )


def slow_soft(regions: Tensor, slots: int, cells: int) -> Tensor:
    one_hot = F.one_hot(regions, slots).movedim(-1, 1).float()
    return F.interpolate(one_hot, (cells, cells), mode="bilinear", align_corners=False)


def slow_pool(features: Tensor, masks: Tensor) -> Tensor:
    rows = torch.zeros(*masks.shape[:2], features.shape[1])
    for b in range(len(masks)):
        for k in range(masks.shape[1]):
            rows[b, k] = (masks[b, k] * features[b]).sum((1, 2)) / max(float(masks[b, k].sum()), 1)
    return rows


def slow_k_means(rows: Tensor, clusters: int, draws: Tensor) -> Tensor:
    picks = [int(float(draws[0]) * len(rows))]
    for numbers in draws[1:].float().view(clusters - 1, candidates_per_centre(clusters)):
        nearest = torch.cdist(rows, rows[picks]).square().amin(1)
        sums = nearest.cumsum(0)
        options = [min(int((sums < u * sums[-1]).sum()), len(rows) - 1) for u in numbers]
        left = [torch.minimum(nearest, torch.cdist(rows, rows[o : o + 1])[:, 0].square()).sum() for o in options]
        picks.append(options[int(torch.stack(left).argmin())])
    centres, previous = rows[picks], math.inf
    for _ in range(200):
        distance, labels = torch.cdist(rows, centres).square().min(1)
        if abs(previous - float(distance.sum())) < 1e-6:
            break
        previous = float(distance.sum())
        centres = torch.stack([rows[labels == k].mean(0) for k in range(clusters)])
    assert torch.isfinite(centres).all(), "the oracle's random batches lose no cluster"
    return labels


def slow_masks(c4: Tensor, batch: Batch, clusters: int, draws: Tensor) -> Tensor:
    """Masks of the release in both crops (2, B, K, 2, 2), in the specification's order (section 4)."""
    from torchvision.ops import roi_align

    regions, cells = batch.regions[2], LATTICE // 4
    slots = int(regions.max()) + 1
    rows = slow_pool(c4, slow_soft(regions, slots, c4.shape[-1])).flatten(0, 1)
    rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    labels = slow_k_means(rows, clusters, draws).view(len(regions), slots)
    image = (slow_soft(regions, slots, cells) * labels[..., None, None]).sum(1).floor()
    masks = torch.stack([(image == k).float() for k in range(clusters)], 1)
    seen = []
    for crops in batch.crops[:2]:
        boxes = [box[None].float() / torch.tensor([80.0, 50, 80, 50]) * cells for box in crops.box]
        aligned = roi_align(masks, boxes, (2, 2), 1.0, -1, False)
        seen.append(torch.stack([m.flip(-1) if flip else m for m, flip in zip(aligned, crops.flip, strict=True)]))
    return torch.stack(seen)


def slow_iteration(online: nn.Module, target: nn.Module, batch: Batch, m: float, draws: Tensor) -> Tensor:
    """Section 5, step by step; moves ``target`` between the clustering and its second pass, as the release does."""
    with torch.no_grad():
        masks = slow_masks(target.encoder(batch.views[2])["c4"], batch, 4, draws)
    pictures, stacked = torch.cat(batch.views[:2]), masks.flatten(0, 1)
    pooled = slow_pool_differentiable(online.encoder(pictures)["c5"], stacked)
    q = online.predictor(online.projector(pooled.flatten(0, 1))).view(2, len(batch), 4, -1)
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            parameter.copy_(m * parameter + (1 - m) * online.get_parameter(name))
        swapped = torch.cat([batch.views[1], batch.views[0]])
        rows = slow_pool(target.encoder(swapped)["c5"], masks.flip(0).flatten(0, 1))
        z = target.projector(rows.flatten(0, 1)).view(2, len(batch), 4, -1)
    numerator, count = torch.zeros(()), 0
    for b in range(len(batch)):
        for k in range(4):
            if masks[0, b, k].sum() > 1e-3 and masks[1, b, k].sum() > 1e-3:
                for d in range(2):
                    numerator = numerator + 2 - 2 * F.cosine_similarity(q[d, b, k], z[d, b, k], dim=0)
                count += 1
    return numerator / (2 * count)


def slow_pool_differentiable(features: Tensor, masks: Tensor) -> Tensor:
    sums = torch.einsum("nkhw,nchw->nkc", masks, features)
    return sums / masks.sum((2, 3)).clamp(min=1)[..., None]


def test_iterations_of_the_release() -> None:
    """Losses and weights of some steps: the network that clusters is one average older than that of the crops."""
    method = tiny(cluster_group=32)
    online, target = copy.deepcopy(method.online), copy.deepcopy(method.target)
    ours = torch.optim.SGD([p for _, p in trainable(method)], lr=0.5)
    theirs = torch.optim.SGD(online.parameters(), lr=0.5)
    for step in range(STEPS):
        batch = batch_at(step)
        m = rising_momentum(MOMENTUM, max(step - 1, 0), 10)
        expected = slow_iteration(online, target, batch, m, method.draws(batch, 4)[0])
        found = method(batch, method.targets(batch))["loss"]
        assert float(found) == pytest.approx(float(expected), abs=1e-5)
        for optimiser, loss in ((ours, found), (theirs, expected)):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        method.after_step(Progress(step, 10))
    for name, parameter in online.named_parameters():
        torch.testing.assert_close(method.online.get_parameter(name), parameter, atol=1e-4, rtol=1e-4)
    for name, parameter in target.named_parameters():
        if name.startswith("encoder"):
            torch.testing.assert_close(method.previous.get_parameter(name[8:]), parameter, atol=1e-5, rtol=1e-4)


def test_the_previous_encoder_is_one_average_behind() -> None:
    method = tiny()
    with torch.no_grad():
        for parameter in method.online.parameters():
            parameter.add_(1.0)
    for step in range(2):
        before = {name: p.clone() for name, p in method.target.encoder.named_parameters()}
        method.after_step(Progress(step, 10))
        assert all(torch.equal(p, before[name]) for name, p in method.previous.named_parameters())
        assert not torch.equal(method.target.encoder.first.weight, before["first.weight"])
    assert not any(name.startswith("previous") for name, _ in trainable(method))
    assert not hasattr(tiny(preset=None), "previous")


@pytest.mark.parametrize("preset", ["official", "clean"])
def test_which_network_makes_the_masks(preset: str) -> None:
    method, batch = tiny(preset), batch_at(0)
    before = method.targets(batch).masks

    def disturb(encoder: nn.Module) -> Tensor:
        with torch.no_grad():
            encoder.first.weight.copy_(torch.randn(encoder.first.weight.shape, generator=torch.Generator()))
        return method.targets(batch).masks

    assert torch.equal(disturb(method.online.encoder), before)
    assert torch.equal(disturb(method.target.encoder), before) == (preset == "official")
    if preset == "official":
        assert not torch.equal(disturb(method.previous), before)


def test_one_cluster_is_byol_on_whole_crops() -> None:
    """Every cell of both crops belongs to the one mask, so pooling is the global mean (specification, appendix D)."""
    method = tiny(preset=None, curriculum={"kind": "constant", "clusters": [1]})
    batch = batch_at(0)
    targets = method.targets(batch)
    torch.testing.assert_close(targets.masks, torch.ones(IMAGES, 2, 1, 2, 2), atol=1e-5, rtol=0)
    assert float(targets.measures["clusters"]) == 1
    pooled = method.online.encoder(torch.cat(batch.views[:2]))["c5"].mean((2, 3))
    first, second = method.online.head(pooled).chunk(2)
    rows = method.target.head(method.target.encoder(torch.cat(batch.views[:2]))["c5"].mean((2, 3))).chunk(2)
    expected = (regression(first, rows[1]).mean() + regression(second, rows[0]).mean()) / 2
    assert float(method(batch, targets)["loss"]) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("preset", ["official", "clean"])
def test_groups_are_processes(preset: str) -> None:
    """Two groups in one process have the masks and draws of two processes with one each."""

    class Second(World):
        rank, size = 1, 2

        def gather(self, tensor: Tensor) -> Tensor:
            return torch.cat([tensor, tensor])

    batch = batch_at(0, images=8)
    both = tiny(preset, cluster_group=4, group_size=4)
    masks = both.targets(batch).masks
    parts = [Batch(**{**part.__dict__, "first": 0, "total": 4}) for part in batch.split(4)]
    for rank, part in enumerate(parts):
        alone = tiny(preset, Second() if rank else World(), cluster_group=4, group_size=4)
        torch.testing.assert_close(alone.targets(part).masks, masks[4 * rank :][:4], atol=1e-5, rtol=0)


@pytest.mark.parametrize("preset", ["official", "clean"])
def test_without_valid_masks_the_loss_is_zero_and_reaches_every_parameter(preset: str) -> None:
    method, batch = tiny(preset), batch_at(0)
    targets = method.targets(batch)
    none = type(targets)(
        targets.masks, torch.zeros_like(targets.valid), 0 * targets.weights, targets.rows, targets.measures
    )
    loss = method(batch, none)["loss"]
    loss.backward()
    assert float(loss) == 0
    assert all(p.grad is not None and not p.grad.any() for p in method.online.parameters())


def test_rows_that_do_not_count_can_be_kept_out_of_the_heads() -> None:
    """Quirk Q7: with them, batch statistics differ; without, they are those of the valid rows alone."""
    method, batch = tiny(preset=None, head_rows="valid"), batch_at(0)
    targets = method.targets(batch)
    assert not targets.valid.all()
    pooled = (
        torch.einsum(
            "nvkhw,nvchw->nvkc",
            targets.masks,
            method.target.encoder(torch.cat(batch.views[:2]))["c5"].unflatten(0, (2, -1)).transpose(0, 1),
        )
        / targets.masks.sum((-2, -1)).clamp(min=1)[..., None]
    )
    chosen = targets.valid[:, None].expand(IMAGES, 2, 4)
    torch.testing.assert_close(targets.rows[chosen], method.target.head(pooled[chosen]), atol=1e-4, rtol=1e-3)
    assert not targets.rows[~chosen].any()
    assert not torch.allclose(tiny(preset=None).targets(batch).rows[chosen], targets.rows[chosen], atol=1e-2)


def test_without_clusters_the_regions_are_the_masks() -> None:
    method, batch = tiny(preset=None, curriculum={"kind": "none"}), batch_at(0)
    targets = method.targets(batch)
    assert targets.masks.shape[2] == int(batch.regions[2].max()) + 1
    torch.testing.assert_close(targets.masks.sum(2), torch.ones(IMAGES, 2, 2, 2), atol=1e-5, rtol=0)
    assert method.lr_factor(0) == 1
    assert float(method(batch, targets)["loss"]) > 0


def test_labels_of_any_size() -> None:
    """Labels such as COCO's panoptic ids give the masks of small labels in the same order."""
    batch, method = batch_at(0), tiny(preset=None)
    small = Batch(**{**batch.__dict__, "regions": [None, None, compact_labels(batch.regions[2])]})
    expected = method.targets(small).masks
    large = batch.regions[2] * 1_000_003 + 77
    ours = method.targets(Batch(**{**batch.__dict__, "regions": [None, None, large]})).masks
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_learning_rate_factor() -> None:
    """Section 6: the first epoch's 127 clusters make the rate 8 times as large."""
    method = tiny(curriculum={})
    assert method.lr_factor(0) == pytest.approx(127 / 16)
    assert method.lr_factor(299) == pytest.approx(4 / 16)
    assert tiny("clean", curriculum={}).lr_factor(0) == 1


def test_the_release_excludes_113_of_171_tensors() -> None:
    """Section 6: all norms and biases but the scale of the stem's norm."""
    method = method_of("r2o_official", backbone="resnet50")
    parameters = trainable(method)
    excluded = [name for name, p in parameters if is_excluded("r2o_release", name, p)]
    assert len(parameters) == 171
    assert len(excluded) == 113
    adapted = {name for name, _ in parameters} - set(excluded)
    assert "online.encoder.body.bn1.weight" in adapted
    assert {name for name, p in parameters if p.ndim > 1} == adapted - {"online.encoder.body.bn1.weight"}


def test_the_run_tells_the_length_and_the_groups() -> None:
    """--epochs stretches the curriculum, and clustering groups fit a process's share of the batch."""
    config = parse_method({"name": "r2o"})
    resolved = resolve(
        TrainingConfig(batch_size=40, epochs=30),
        config,
        OptimiserConfig(lr=0.1),
        ScheduleConfig(),
        400,
        torch.device("cpu"),
        2,
        1,
    )
    assert resolved.method.curriculum.length == 30
    assert resolved.method.cluster_group == 20
    settings = {choice.setting: choice for choice in resolved.choices}
    assert settings["method.curriculum.length"].value == 30
    assert settings["method.cluster_group"].recipe == 32
    assert resolved.epochs.share % 40 == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"plan": {"views": [{}, {}]}}, "two crops, then the whole image with its regions"),
        ({"plan": {"views": [{}, {}, {"crop": "whole"}]}}, "two crops, then the whole image with its regions"),
        ({"plan": {"views": [{}, {}, {"crop": "whole", "regions": 8, "size": 96}]}}, "have one size"),
        ({"head_rows": "valid", "indicator": False}, "makes no rows for the masks that count"),
        ({"curriculum": {"epochs": [0, 40, 300], "clusters": [128, 128, 4]}}, "a cosine has two knots"),
        ({"cluster_groups": 8}, "did you mean cluster_group"),
    ],
)
def test_settings_that_do_not_fit(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_method({"name": "r2o", **settings})


def test_more_clusters_than_regions() -> None:
    few = {"source": {"kind": "grid", "side": 3}, "cluster_group": 4}
    with pytest.raises(InputError, match=r"up to 40 clusters, but 4 image\(s\) with a grid of 3 x 3 have 36 regions"):
        tiny(preset=None, curriculum={"kind": "constant", "clusters": [40]}, **few)
    tiny(preset=None, curriculum={"kind": "constant", "clusters": [36]}, **few)
    batch, slic = batch_at(0), tiny("clean", curriculum={"kind": "constant", "clusters": [100]})
    filled = slic.targets(batch).measures["clusters"]
    assert 1 < float(filled) <= 9 * IMAGES, "where it is not known before, the log tells"
    assert torch.isfinite(slic(batch, slic.targets(batch))["loss"])
