import copy

import pytest
import torch
import torchvision
from timm.layers import DropPath
from torch import nn

from regionssl.backbones.encoder import ALIASES, STRIDES, Encoder, EncoderConfig, pool, timm_model
from regionssl.config import parse
from regionssl.errors import InputError

MAPS = ("c2", "c3", "c4", "c5")
CHANNELS = {
    "resnet18": (64, 128, 256, 512),
    "resnet50": (256, 512, 1024, 2048),
    "resnet101": (256, 512, 1024, 2048),
    "convnext_tiny": (96, 192, 384, 768),
    "regnety_016": (48, 120, 336, 888),
    "efficientnet_b0": (24, 40, 112, 320),
    "mobilenetv3_large_100": (24, 40, 112, 960),
    "swin_tiny": (96, 192, 384, 768),
    "vit_small": (384, 384, 384, 384),
}


def make(name: str, maps: tuple[str, ...] = MAPS, size: int = 64, **settings: object) -> Encoder:
    torch.manual_seed(7)
    return Encoder(EncoderConfig(name=name, **settings), size=size, maps=maps)


@pytest.fixture(scope="module", params=CHANNELS)
def encoder(request):
    return make(request.param)


def views(size: int = 64, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def last_norms(body: nn.Module) -> list[nn.Module]:
    """The last batch norm of every residual block of a ResNet."""
    return [
        next(child for child_name, child in reversed(list(block.named_children())) if child_name.startswith("bn"))
        for block in body.modules()
        if hasattr(block, "downsample")
    ]


class TestEveryBackbone:
    def test_maps_have_the_stated_strides_and_channels(self, encoder):
        names = {EncoderConfig(name=name).name: channels for name, channels in CHANNELS.items()}
        assert encoder.channels == dict(zip(MAPS, names[encoder.name], strict=True))
        for size in (64, 96):  # also another size than it was made for
            features = encoder(views(size))
            assert list(features) == list(MAPS)
            for key, values in features.items():
                cells = size // STRIDES[key]
                assert values.shape == (2, encoder.channels[key], cells, cells)
                assert torch.isfinite(values).all()

    def test_every_parameter_gets_a_gradient_from_c5(self, encoder):
        encoder.zero_grad()
        features = encoder(views())["c5"]
        (features * torch.randn_like(features)).sum().backward()
        assert [key for key, parameter in encoder.named_parameters() if parameter.grad is None] == []
        assert [key for key, parameter in encoder.named_parameters() if not parameter.grad.any()] == []
        encoder.zero_grad()

    def test_keys_are_those_of_the_timm_model_but_for_what_is_pruned(self, encoder):
        with torch.device("meta"):
            whole = timm_model(encoder.config).state_dict()
        own = encoder.body.state_dict()
        assert own.keys() | encoder.pruned == whole.keys()
        assert not own.keys() & encoder.pruned
        assert all(value.shape == whole[key].shape for key, value in own.items())

    def test_copies_and_channels_last_give_the_same_maps(self, encoder):
        encoder.eval()
        with torch.no_grad():
            expected = encoder(views())
            copied = copy.deepcopy(encoder)
            torch.testing.assert_close(copied(views()), expected, rtol=0, atol=0)
            copied.to(memory_format=torch.channels_last)
            actual = copied(views().to(memory_format=torch.channels_last))
        encoder.train()
        for key, values in expected.items():
            torch.testing.assert_close(actual[key], values, rtol=0, atol=1e-4 * values.abs().max().item())


@pytest.mark.parametrize("name", ["resnet18", "regnety_016", "efficientnet_b0", "test_vit"])
def test_weights_follow_from_the_seed(name):
    parameters = zip(make(name).named_parameters(), make(name, maps=("c5",)).parameters(), strict=True)
    assert [key for (key, first), second in parameters if not torch.equal(first, second)] == []


def test_another_seed_gives_other_weights():
    first = make("resnet18").body.state_dict()
    torch.manual_seed(8)
    second = Encoder(EncoderConfig(name="resnet18"), size=64).body.state_dict()
    weights = [key for key, value in first.items() if value.dim() == 4]
    assert not any(torch.equal(first[key], second[key]) for key in weights)


class TestPruning:
    @pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "swin_tiny"])
    def test_deeper_layers_are_gone_and_the_map_is_the_same(self, name):
        whole, shallow = make(name).eval(), make(name, maps=("c3",)).eval()
        assert list(shallow.channels) == ["c3"]
        with torch.no_grad():
            torch.testing.assert_close(shallow(views())["c3"], whole(views())["c3"])
        shallow.train()(views())["c3"].square().sum().backward()
        assert all(parameter.grad is not None for parameter in shallow.parameters())
        assert sum(p.numel() for p in shallow.parameters()) < 0.3 * sum(p.numel() for p in whole.parameters())


class TestResNet:
    def test_keys_and_shapes_are_those_of_torchvision(self):
        body = make("resnet50", size=32).body.state_dict()
        with torch.device("meta"):
            reference = torchvision.models.resnet50(weights=None).state_dict()
        reference = {key: value.shape for key, value in reference.items() if not key.startswith("fc.")}
        assert {key: value.shape for key, value in body.items()} == reference
        assert sum(value.numel() for key, value in body.items() if key.endswith(("weight", "bias"))) == 23_508_032

    def test_maps_are_those_of_torchvision(self):
        encoder = make("resnet18").eval()
        reference = torchvision.models.resnet18(weights=None).eval()
        reference.load_state_dict(
            encoder.body.state_dict() | {k: v for k, v in reference.state_dict().items() if "fc" in k}
        )
        with torch.no_grad():
            x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(views()))))
            for key, layer in zip(MAPS, ("layer1", "layer2", "layer3", "layer4"), strict=True):
                x = getattr(reference, layer)(x)
                torch.testing.assert_close(encoder(views())[key], x)

    def test_default_initialisation_is_kaiming_by_fan_out_with_unit_gammas(self):
        body = make("resnet18").body
        weight = body.layer4[0].conv2.weight
        assert weight.std().item() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.01)
        assert body.conv1.weight.std().item() == pytest.approx((2 / (49 * 64)) ** 0.5, rel=0.03)
        norms = [module for module in body.modules() if isinstance(module, nn.BatchNorm2d)]
        assert len(norms) == 20
        assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)

    @pytest.mark.parametrize(("name", "blocks"), [("resnet18", 8), ("resnet26", 8)])
    def test_last_gamma_of_each_block_starts_at_zero_on_request(self, name, blocks):
        ordinary = last_norms(make(name).body)
        assert len(ordinary) == blocks
        assert all((norm.weight == 1).all() for norm in ordinary)
        body = make(name, zero_init_last=True).body
        assert all((norm.weight == 0).all() for norm in last_norms(body))
        assert sum(bool((m.weight == 0).all()) for m in body.modules() if isinstance(m, nn.BatchNorm2d)) == blocks


class TestInitialisation:
    def test_fan_in_draws_every_convolution_and_zeroes_biases(self):
        body = make("resnet18", init_scheme="kaiming_fan_in").body
        assert body.layer4[0].conv1.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
        assert body.layer4[0].downsample[0].weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.02)

    def test_fan_in_draws_linear_layers_and_grouped_convolutions(self):
        body = make("convnext_tiny", init_scheme="kaiming_fan_in").body
        block = body.stages[3].blocks[0]
        assert block.mlp.fc1.weight.std().item() == pytest.approx((2 / 768) ** 0.5, rel=0.01)
        assert block.conv_dw.weight.std().item() == pytest.approx((2 / 49) ** 0.5, rel=0.02)
        assert not any(m.bias.any() for m in body.modules() if isinstance(m, nn.Conv2d | nn.Linear))

    def test_fan_out_draws_convolutions_of_any_architecture(self):
        body = make("convnext_tiny", init_scheme="kaiming_fan_out").body
        assert body.stages[3].downsample[1].weight.std().item() == pytest.approx((2 / (4 * 768)) ** 0.5, rel=0.01)
        assert body.stages[0].blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.02)

    def test_drop_path_is_off_unless_asked_for(self):
        def rate(encoder):
            return max((module.drop_prob for module in encoder.modules() if isinstance(module, DropPath)), default=0)

        assert rate(make("swin_tiny", maps=("c3",))) == 0  # timm's own default is 0.1
        assert rate(make("test_convnext", drop_path=0.2)) == pytest.approx(0.2)


class TestPlainTransformer:
    def test_maps_are_the_normed_tokens_and_their_rescalings(self):
        encoder = make("test_vit").eval()
        with torch.no_grad():
            maps = encoder(views())
            tokens = encoder.body.forward_features(views())[:, 1:].transpose(1, 2).reshape(2, 64, 4, 4)
        torch.testing.assert_close(maps["c4"], tokens)
        by_hand = torch.stack([tokens[:, :, i : i + 2, j : j + 2].mean((2, 3)) for i in (0, 2) for j in (0, 2)], -1)
        torch.testing.assert_close(maps["c5"].flatten(2), by_hand)
        # half-cell centres: the 2nd and 3rd fine cells lie 3/4 and 1/4 between the first two coarse ones
        torch.testing.assert_close(maps["c3"][:, :, 0, 1], 0.75 * tokens[:, :, 0, 0] + 0.25 * tokens[:, :, 0, 1])
        torch.testing.assert_close(maps["c2"][:, :, 0, 0], tokens[:, :, 0, 0])

    def test_a_size_that_is_no_multiple_of_the_patch_is_padded(self):
        maps = make("test_vit", size=72)(views(72))
        assert maps["c4"].shape[2:] == (5, 5)
        assert maps["c5"].shape[2:] == (3, 3)

    def test_other_patches_are_refused(self):
        with pytest.raises(InputError, match=r"stride 14.*vit_small_patch16_224"):
            make("vit_small_patch14_dinov2")
        with pytest.raises(InputError, match="stride 32"):
            make("vit_small_patch32_224")


class TestRefusals:
    @pytest.mark.parametrize(("maps", "size", "least"), [(("c5",), 31, 32), (("c3", "c4"), 15, 16)])
    def test_views_smaller_than_a_cell(self, maps, size, least):
        with pytest.raises(
            InputError, match=rf"views of {size} px .* {maps[-1]} \(stride {least}\).* least size is {least}"
        ):
            make("resnet18", maps=maps, size=size)
        make("resnet18", maps=maps, size=least)

    def test_unknown_names_come_with_the_nearest(self):
        with pytest.raises(InputError, match=r"unknown backbone 'resnet_50'.*resnet50"):
            EncoderConfig(name="resnet_50")
        with pytest.raises(InputError, match="zzz") as caught:
            parse(EncoderConfig, {"name": "zzz"}, "recipe")
        assert len(str(caught.value)) < 200

    def test_sizes_that_an_architecture_cannot_take(self):
        with pytest.raises(InputError, match="swin_tiny_patch4_window7_224 does not take views of 70 px"):
            make("swin_tiny", size=70)

    def test_architectures_without_maps(self):
        with pytest.raises(InputError, match="mixer_s32_224"):
            make("mixer_s32_224")


def test_aliases_are_timm_models_and_written_out():
    for alias, name in ALIASES.items():
        assert EncoderConfig(name=alias).name == name


def test_pool_is_the_mean_over_cells():
    features = torch.arange(24.0).reshape(1, 2, 3, 4)
    torch.testing.assert_close(pool(features), torch.tensor([[5.5, 17.5]]))
