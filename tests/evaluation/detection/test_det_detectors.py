"""Detectors: what they are made of, what they start from, and that all of it trains."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from regionssl.backbones.fpn import FPN
from regionssl.errors import InputError
from regionssl.evaluation.detection.c4 import C4Heads
from regionssl.evaluation.detection.detectors import DetectorSettings, build, inputs
from regionssl.evaluation.detection.norms import freeze
from regionssl.evaluation.detection.trunks import Trunk, TrunkSettings, load_pyramid, prepared, pyramid
from regionssl.evaluation.start import Start, open_start

KINDS = ("faster_rcnn_fpn", "mask_rcnn_fpn", "faster_rcnn_c4", "mask_rcnn_c4", "retinanet", "fcos")


def batch() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    images = [torch.rand(3, 64, 80, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    masks = torch.zeros(1, 64, 80, dtype=torch.uint8)
    masks[:, 10:40, 20:60] = 1
    target = {"boxes": torch.tensor([[20.0, 10, 60, 40]]), "labels": torch.tensor([2]), "masks": masks}
    return images, [
        target,
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": masks[:0]},
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_everything_trains(kind: Any, random_start: Start, cheap: dict[str, Any]) -> None:
    """Every parameter that asks for a gradient gets one; in evaluation, boxes lie in the frame that came in."""
    few = cheap | ({"regions": 4, "rpn_test": (50, 6)} if kind.endswith("c4") else {})
    model = build(kind, random_start, 2, DetectorSettings(**few, box_head_norm="batch", least_score=0.0))
    images, targets = batch()
    torch.manual_seed(0)
    losses = model.train()(images, targets)
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    lacking = [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None]
    assert lacking == []
    with torch.no_grad():
        found = model.eval()([torch.rand(3, 50, 120)])[0]
    assert len(found["boxes"]) > 0
    assert set(found["labels"].tolist()) <= {1, 2} | ({0} if kind in ("retinanet", "fcos") else set())
    assert (found["boxes"][:, 2] <= 120.01).all()
    assert (found["boxes"][:, 3] <= 50.01).all()
    if kind.startswith("mask"):
        assert found["masks"].shape == (len(found["boxes"]), 1, 50, 120)


def test_new_layers_are_equal_for_all_starts(
    random_start: Start, pretrained_start: Start, cheap: dict[str, Any]
) -> None:
    settings = DetectorSettings(**cheap)
    first = build("faster_rcnn_fpn", random_start, 2, settings, seed=3).state_dict()
    second = build("faster_rcnn_fpn", pretrained_start, 2, settings, seed=3).state_dict()
    other = build("faster_rcnn_fpn", random_start, 2, settings, seed=4).state_dict()
    new = [key for key in first if not key.startswith("backbone.encoder.")]
    assert all(torch.equal(first[key], second[key]) for key in new)
    assert not torch.equal(first["backbone.encoder.body.conv1.weight"], second["backbone.encoder.body.conv1.weight"])
    assert not torch.equal(first["rpn.head.cls_logits.weight"], other["rpn.head.cls_logits.weight"])


def test_c4_heads_hold_the_last_stage(pretrained_start: Start, cheap: dict[str, Any]) -> None:
    """The stage has the start's weights, a norm follows it, and the trunk ends at c4."""
    model: Any = build("mask_rcnn_c4", pretrained_start, 2, DetectorSettings(**cheap, box_head_norm="batch"))
    whole = pretrained_start.encoder(("c4", "c5"))
    heads: C4Heads = model.roi_heads
    stage, norm = heads.box_head
    assert isinstance(norm, nn.BatchNorm2d)
    for key, value in whole.body.layer4.state_dict().items():
        assert torch.equal(value, stage.state_dict()[key])
    assert not any("layer4" in key for key in model.backbone.state_dict())
    maps = whole.eval()(torch.rand(1, 3, 64, 64))
    torch.testing.assert_close(stage.eval()(maps["c4"]), maps["c5"])
    assert model.rpn.anchor_generator.num_anchors_per_location() == [15]


def test_c4_heads_and_frozen_parts_need_a_resnet(cheap: dict[str, Any]) -> None:
    start = open_start("random", "convnext_atto")
    with pytest.raises(InputError, match="convnext_atto is none; use a detector with a pyramid"):
        build("faster_rcnn_c4", start, 2, DetectorSettings(**cheap))
    with pytest.raises(InputError, match="freeze_at=2 counts the stages of ResNets, and convnext_atto is none"):
        freeze(start.encoder(("c4",)).body, "convnext_atto", 2)


def test_fcos_needs_a_width_of_its_groups(random_start: Start, cheap: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"set fpn_width to 64, 96, 128, .* not 48"):
        build("fcos", random_start, 2, DetectorSettings(**cheap | {"fpn_width": 48}))


def norms(module: nn.Module) -> set[type[nn.Module]]:
    kinds = (nn.BatchNorm2d, nn.GroupNorm, FrozenBatchNorm2d)
    return {type(one) for one in module.modules() if isinstance(one, kinds)}


def test_norms_of_the_backbone(pretrained_start: Start, random_start: Start) -> None:
    """Frozen norms do not move in training mode; group norms have the weights of those they replace."""
    frozen = prepared(pretrained_start, ("c4",), TrunkSettings(norm="frozen"), 0).train()
    assert norms(frozen) == {FrozenBatchNorm2d}
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    reference = pretrained_start.encoder(("c4",)).eval()
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(frozen(images)["c4"], reference(images)["c4"])
    assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())
    grouped = prepared(pretrained_start, ("c4",), TrunkSettings(norm="group"), 0)
    assert norms(grouped) == {nn.GroupNorm}
    assert torch.equal(grouped.body.bn1.weight, reference.body.bn1.weight)
    assert norms(prepared(random_start, ("c4",), TrunkSettings(norm="frozen"), 0)) == {nn.BatchNorm2d}


def test_first_parts_freeze(pretrained_start: Start, random_start: Start) -> None:
    encoder = prepared(pretrained_start, ("c5",), TrunkSettings(freeze_at=2), 0)
    trained = {name.split(".")[1] for name, one in encoder.named_parameters() if one.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}
    assert norms(encoder.body.layer1) == {FrozenBatchNorm2d}
    assert norms(encoder.body.layer2) == {nn.BatchNorm2d}
    free = prepared(random_start, ("c5",), TrunkSettings(freeze_at=2), 0)
    assert all(one.requires_grad for one in free.parameters())


@pytest.mark.parametrize(("ours", "theirs"), [(False, "none"), (False, "batch"), (True, "batch")])
@pytest.mark.parametrize("one_stage", [False, True])
def test_a_trained_pyramid_is_used(ours: bool, theirs: Any, one_stage: bool, random_start: Start) -> None:
    """Where both have the same layers, p3 and p4 are equal; a convolution without a norm is copied under a norm."""
    trunk = pyramid(random_start, TrunkSettings(fpn_width=16, fpn_norm=theirs), 0, one_stage)
    torch.manual_seed(1)
    run = FPN(trunk.encoder.channels, 16, norm=ours).eval()
    loaded = load_pyramid(trunk, run.state_dict(), "run")
    place = 0 if one_stage else 1
    assert f"inner_blocks.{place}.0.weight" in loaded
    assert torch.equal(trunk.fpn.inner_blocks[place][0].weight, run.inner_blocks["c3"][0].weight)
    assert not any(key.startswith("inner_blocks.0.") for key in loaded) or one_stage
    if ours == (theirs == "batch"):
        images = torch.rand(2, 3, 64, 64)
        trunk.eval()
        maps = trunk(images)
        expected = run(trunk.encoder(images))
        for level in ("p3", "p4"):
            torch.testing.assert_close(maps[level], expected[level])
    with pytest.raises(InputError, match="trained a pyramid of 8 channels, and the detector's has 16; set fpn_width=8"):
        load_pyramid(trunk, FPN(trunk.encoder.channels, 8).state_dict(), "run")


def test_levels(random_start: Start, cheap: dict[str, Any]) -> None:
    settings = TrunkSettings(fpn_width=16)
    images = torch.rand(1, 3, 128, 128)
    two: Trunk = pyramid(random_start, settings, 0).eval()
    assert [(name, maps.shape[-1]) for name, maps in two(images).items()] == [
        ("p2", 32),
        ("p3", 16),
        ("p4", 8),
        ("p5", 4),
        ("pool", 2),
    ]
    one = pyramid(random_start, settings, 0, one_stage=True).eval()
    assert {name: maps.shape[-1] for name, maps in one(images).items()} == {
        "p3": 16,
        "p4": 8,
        "p5": 4,
        "p6": 2,
        "p7": 1,
    }
    model: Any = build("faster_rcnn_fpn", random_start, 2, DetectorSettings(**cheap))
    assert model.rpn.anchor_generator.sizes == ((8.0,), (16.0,), (32.0,), (64.0,), (128.0,))


def test_inputs(random_start: Start, tmp_path: Path) -> None:
    """Scoring resizes by the short side and normalises by the start's own mean; training leaves sizes alone."""
    start = Start("x", "random", random_start.config, mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.25))
    layer = inputs(DetectorSettings(test_size=64, max_size=100, train_sizes=(64,)), start)
    image = torch.tensor([0.6, 0.7, 0.8])[:, None, None].expand(3, 32, 64)
    with torch.no_grad():
        batch, _ = layer.eval()([image])
    assert batch.image_sizes == [(50, 100)]
    torch.testing.assert_close(batch.tensors[0, :, 10, 10], torch.tensor([1.0, 1.0, 2.0]))
    batch, _ = layer.train()([image], [{"boxes": torch.zeros(0, 4)}])
    assert batch.image_sizes == [(32, 64)]
