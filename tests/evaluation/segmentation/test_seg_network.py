"""Dilation keeps what a ResNet computes, heads have the published shapes, scores become classes."""

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from regionssl.errors import InputError
from regionssl.evaluation.segmentation.config import SegmentationConfig
from regionssl.evaluation.segmentation.dilation import dilate
from regionssl.evaluation.segmentation.network import FcnHead, build, winners
from regionssl.evaluation.start import Start, open_start, take_statistics


def start(name: str) -> Start:
    return open_start("random", name)


def noise(size: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "output_stride"), [("resnet18", 16), ("resnet18", 8)])
def test_every_second_place_holds_what_the_strided_network_computes(name: str, output_stride: int) -> None:
    strided, dilated = start(name).encoder(("c3", "c4", "c5")), start(name).encoder(("c3", "c4", "c5"))
    take_statistics(strided, noise(64))
    dilated.load_state_dict(strided.state_dict())
    dilate(dilated.eval(), output_stride)
    for key, value in strided.state_dict().items():
        assert torch.equal(dilated.state_dict()[key], value)
    with torch.no_grad():
        coarse, fine = strided(noise(96)), dilated(noise(96))
    for key, stride in (("c3", 8), ("c4", 16), ("c5", 32)):
        step = max(1, stride // output_stride)
        assert fine[key].shape[-1] == 96 // min(stride, output_stride)
        tolerance = 1e-4 * float(coarse[key].abs().max())
        torch.testing.assert_close(fine[key][:, :, ::step, ::step], coarse[key], atol=tolerance, rtol=0)
        if step > 1:  # the places between are not copies
            assert (fine[key][:, :, ::step, ::step] - fine[key][:, :, 1::step, 1::step]).abs().max() > 1e-2


@pytest.mark.parametrize(("name", "output_stride"), [("resnet18", 8), ("resnext50_32x4d", 8), ("seresnet50", 16)])
def test_dilation_is_that_of_timm(name: str, output_stride: int) -> None:
    encoder = start(name).encoder(("c4", "c5"))
    dilate(encoder.eval(), output_stride)
    model = timm.create_model(name, num_classes=0, output_stride=output_stride).eval()
    model.load_state_dict(encoder.body.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(encoder(noise(64))["c5"], model.forward_features(noise(64)), atol=1e-4, rtol=1e-4)


def test_the_published_backbone_has_strides_1_2_2_1_and_a_contracted_first_block() -> None:
    encoder = start("resnet50").encoder(("c5",))
    dilate(encoder, 16)
    convs = [[block.conv2 for block in getattr(encoder.body, f"layer{n}")] for n in (1, 2, 3, 4)]
    assert [stage[0].stride[0] for stage in convs] == [1, 2, 2, 1]
    assert [conv.dilation[0] for conv in convs[2]] == [1] * 6
    assert [conv.dilation[0] for conv in convs[3]] == [1, 2, 2]
    untouched = start("resnet50").encoder(("c5",))
    dilate(untouched, 32)
    assert [block.conv2.stride[0] for block in untouched.body.layer4] == [2, 1, 1]


@pytest.mark.parametrize("name", ["resnet26d", "convnext_atto"])
def test_other_backbones_are_refused_below_stride_32_and_taken_at_it(name: str) -> None:
    with pytest.raises(InputError, match="set output_stride to 32"):
        build(start(name), SegmentationConfig(), 3, 0)
    network = build(start(name), SegmentationConfig(output_stride=32, channels=8), 3, 0).eval()
    assert network(noise(64))[0].shape == (2, 3, 2, 2)


@pytest.mark.parametrize(("output_stride", "side"), [(8, 8), (16, 4), (32, 2)])
def test_plain_transformers_give_the_map_of_the_stride(output_stride: int, side: int) -> None:
    config = SegmentationConfig(output_stride=output_stride, channels=8)
    network = build(start("vit_tiny"), config, 3, 0)
    assert [scores.shape for scores in network(noise(64))] == [(2, 3, side, side), (2, 3, 4, 4)]
    assert network.multiple == 32


def test_the_fcn_head_has_the_published_layers() -> None:
    head = FcnHead(2048, 21, 256, 2, 6, True, 0.1)
    convs = (2048 + 256 + 2048 + 256) * 256 * 9
    assert sum(p.numel() for p in head.parameters()) == convs + 3 * 2 * 256 + 21 * 256 + 21
    spans = [m.dilation for m in head.modules() if isinstance(m, nn.Conv2d)]
    assert spans == [(6, 6), (6, 6), (1, 1), (1, 1)]
    side = FcnHead(1024, 21, 256, 2, 6, False, 0.1)
    assert sum(p.numel() for p in side.parameters()) == (1024 + 256) * 256 * 9 + 2 * 2 * 256 + 21 * 256 + 21


def test_the_auxiliary_head_reads_c4_and_speaks_in_training_alone() -> None:
    network = build(start("resnet18"), SegmentationConfig(channels=8), 5, 0)
    assert [scores.shape for scores in network(noise(64))] == [(2, 5, 4, 4), (2, 5, 4, 4)]
    assert network.auxiliary is not None
    assert network.auxiliary.convs[0][0].in_channels == 256
    assert len(network.eval()(noise(64))) == 1
    assert len(build(start("resnet18"), SegmentationConfig(channels=8, auxiliary=0), 5, 0)(noise(64))) == 1


def test_deeplabv3_has_the_dilations_asked_for() -> None:
    network = build(start("resnet18"), SegmentationConfig(head="deeplabv3", rates=(2, 3), auxiliary=0), 5, 0)
    assert network(noise(64))[0].shape == (2, 5, 4, 4)
    assert {m.dilation for m in network.head.modules() if isinstance(m, nn.Conv2d)} == {(1, 1), (2, 2), (3, 3)}


def test_weights_depend_on_the_seed_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (build(start("resnet18"), SegmentationConfig(channels=8), 3, seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.head.classifier.weight, other.head.classifier.weight)
    assert not torch.equal(first.encoder.body.conv1.weight, other.encoder.body.conv1.weight)


@settings(max_examples=30)
@given(st.sampled_from([1, 2, 31, 32, 33, 70]), st.booleans(), st.integers(0, 10**6))
def test_winners_are_those_of_the_enlarged_scores(classes: int, align: bool, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    scores = torch.randint(-3, 4, (2, classes, 3, 4), generator=rng).float()
    whole = F.interpolate(scores, (7, 9), mode="bilinear", align_corners=align)
    named = winners(scores, (7, 9), align)
    assert torch.equal(whole.gather(1, named[:, None])[:, 0], whole.amax(1))
    assert torch.equal(named, whole.argmax(1))  # of equals the first
