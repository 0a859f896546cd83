"""What --to torchvision writes must be torchvision's own: keys, features, detectors that run and train on it."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN, resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from regionssl import InputError, export, load_backbone
from regionssl.export import torchvision as target
from regionssl.export import torchvision_fpn
from regionssl.export.resnets import RESNETS, stride_style
from regionssl.export.run_weights import part, read_tensors
from regionssl.export.target import read_trained
from regionssl.export.torchvision import load_into_detector

TRAINED_FPN = {
    f"{block}.0.{name}"
    for block in ("inner_blocks.1", "inner_blocks.2", "inner_blocks.3", "layer_blocks.1", "layer_blocks.2")
    for name in ("weight", "bias")
}


def mask_rcnn(backbone: BackboneWithFPN | None = None, **options: object) -> MaskRCNN:
    """Mask R-CNN on ResNet-18, for pictures of 64 px."""
    backbone = backbone or resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, trainable_layers=5, norm_layer=nn.BatchNorm2d, **options
    )
    return MaskRCNN(
        backbone,
        num_classes=3,
        min_size=64,
        max_size=64,
        rpn_pre_nms_top_n_train=40,
        rpn_post_nms_top_n_train=20,
        rpn_pre_nms_top_n_test=20,
        rpn_post_nms_top_n_test=10,
        box_detections_per_img=3,
    )


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: tensor.clone() for key, tensor in module.state_dict().items()}


def changed(before: dict[str, torch.Tensor], module: nn.Module) -> set[str]:
    return {key for key, tensor in module.state_dict().items() if not torch.equal(tensor, before[key])}


@pytest.mark.parametrize("name", RESNETS)
def test_names_and_shapes_are_torchvisions(name: str) -> None:
    """timm's tensors of each supported ResNet are torchvision's, and so are strides, groups and dilations."""
    with torch.device("meta"):
        ours, theirs = timm.create_model(name, num_classes=0), getattr(torchvision.models, name)()
    shapes = {key: tensor.shape for key, tensor in theirs.state_dict().items() if not key.startswith("fc.")}
    assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == shapes
    geometry = ("stride", "padding", "groups", "dilation")
    convolutions = {key: module for key, module in theirs.named_modules() if isinstance(module, nn.Conv2d)}
    for key, module in convolutions.items():
        assert [getattr(module, what) for what in geometry] == [
            getattr(ours.get_submodule(key), what) for what in geometry
        ]


def test_resnet18_loads_and_gives_the_same_features(exported) -> None:
    model = torchvision.models.resnet18()
    missing, unexpected = model.load_state_dict(load_file(exported.out), strict=False)
    assert set(missing) == {"fc.weight", "fc.bias"}
    assert not unexpected
    views = torch.randn(2, 3, 64, 64)
    model.fc = nn.Identity()
    with torch.no_grad():
        ours = load_backbone(exported.run)(views)["c5"].mean((2, 3))
        assert torch.allclose(model.eval()(views), ours, rtol=1e-5, atol=1e-5)


def test_the_card_says_what_a_user_must_know(exported) -> None:
    card = json.loads(exported.out.with_suffix(".json").read_text())
    assert card["format"] == "safetensors"
    assert (card["target"], card["architecture"], card["method"], card["step"]) == (
        "torchvision",
        "resnet18",
        "moco",
        7,
    )
    assert (card["colour_order"], card["value_range"]) == ("RGB", [0, 1])
    assert (card["mean"], card["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert card["data_fingerprint"] == "f00d"
    assert card["fpn_file"] == "r18.fpn.safetensors"
    assert set(card["check"]["maps"]) == {"c2", "c3", "c4", "c5"}
    assert set(card["versions"]) >= {"regionssl", "torch", "torchvision", "timm"}
    assert card["sha256"] == hashlib.sha256(exported.out.read_bytes()).hexdigest()
    assert card["licence"]
    fpn = json.loads(exported.out.with_name("r18.fpn.json").read_text())
    assert set(fpn["check"]["maps"]) == {"p3", "p4"}
    assert fpn["not_in_file"] == ["inner_blocks.0", "layer_blocks.0", "layer_blocks.3"]
    assert stride_style("resnet50") == "stride in the 3x3 convolution (v1.5)"


@pytest.mark.parametrize("norm_layer", [nn.BatchNorm2d, FrozenBatchNorm2d])
def test_manual_loading_into_a_detector(exported, norm_layer: type[nn.Module]) -> None:
    """The lines of docs/export.md, with live and with frozen batch norm."""
    model = mask_rcnn(resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=norm_layer))
    model.backbone.body.load_state_dict(load_file(exported.out))
    pyramid = load_file(exported.out.with_suffix(".fpn.safetensors"))
    missing, unexpected = model.backbone.fpn.load_state_dict(pyramid, strict=False)
    assert not unexpected
    assert {key.rsplit(".", 2)[0] for key in missing} == {"inner_blocks.0", "layer_blocks.0", "layer_blocks.3"}


def test_mask_rcnn_has_the_runs_pyramid_and_trains(exported) -> None:
    model = mask_rcnn()
    before = state(model)
    loaded = load_into_detector(model, exported.out)
    assert changed(before, model) <= set(loaded.loaded)
    assert set(loaded.loaded) >= {f"backbone.fpn.{key}" for key in TRAINED_FPN}
    assert {key.rsplit(".", 2)[0] for key in loaded.fresh} == {
        f"backbone.fpn.{block}" for block in ("inner_blocks.0", "layer_blocks.0", "layer_blocks.3")
    }
    assert loaded.unused == {}
    assert "inner_blocks.0.0.weight" in str(loaded)

    views, trained = torch.randn(1, 3, 64, 96), read_trained(exported.run)
    with torch.no_grad():
        ours, theirs = trained.fpn(trained.encoder(views)), model.eval().backbone(views)
    for level, name in (("1", "p3"), ("2", "p4")):
        assert torch.allclose(theirs[level], ours[name], rtol=1e-5, atol=1e-5 * ours[name].abs().max().item())
    assert set(model([torch.rand(3, 64, 64)])[0]) == {"boxes", "labels", "scores", "masks"}

    label = {
        "boxes": torch.tensor([[8.0, 8.0, 40.0, 48.0]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, 64, 64, dtype=torch.uint8),
    }
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = state(model)
    losses = model.train()([torch.rand(3, 64, 64)], [label])
    sum(losses.values()).backward()
    optimiser.step()
    moved = changed(before, model)
    assert {"backbone.body.conv1.weight", "backbone.fpn.inner_blocks.3.0.weight"} <= moved
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_retinanet_takes_the_fpn_at_the_same_strides(exported) -> None:
    """Its pyramid starts at c3, so the file's positions 1, 2, 3 are its 0, 1, 2."""
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, returned_layers=[2, 3, 4], norm_layer=nn.BatchNorm2d
    )
    anchors = AnchorGenerator(((16,),) * 4, ((1.0,),) * 4)
    model = RetinaNet(backbone, num_classes=2, min_size=64, max_size=64, anchor_generator=anchors)
    loaded = load_into_detector(model, exported.out)
    assert set(loaded.fresh) == {"backbone.fpn.layer_blocks.2.0.weight", "backbone.fpn.layer_blocks.2.0.bias"}
    views, trained = torch.randn(1, 3, 64, 64), read_trained(exported.run)
    with torch.no_grad():
        ours, theirs = trained.fpn(trained.encoder(views)), model.eval().backbone(views)
    for level, name in (("0", "p3"), ("1", "p4")):
        assert torch.allclose(theirs[level], ours[name], rtol=1e-5, atol=1e-5 * ours[name].abs().max().item())


def test_fpn_of_another_width_goes_into_a_detector_built_for_it(make_run, tmp_path: Path) -> None:
    out = export(make_run(fpn=16), "torchvision", tmp_path / "r18.safetensors")
    notes = " ".join(json.loads((tmp_path / "r18.fpn.json").read_text())["notes"])
    assert "256 channels, this one has 16" in notes
    ready_made = load_into_detector(mask_rcnn(), out)
    assert set(ready_made.unused) == {f"fpn.{key}" for key in TRAINED_FPN}
    assert not any(key.startswith("backbone.fpn") for key in ready_made.loaded)
    body = torchvision.models.resnet18(norm_layer=nn.BatchNorm2d)
    layers = {f"layer{n + 1}": str(n) for n in range(4)}
    narrow = mask_rcnn(BackboneWithFPN(body, layers, [64, 128, 256, 512], out_channels=16))
    assert load_into_detector(narrow, out).unused == {}


def test_fpn_with_norm_needs_a_pyramid_with_norm(make_run, tmp_path: Path) -> None:
    out = export(make_run(fpn=256, norm=True), "torchvision", tmp_path / "r18.safetensors")
    fpn = json.loads((tmp_path / "r18.fpn.json").read_text())
    assert fpn["batch_norm"]
    assert "norm_layer=BatchNorm2d" in " ".join(fpn["notes"])
    model = mask_rcnn()
    assert not any(key.startswith("backbone.fpn") for key in load_into_detector(model, out).loaded)
    layers = {f"layer{n + 1}": str(n) for n in range(4)}
    body = torchvision.models.resnet18()
    normed = BackboneWithFPN(body, layers, [64, 128, 256, 512], out_channels=256, norm_layer=nn.BatchNorm2d)
    assert load_into_detector(mask_rcnn(normed), out).unused == {}


def test_other_backbones_are_sent_to_timm(make_run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ResNets only .* trained test_resnet: use --to timm"):
        export(make_run("test_resnet"), "torchvision", tmp_path / "r.safetensors")
    assert not (tmp_path / "r.safetensors").exists()


def swap(function, one: str, two: str):
    """The mapping with two tensors of equal shape exchanged."""

    def swapped(source):
        tensors = function(source)
        assert tensors[one].shape == tensors[two].shape
        return tensors | {one: tensors[two], two: tensors[one]}

    return swapped


@pytest.mark.parametrize(
    ("module", "mapping", "one", "two", "found"),
    [
        (target, "backbone_tensors", "layer1.0.conv1.weight", "layer1.1.conv2.weight", "c2 differs"),
        (target, "backbone_tensors", "bn1.running_mean", "bn1.bias", "c2 differs"),
        (target, "backbone_tensors", "layer4.1.bn2.weight", "layer4.1.bn2.running_var", "c5 differs"),
        (torchvision_fpn, "fpn_tensors", "layer_blocks.1.0.weight", "layer_blocks.2.0.weight", "p4 differs"),
        (torchvision_fpn, "fpn_tensors", "inner_blocks.1.0.bias", "inner_blocks.2.0.bias", "p4 differs"),
    ],
)
def test_a_wrong_mapping_is_caught(make_run, tmp_path, monkeypatch, module, mapping, one, two, found) -> None:
    """Two tensors of equal shape, exchanged: loads without complaint, so the features alone can tell."""
    monkeypatch.setattr(module, mapping, swap(getattr(module, mapping), one, two))
    out = tmp_path / "out" / "r18.safetensors"
    with pytest.raises(InputError, match=found):
        export(make_run(fpn=16 if module is torchvision_fpn else None), "torchvision", out)
    assert list(out.parent.iterdir()) == []


def test_a_failed_check_leaves_the_earlier_export(make_run, exported, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "out" / exported.out.name
    shutil.copytree(exported.out.parent, out.parent)
    before = {file.name: file.read_bytes() for file in out.parent.iterdir()}
    assert len(before) == 4
    original = target.backbone_tensors
    monkeypatch.setattr(
        target, "backbone_tensors", lambda trained: original(trained) | {"conv1.weight": torch.zeros(64, 3, 7, 7)}
    )
    with pytest.raises(InputError, match="c2 differs"):
        export(make_run(fpn=16), "torchvision", out)
    assert {file.name: file.read_bytes() for file in out.parent.iterdir()} == before


@pytest.mark.parametrize("edit", ["drop", "add", "reshape"])
def test_wrong_key_sets_are_caught(make_run, tmp_path, monkeypatch, edit: str) -> None:
    original = target.backbone_tensors

    def edited(trained):
        tensors = original(trained)
        if edit == "drop":
            del tensors["bn1.num_batches_tracked"]  # no feature depends on it
        elif edit == "add":
            tensors["fc.weight"] = torch.zeros(2, 2)
        else:
            tensors["bn1.bias"] = torch.zeros(1)
        return tensors

    monkeypatch.setattr(target, "backbone_tensors", edited)
    with pytest.raises(InputError, match=r"the exported (keys are not|tensors do not fit) the target's"):
        export(make_run(), "torchvision", tmp_path / "r18.safetensors")


def test_loading_refuses_other_detectors_and_changed_files(make_run, exported, tmp_path: Path) -> None:
    out = tmp_path / exported.out.name
    shutil.copytree(exported.out.parent, tmp_path, dirs_exist_ok=True)
    other = mask_rcnn(resnet_fpn_backbone(backbone_name="resnet34", weights=None))
    before = state(other)
    with pytest.raises(InputError, match="is not the resnet18 of this file"):
        load_into_detector(other, out)
    assert changed(before, other) == set()
    with pytest.raises(InputError, match=r"ResNet has no backbone\.body"):
        load_into_detector(torchvision.models.resnet18(), out)
    with pytest.raises(InputError, match="cannot be read"):
        load_into_detector(mask_rcnn(), tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="is not an export --to torchvision"):
        load_into_detector(mask_rcnn(), export(make_run("test_resnet"), "timm", tmp_path / "timm.safetensors"))
    tensors = load_file(tmp_path / "r18.fpn.safetensors")
    save_file({key: tensor * 2 for key, tensor in tensors.items()}, tmp_path / "r18.fpn.safetensors")
    model = mask_rcnn()
    before = state(model)
    with pytest.raises(InputError, match="hashes differ"):
        load_into_detector(model, out)
    assert changed(before, model) == set()


def test_the_file_holds_the_runs_tensors_to_the_bit(exported) -> None:
    written, stored = load_file(exported.out), part(read_tensors(exported.run), "backbone")
    assert written.keys() == stored.keys()
    assert all(torch.equal(written[key], stored[key]) for key in stored)
