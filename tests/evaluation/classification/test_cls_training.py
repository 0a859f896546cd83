"""Linear classifiers and fine-tuning: schedules, optimisers, heads, and whole runs."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from going_on import check_goes_on
from torch import nn

from regionssl.config import parse, read_yaml
from regionssl.data.images import find_images
from regionssl.engine.optim import Lars
from regionssl.errors import InputError
from regionssl.evaluation import start as starts
from regionssl.evaluation.classification.features import Reading
from regionssl.evaluation.classification.finetune import Classifier, FineTuneTask
from regionssl.evaluation.classification.linear import Heads, LinearTask
from regionssl.evaluation.classification.training import TrainingSettings, class_loss
from regionssl.evaluation.frozen import frozen_encoder, read_maps
from regionssl.evaluation.inputs import standardise
from regionssl.evaluation.start import Start
from regionssl.labels.sets import ClassSet, Split

PROTOCOLS = Path(starts.__file__).parent / "protocols"
SMALL = {"size": 64, "resize": 72, "batch_size": 12, "area": [0.5, 1.0]}


def protocol(name: str, kind: type[LinearTask] | type[FineTuneTask]) -> LinearTask | FineTuneTask:
    tree = read_yaml(PROTOCOLS / f"{name}.yaml")
    return parse(kind, {key: value for key, value in tree.items() if key not in ("task", "about")}, name)


def test_scrls_schedule() -> None:
    task = protocol("imagenet_linear_scrl", LinearTask)
    per_epoch = 313
    assert task.rate(0) == pytest.approx(3.2 / (5 * per_epoch))
    assert task.rate(5 * per_epoch - 1) == pytest.approx(3.2)
    assert max(task.rate(step) for step in range(0, task.iterations, 97)) <= 3.2
    assert task.rate(per_epoch * (5 + 75 // 3) - 1) == pytest.approx(3.2 * 0.75)  # cos(pi / 3) = 1 / 2
    assert task.rate(task.iterations - 1) == 0


@pytest.mark.parametrize(
    ("name", "epochs", "drops"),
    [
        ("imagenet_linear_orl", 28, (8, 16, 24)),
        ("places205_linear_orl", 14, (4, 8, 12)),
        ("inat18_linear_orl", 84, (24, 48, 72)),
    ],
)
def test_orls_schedules(name: str, epochs: int, drops: tuple[int, ...]) -> None:
    task = protocol(name, LinearTask)
    per_epoch, rest = divmod(task.iterations, epochs)
    assert rest == 0
    for number, drop in enumerate(drops):
        assert task.rate(drop * per_epoch - 1) == pytest.approx(0.01 * 0.1**number)
        assert task.rate(drop * per_epoch) == pytest.approx(0.01 * 0.1 ** (number + 1))


@pytest.mark.parametrize(("name", "per_epoch"), [("imagenet_1pct", 51), ("imagenet_10pct", 501)])
def test_schedules_of_fine_tuning(name: str, per_epoch: int) -> None:
    task = protocol(name, FineTuneTask)
    assert [task.rate(epoch * per_epoch) for epoch in (0, 11, 12, 15, 16, 19)] == pytest.approx(
        [0.01, 0.01, 0.002, 0.002, 0.0004, 0.0004]
    )
    assert task.iterations == 20 * per_epoch


def test_nesterov_lars_is_torchs_sgd_where_nothing_is_adapted() -> None:
    torch.manual_seed(0)
    start = torch.randn(4, 3, dtype=torch.float64)
    results = []
    for lars in (True, False):
        weight = nn.Parameter(start.clone())
        if lars:
            groups = [{"params": [weight], "adapt": False}]
            optimiser: torch.optim.Optimizer = Lars(groups, 0.1, 0.9, 0.01, nesterov=True)
        else:
            optimiser = torch.optim.SGD([weight], 0.1, 0.9, weight_decay=0.01, nesterov=True)
        for step in range(4):
            optimiser.zero_grad()
            (weight.sin().sum() * (step + 1)).backward()
            optimiser.step()
        results.append(weight.detach())
    torch.testing.assert_close(*results, rtol=1e-14, atol=1e-14)


def test_settings_that_contradict() -> None:
    for settings, message in [
        ({"drops": [8, 16]}, "shares of the run"),
        ({"schedule": "cosine", "drops": [0.5]}, "a cosine has no drops"),
        ({"nesterov": True, "momentum": 0}, "nesterov needs momentum"),
    ]:
        with pytest.raises(InputError, match=message):
            parse(TrainingSettings, settings, "test")
    with pytest.raises(InputError, match="at most one on each map"):
        parse(LinearTask, {"heads": [{"map": "c5"}, {"map": "c5"}]}, "test")


def test_losses() -> None:
    scores = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, -3.0]])
    exclusive = torch.tensor([[0, 0, 1], [1, 0, 0]])
    torch.testing.assert_close(class_loss(scores, exclusive, True), F.cross_entropy(scores, torch.tensor([2, 0])))
    several = torch.tensor([[1, -1, 0], [0, 1, -1]])
    likely = scores.sigmoid()
    terms = [likely[0, 0], 1 - likely[0, 2], 1 - likely[1, 0], likely[1, 1]]
    torch.testing.assert_close(class_loss(scores, several, False), -torch.stack(terms).log().mean())


def test_orls_poolings_give_its_cells() -> None:
    task = protocol("imagenet_linear_orl", LinearTask)
    assert isinstance(task, LinearTask)
    sides = []
    for head, cells in zip(task.heads, (112, 56, 28, 14, 7), strict=True):
        sides.append(head.read(torch.zeros(1, 1, cells, cells)).shape[-1])
    assert sides == [12, 6, 4, 3, 2]
    assert Reading().read(torch.ones(2, 5, 3, 4)).shape == (2, 5, 1, 1)


def test_the_stem_is_a_map(textures: Split[ClassSet], random_start: Start) -> None:
    cut = LinearTask(size=64, resize=72)
    encoder = frozen_encoder(random_start, ("c1", "c3"), textures.train.images, cut.cut)
    inputs = torch.randn(2, 3, 64, 64)
    maps = read_maps(encoder, inputs, ("c1", "c3"))
    assert [tuple(one.shape[2:]) for one in maps.values()] == [(32, 32), (8, 8)]
    torch.testing.assert_close(maps["c3"], encoder(inputs)["c3"])
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_a_random_start_sees_images_before_it_is_frozen(textures: Split[ClassSet], random_start: Start) -> None:
    cut = LinearTask(size=64, resize=72)
    encoder = frozen_encoder(random_start, ("c5",), textures.train.images, cut.cut)
    fresh = random_start.encoder(("c5",))
    names = [name for name, _ in fresh.named_buffers() if name.endswith("running_mean")]
    assert all(bool(encoder.get_buffer(name).any()) for name in names)
    assert not any(bool(fresh.get_buffer(name).any()) for name in names)
    with torch.no_grad():
        pixels = torch.stack([cut.cut(textures.train.images.load(i)) for i in range(36)])
        inputs = standardise(pixels, random_start.mean, random_start.std)
        spread = encoder(inputs)["c5"].std()
    assert 0.1 < spread < 10


def test_the_backbone_stays_as_it_is(textures: Split[ClassSet], random_start: Start) -> None:
    task = parse(LinearTask, {**SMALL, "iterations": 3, "lr": 0.1, "heads": [{"map": "c4", "norm": True}]}, "test")
    encoder = frozen_encoder(random_start, ("c4",), textures.train.images, task.cut)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    heads = Heads(task, encoder, 3, 0, "cpu")
    weights = [parameter.clone() for parameter in heads.parameters()]
    optimiser = task.make_optimiser([([*heads.parameters()], 1.0)])
    task.train(heads, optimiser, textures.train, True, random_start, 0, "cpu")
    assert not encoder.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert len(weights) == 2
    assert not any(torch.equal(old, new) for old, new in zip(weights, heads.parameters(), strict=True))


def test_linear_heads_learn_and_repeat(textures: Split[ClassSet], random_start: Start, tmp_path: Path) -> None:
    heads = [{"map": name, "norm": True, "std": 0.01} for name in ("c1", "c5")]
    task = parse(LinearTask, {**SMALL, "iterations": 30, "lr": 0.1, "drops": [0.7], "heads": heads}, "test")
    outcome = task.run(random_start, textures, tmp_path / "a")
    assert set(outcome.metrics) == {"top1", "c1_top1", "c5_top1"}
    assert outcome.value == outcome.metrics["c5_top1"] > 50
    again = task.model_copy(update={"workers": 1}).run(random_start, textures, tmp_path / "b")
    assert again.metrics == outcome.metrics
    assert again.artefacts["predictions"].read_bytes() == outcome.artefacts["predictions"].read_bytes()


def test_lars_learns(textures: Split[ClassSet], random_start: Start, tmp_path: Path) -> None:
    settings = {"optimiser": "lars", "lr": 3.0, "weight_decay": 0, "nesterov": True, "schedule": "cosine", "warmup": 2}
    task = parse(LinearTask, {**SMALL, **settings, "iterations": 25}, "test")
    assert task.run(random_start, textures, tmp_path).value > 40


def test_bfloat16_is_near_float32(textures: Split[ClassSet], random_start: Start) -> None:
    weights = []
    for precision in ("fp32", "bf16"):
        task = parse(LinearTask, {**SMALL, "iterations": 2, "lr": 1.0, "precision": precision}, "test")
        encoder = frozen_encoder(random_start, ("c5",), textures.train.images, task.cut)
        heads = Heads(task, encoder, 3, 0, "cpu")
        first = next(heads.parameters()).detach().clone()
        task.train(
            heads, task.make_optimiser([([*heads.parameters()], 1.0)]), textures.train, True, random_start, 0, "cpu"
        )
        weights.append(next(heads.parameters()).detach() - first)
    difference = (weights[0] - weights[1]).norm() / weights[0].norm()
    assert 0 < difference < 0.05


def test_several_classes_are_judged_one_by_one(textures: Split[ClassSet], random_start: Start, tmp_path: Path) -> None:
    def both(part: ClassSet) -> ClassSet:
        truth = np.stack([part.truth[:, 0], part.truth[:, 0] | part.truth[:, 1]], 1).astype(np.int8)
        truth[0, 1] = -1
        return ClassSet(part.images, truth, ("stripes", "regular"))

    task = parse(LinearTask, {**SMALL, "iterations": 15, "lr": 0.1, "heads": [{"map": "c2", "norm": True}]}, "test")
    outcome = task.run(random_start, Split(both(textures.train), both(textures.val)), tmp_path)
    assert outcome.primary == "map"
    assert outcome.value > 60  # chance is one half


def test_fine_tuning_learns_and_repeats(textures: Split[ClassSet], random_start: Start, tmp_path: Path) -> None:
    task = parse(FineTuneTask, {**SMALL, "iterations": 25, "lr": 0.02, "head_lr": 10, "workers": 0}, "test")
    outcome = task.run(random_start, textures, tmp_path / "a", seed=2)
    assert outcome.value > 55
    again = task.run(random_start, textures, tmp_path / "b", seed=2)
    assert again.artefacts["predictions"].read_bytes() == outcome.artefacts["predictions"].read_bytes()


def test_the_head_has_its_own_rate(random_start: Start) -> None:
    task = parse(FineTuneTask, {"lr": 0.01, "head_lr": 100}, "test")
    network = Classifier(random_start.encoder(("c5",)), 3, 0)
    assert 0.005 < float(network.head.weight.detach().std()) < 0.02
    assert not network.head.bias.any()
    groups = [([*network.encoder.parameters()], 1.0), ([*network.head.parameters()], task.head_lr)]
    assert [group["factor"] for group in task.make_optimiser(groups).param_groups] == [1.0, 100.0]


def test_a_loss_that_diverges_ends_in_a_sentence(
    textures: Split[ClassSet], random_start: Start, tmp_path: Path
) -> None:
    task = parse(FineTuneTask, {**SMALL, "iterations": 4, "lr": 1e30}, "test")
    with pytest.raises(InputError, match=r"at iteration 3 with lr 1e\+30; lower lr"):
        task.run(random_start, textures, tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(
    textures: Split[ClassSet], random_start: Start, tmp_path: Path, workers: int
) -> None:
    shutil.copytree(textures.train.images.root, tmp_path / "images")
    (tmp_path / "images" / "005.png").write_bytes(b"no picture")
    broken = replace(textures.train, images=find_images(tmp_path / "images"))
    task = parse(FineTuneTask, {**SMALL, "iterations": 3, "workers": workers}, "test")
    with pytest.raises(InputError, match=r"005\.png .*; repair it, or drop it"):
        task.run(random_start, Split(broken, textures.val), tmp_path / "out")


@pytest.mark.parametrize(
    "task",
    [
        parse(LinearTask, {**SMALL, "iterations": 4, "lr": 0.1, "heads": [{"map": "c3"}, {"map": "c4"}]}, "test"),
        parse(FineTuneTask, {**SMALL, "iterations": 4, "lr": 0.02, "workers": 1}, "test"),
    ],
)
def test_a_stopped_training_goes_on_to_the_same_scores(
    task: LinearTask | FineTuneTask,
    textures: Split[ClassSet],
    random_start: Start,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    check_goes_on(task, random_start, textures, tmp_path, capsys)
