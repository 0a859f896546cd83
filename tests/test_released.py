"""Checkpoints in the layouts of the papers' releases: the trained network is found, and what stands beside it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from regionssl import pretrain
from regionssl.backbones.beside import pyramid_tensors
from regionssl.backbones.encoder import Encoder, EncoderConfig
from regionssl.backbones.layouts import detectron2_key, sequential_key
from regionssl.backbones.weights import initialise
from regionssl.build import make_method
from regionssl.methods.base import Method, World

from method_variants import config_of

Tensors = dict[str, Tensor]
TINY = str(Path(__file__).parent / "tiny.yaml")
FPN_NAMES = {
    "inner_blocks.c5": "fpn_lateral5",
    "inner_blocks.c4": "fpn_lateral4",
    "inner_blocks.c3": "fpn_lateral3",
    "layer_blocks.p4": "fpn_output4",
    "layer_blocks.p3": "fpn_output3",
}
ORL_LAYERS = {"0": "fc0", "1": "bn0", "3": "fc1"}


def make(variant: str, init: str = "random", seed: int = 0) -> Method:
    return make_method(config_of(variant, "resnet18"), World(), seed, init)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(EncoderConfig(name="resnet18"), size=64)


@pytest.fixture(scope="module")
def body() -> Tensors:
    torch.manual_seed(9)
    tensors = Encoder(EncoderConfig(name="resnet18"), size=64).body.state_dict()
    return {key: value.clone().uniform_() if value.is_floating_point() else value for key, value in tensors.items()}


def under(prefix: str, tensors: Tensors, rename: Callable[[str], str] = str) -> Tensors:
    return {prefix + rename(key): value for key, value in tensors.items()}


def slow(tensors: Tensors) -> Tensors:
    """The same names with other values: taking these is the mistake to be caught."""
    return {key: value * 0 for key, value in tensors.items()}


def layouts(body: Tensors) -> dict[str, object]:
    queue = {"module.queue": torch.zeros(4, 8), "module.queue_ptr": torch.zeros(1)}
    key = under("module.encoder_k.", slow(body))
    r2o = under("module.online_network.encoder.", body, sequential_key)
    r2o_target = under("module.target_network.encoder.", slow(body), sequential_key)
    nested = {"net.online.": body, "net.target.": slow(body)}
    return {
        "moco_v2": {"epoch": 200, "state_dict": {**key, **under("module.encoder_q.", body), **queue}},
        "plrc": {"state_dict": {**under("module.encoder_k.enc.", slow(body)), **under("module.encoder_q.enc.", body)}},
        "scrl": {k: v for prefix, part in nested.items() for k, v in under(prefix, part, sequential_key).items()},
        "r2o": {"epoch": 300, "model": {**r2o_target, **r2o, **under("module.x.target.", slow(body), sequential_key)}},
        "orl": {
            "state_dict": under("target_net.0.", slow(body)) | under("online_net.0.", body) | under("backbone.", body)
        },
        "detectron2": {"model": under("", body, detectron2_key), "__author__": "x", "matching_heuristics": True},
        "finetuned": {"model": under("backbone.bottom_up.", body, detectron2_key), "iteration": 7},
    }


@pytest.mark.parametrize("name", ["moco_v2", "plrc", "scrl", "r2o", "orl", "detectron2", "finetuned"])
def test_the_trained_backbone_is_found(body: Tensors, encoder: Encoder, tmp_path: Path, name: str) -> None:
    torch.save(layouts(body)[name], tmp_path / f"{name}.pth.tar")
    line = initialise(encoder, str(tmp_path / f"{name}.pth.tar"))
    for key, value in encoder.body.state_dict().items():
        assert torch.equal(value, body[key]), key
    in_layout = {"scrl": "sequential", "r2o": "sequential", "detectron2": "detectron2", "finetuned": "detectron2"}
    assert (f"layout {in_layout[name]}" in line) if name in in_layout else ("layout" not in line)


def equal(module: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[key]) for key, value in module.state_dict().items())


def resim_file(donor: Method, path: Path, converted: bool) -> None:
    """In the names of ReSim's release, or of its converter (ReSim 6.1); arrays in the latter."""
    query = donor.branches[0]
    fpn = {}
    for key, value in query.fpn.state_dict().items():
        kind, level, _, rest = key.split(".", 3)
        fpn[f"{FPN_NAMES[f'{kind}.{level}']}.{rest}"] = value
    head, body = under("fc.", query.head.state_dict()), query.encoder.body.state_dict()
    if converted:
        tensors = {**under("", body, detectron2_key), **under("stem.", head), **under("backbone.", fpn)}
        arrays = {key: value.numpy() for key, value in tensors.items()}
        torch.save({"model": arrays, "__author__": "MOCO", "matching_heuristics": True}, path)
    else:
        tensors = under("module.encoder_q.", {**body, **head, **fpn})
        torch.save({"state_dict": under("module.encoder_k.", slow({**body, **head, **fpn})) | tensors}, path)


@pytest.mark.parametrize("converted", [False, True])
def test_resim_goes_on_with_pyramid_and_head(tmp_path: Path, encoder: Encoder, converted: bool) -> None:
    donor = make("resim_fpn", seed=5)
    resim_file(donor, tmp_path / "resim.pth", converted)
    method = make("resim_fpn", str(tmp_path / "resim.pth"))
    for branch in method.branches:
        assert equal(branch.fpn, donor.branches[0].fpn)
        assert equal(branch.head, donor.branches[0].head)
        assert equal(branch.encoder.body, donor.branches[0].encoder.body)
    said = " ".join(method.started_from)
    assert "taken fpn (10 tensors), head (4 tensors)" in said or "taken head (4 tensors), fpn (10 tensors)" in said
    assert ("module.encoder_k" in said) == (not converted)
    pyramid = pyramid_tensors(tmp_path / "resim.pth", encoder)
    assert pyramid.keys() == donor.branches[0].fpn.state_dict().keys()
    assert all(torch.equal(value, donor.branches[0].fpn.state_dict()[key]) for key, value in pyramid.items())


def test_a_module_of_another_shape_is_left_whole(tmp_path: Path) -> None:
    donor = make("resim_fpn", seed=5)
    resim_file(donor, tmp_path / "resim.pth", False)
    content = torch.load(tmp_path / "resim.pth")
    content["state_dict"]["module.encoder_q.fpn_output3.bias"] = torch.zeros(7)
    torch.save(content, tmp_path / "resim.pth")
    method, fresh = make("resim_fpn", str(tmp_path / "resim.pth")), make("resim_fpn")
    assert equal(method.branches[0].fpn, fresh.branches[0].fpn)
    assert equal(method.branches[0].head, donor.branches[0].head)
    assert "fpn (of another shape or incomplete)" in " ".join(method.started_from)


@pytest.mark.parametrize("variant", ["byol_separate", "orl"])
def test_orl_goes_on_with_projector_and_predictors(tmp_path: Path, variant: str) -> None:
    donor = make(variant, seed=5)
    online = donor.branches[0]
    tensors = under("backbone.", online.encoder.body.state_dict())
    stage_3 = variant == "orl"
    heads = {"global": "global_head", "intra": "local_intra_head", "inter": "local_inter_head"}
    predictors = {heads[k]: m for k, m in online.predictor.items()} if stage_3 else {"head": online.predictor}
    for place, module in {"neck": online.projector, **{f"{k}.predictor": m for k, m in predictors.items()}}.items():
        for key, value in module.state_dict().items():
            layer, rest = key.split(".", 1)
            tensors[f"{place}.{ORL_LAYERS[layer]}.{rest}"] = value
    torch.save({"state_dict": tensors}, tmp_path / "orl.pth")
    method = make(variant, str(tmp_path / "orl.pth"))
    assert equal(method.branches[0].projector, online.projector)
    assert equal(method.branches[1].projector, online.projector)
    assert equal(method.branches[0].predictor, online.predictor)
    assert method.started_from[-1].endswith("not taken nothing")


def test_other_files_give_a_backbone_alone(tmp_path: Path, body: Tensors) -> None:
    torch.save(body | {"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}, tmp_path / "supervised.pth")
    method, fresh = make("moco", str(tmp_path / "supervised.pth")), make("moco")
    assert equal(method.branches[0].head, fresh.branches[0].head)
    assert method.started_from[-1] == (
        "beside the backbone: taken nothing; not taken fc.weight (1 tensor), fc.bias (1 tensor)"
    )


def test_a_run_is_gone_on_with_under_another_recipe(scenes: Path, tmp_path: Path, capsys) -> None:
    """A run folder as --init gives its pyramid too, and the run says so."""
    first, second = tmp_path / "first", tmp_path / "second"
    pretrain(scenes, first, recipe=TINY, steps=1)
    pretrain(scenes, second, recipe=TINY, steps=1, init=str(first), set=["optimiser.lr=1e-9"])
    assert "beside the backbone: taken fpn (10 tensors); not taken nothing" in capsys.readouterr().out
    before, after = (load_file(run / "weights.safetensors")["fpn.inner_blocks.c5.0.weight"] for run in (first, second))
    assert torch.allclose(before, after, atol=1e-6)
