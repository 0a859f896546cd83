"""Stage 1 of ORL against the authors' arrays, and stage 3 against a plain computation of its equations."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from regionssl.backbones.encoder import EncoderConfig
from regionssl.build import load_config, make_method, trainable
from regionssl.data.batch import Batch
from regionssl.data.images import ImageList
from regionssl.methods.base import Method, Progress, World
from regionssl.methods.byol import Byol, ByolConfig
from regionssl.methods.orl import KINDS, Orl, OrlConfig

from method_variants import batch_of, config_of, method_of

GOLDEN = Path(__file__).parents[1] / "golden" / "orl_stage1_byol_train_steps.npz"


class TinyEncoder(nn.Module):
    """The reference's network: the stem of a ResNet and one stage of two basic blocks, 64 channels."""

    channels = {"c5": 64}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(BasicBlock(64, 64), BasicBlock(64, 64))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return {"c5": self.layer1(x)}


def batch_with(views: list[Tensor]) -> Batch:
    """A batch of given views, without crops."""
    index = torch.arange(len(views[0]))
    return Batch(views, [], [], index, seed=0, epoch=0, step=0, first=0, total=len(index))


def names(method: Method) -> dict[str, str]:
    """The package's keys -> the reference's: 0 is the backbone, 1 the projector; fc0, bn0, fc1 are layers 0, 1, 3."""
    layers = {"0": "fc0", "1": "bn0", "3": "fc1"}
    found = {}
    for key in method.state_dict():
        network, module, *rest = key.split(".")
        if module == "encoder":
            found[key] = ".".join([f"{network}_net.0", *rest])
        else:
            prefix = "head.predictor" if module == "predictor" else f"{network}_net.1"
            found[key] = ".".join([prefix, layers[rest[0]], *rest[1:]])
    return found


def off(ours: Tensor, theirs: Tensor, start: Tensor | float = 0.0) -> float:
    """How far two tensors are apart, in units of how far theirs has moved from the start."""
    return float((ours - theirs).norm() / (theirs - start).norm().clamp(min=1e-12))


def test_three_steps_of_stage_1_equal_the_release() -> None:
    """In 64 bit. The 32-bit noise of the arrays is 1e-6 in the first loss and grows a hundredfold with every step
    (batch norm over four images), so weights and statistics are compared in units of their own movement."""
    with np.load(GOLDEN) as file:
        golden = {name: torch.from_numpy(np.asarray(file[name])).double() for name in file}
    config = ByolConfig(hidden=32, dim=16, joint_views=False, target_init="copy", momentum=0.99)
    method = Byol(config, lambda maps: TinyEncoder(), World())  # type: ignore[arg-type]
    keys = names(method)
    assert {f"init::{name}" for name in keys.values()} == {name for name in golden if name.startswith("init::")}
    method.load_state_dict({key: golden[f"init::{name}"] for key, name in keys.items()})
    method.double()
    noise = [key for key in keys if key.endswith(("projector.0.bias", "predictor.0.bias"))]  # gradient 0 before a norm
    optimiser = torch.optim.SGD([p for _, p in trainable(method)], lr=0.05, momentum=0.9, weight_decay=1e-4)
    for step, tolerance in enumerate((3e-6, 1e-4, 1e-3)):
        batch = batch_with(list(golden[f"step{step}_img"].unbind(1)))
        loss = method(batch, method.targets(batch))["loss"]
        assert loss.item() == pytest.approx(float(golden[f"step{step}_loss"]), abs=tolerance)
        optimiser.zero_grad()
        loss.backward()
        if step == 0:
            gradients = {key: p.grad for key, p in trainable(method) if key not in noise}
            assert max(off(grad, golden[f"step0_grad::{keys[key]}"]) for key, grad in gradients.items()) < 5e-4
        optimiser.step()
        method.after_step(Progress(step, int(golden["max_iters"])))
    for key, tensor in method.state_dict().items():
        start, end = golden[f"init::{keys[key]}"], golden[f"final::{keys[key]}"]
        if key.endswith("num_batches_tracked"):
            assert tensor == end
        elif key not in noise:
            assert off(tensor, end, start) < (1e-3 if key.startswith("target") else 1e-2), key


def plain_orl_loss(method: Orl, batch: Batch) -> dict[str, Tensor]:
    """Section 5, one equation after the other; moves the running statistics as section 4.4 orders."""
    online, target = method.online, method.target

    def project(branch: nn.Module, view: Tensor) -> Tensor:
        return branch.projector(branch.encoder(view)["c5"].mean((2, 3)))

    with torch.no_grad():
        projections = [project(target, view) for view in batch.views]
    losses = {}
    for k, kind in enumerate(KINDS):
        predictor = online.predictor[kind]
        first, second = (predictor(project(online, batch.views[2 * k + v])) for v in (0, 1))
        forth = 2 * (1 - F.cosine_similarity(first, projections[2 * k + 1], eps=1e-12).mean())
        back = 2 * (1 - F.cosine_similarity(second, projections[2 * k], eps=1e-12).mean())
        losses[kind] = forth + back
    return losses


def test_orl_steps_equal_the_plain_computation(images: ImageList) -> None:
    method, plain = (method_of("orl").double() for _ in range(2))
    assert isinstance(method, Orl)
    assert isinstance(plain, Orl)
    weights = {"global": 1.0, "intra": 0.5, "inter": 2.0}
    method.config = method.config.model_copy(update={f"{kind}_weight": w for kind, w in weights.items()})
    optimisers = [torch.optim.SGD([p for _, p in trainable(m)], lr=0.05, momentum=0.9) for m in (method, plain)]
    for step in range(3):
        batch = batch_of("orl", images, first=8 * step, step=step)
        batch = replace(batch, views=[view.double() for view in batch.views])
        terms = method(batch, method.targets(batch))
        oracle = plain_orl_loss(plain, batch)
        total = sum(weights[kind] * value for kind, value in oracle.items())
        assert terms["loss"].item() == pytest.approx(total.item(), abs=1e-9)
        for kind, value in oracle.items():
            assert terms[kind].item() == pytest.approx(weights[kind] * value.item(), abs=1e-9)
        for optimiser, loss in zip(optimisers, (terms["loss"], total), strict=True):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        method.after_step(Progress(step, 10))
        momentum = 1 - 0.1 * (1 + math.cos(math.pi * step / 10)) / 2
        fast = dict(plain.online.named_parameters())
        for name, slow in plain.target.named_parameters():
            slow.data = momentum * slow.data + (1 - momentum) * fast[name].data
    other = plain.state_dict()
    for key, tensor in method.state_dict().items():
        torch.testing.assert_close(tensor, other[key], atol=1e-8, rtol=1e-7, msg=f"{key} differs")


def test_every_view_has_batch_statistics_of_its_own(images: ImageList) -> None:
    """Six views in six forward passes, online and target; each predictor is called twice (4.4)."""
    method = method_of("orl")
    batch = batch_of("orl", images)
    method(batch, method.targets(batch))
    counts = {key: int(value) for key, value in method.state_dict().items() if key.endswith("num_batches_tracked")}
    assert {count for key, count in counts.items() if ".predictor." in key} == {2}
    assert {count for key, count in counts.items() if ".predictor." not in key} == {6}
    assert len([key for key in counts if ".predictor." in key]) == 3


def test_an_untrained_network_starts_near_four_per_pair(images: ImageList) -> None:
    method = method_of("orl")
    batch = batch_of("orl", images, count=16)
    terms = method(batch, method.targets(batch))
    assert terms["loss"].item() == pytest.approx(12, abs=2)
    assert sum(terms[kind].item() for kind in KINDS) == pytest.approx(terms["loss"].item(), abs=1e-5)


def test_the_published_network_has_the_stated_number_of_weights() -> None:
    """Sections 2.2 and 4.4, ResNet-50; initial weights from N(0, 2 / fan_in)."""
    config = config_of("orl", "resnet50").model_copy(
        update={
            "method": OrlConfig(),
            "backbone": EncoderConfig(name="resnet50", init_scheme="kaiming_fan_in"),
        }
    )
    method = make_method(config, World(), seed=0, init="random")
    assert sum(p.numel() for _, p in trainable(method)) == 39_285_824
    assert sum(p.numel() for p in method.parameters()) == 72_243_328
    first = method.online.projector[0]
    assert float(first.weight.std()) == pytest.approx(math.sqrt(2 / 2048), rel=0.01)
    assert not first.bias.any()
    predictors = [method.online.predictor[kind][0].weight for kind in KINDS]
    assert not torch.equal(predictors[0], predictors[1])
    assert not torch.equal(predictors[1], predictors[2])


def released_names(method: Orl) -> dict[str, tuple[int, ...]]:
    """Names and shapes of stage 3 as the release has them, which holds the online encoder and projector twice."""
    heads = {
        kind: f"{name}_head.predictor"
        for kind, name in zip(KINDS, ("global", "local_intra", "local_inter"), strict=True)
    }
    layers = {"0": "fc0", "1": "bn0", "3": "fc1"}
    names = {}
    for key, value in method.state_dict().items():
        branch, part, *path = key.split(".")
        if part == "predictor":
            kind, layer, *rest = path
            places = [".".join([heads[kind], layers[layer], *rest])]
        else:
            number, alias = ("0", "backbone") if part == "encoder" else ("1", "neck")
            tail = ".".join(path[1:] if part == "encoder" else [layers[path[0]], *path[1:]])
            places = [f"{branch}_net.{number}.{tail}", *([f"{alias}.{tail}"] if branch == "online" else [])]
        names |= dict.fromkeys(places, tuple(value.shape))
    return names


def test_the_full_size_model_has_the_tensors_of_the_release() -> None:
    golden = np.load(GOLDEN.with_name("orl_state_dict_keys.npz"))
    shapes = (tuple(int(size) for size in text.strip("()").split(",") if size) for text in golden["shapes"].tolist())
    config = load_config("orl", {})
    method = make_method(config, World(), 0, "random")
    assert isinstance(method, Orl)
    assert released_names(method) == dict(zip(golden["keys"].tolist(), shapes, strict=True))
