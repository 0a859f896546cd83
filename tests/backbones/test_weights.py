import collections
import pathlib

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from regionssl.backbones.encoder import Encoder, EncoderConfig
from regionssl.backbones.weights import initialise
from regionssl.errors import InputError


def make(name: str = "test_resnet", seed: int = 0, maps: tuple[str, ...] = ("c5",)) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(EncoderConfig(name=name), size=32, maps=maps)


@pytest.fixture(scope="module")
def donor() -> dict[str, Tensor]:
    return {key: value.clone() for key, value in make(seed=1).body.state_dict().items()}


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in tensors.items()}


def same(encoder: Encoder, tensors: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, tensors[key]) for key, value in encoder.body.state_dict().items())


def test_random_leaves_the_weights():
    encoder, untouched = make(), make().body.state_dict()
    assert "random" in initialise(encoder, "random")
    assert same(encoder, untouched)


class TestFiles:
    @pytest.mark.parametrize(
        "prefix",
        ["", "module.", "backbone.", "body.", "encoder.", "encoder_q.", "module.encoder_q.", "model.backbone.body."],
    )
    @pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
    def test_any_prefix_plain_or_nested(self, donor, tmp_path, prefix, wrap):
        content = prefixed(prefix, donor)
        torch.save({wrap: content, "epoch": 3} if wrap else content, tmp_path / "weights.pth")
        encoder = make()
        line = initialise(encoder, str(tmp_path / "weights.pth"))
        assert same(encoder, donor)
        assert "\n" not in line
        assert str(tmp_path / "weights.pth") in line
        assert (f"under {prefix!r}" in line) == bool(prefix)

    def test_safetensors_and_run_folders(self, donor, tmp_path):
        save_file(
            prefixed("backbone.", donor) | {"fpn.inner_blocks.c5.0.bias": torch.zeros(3)},
            tmp_path / "weights.safetensors",
        )
        for init in (tmp_path / "weights.safetensors", tmp_path):
            encoder = make()
            assert str(tmp_path / "weights.safetensors") in initialise(encoder, str(init))
            assert same(encoder, donor)

    def test_classifier_and_heads_are_left_out_and_named(self, donor, tmp_path):
        content = donor | {
            "fc.0.weight": torch.zeros(2, 2),
            "fc.2.weight": torch.zeros(2, 2),
            "projector.bias": torch.zeros(2),
        }
        torch.save(content, tmp_path / "weights.pt")
        encoder = make()
        assert initialise(encoder, str(tmp_path / "weights.pt")).endswith("left out fc, projector")
        assert same(encoder, donor)

    def test_the_trained_network_is_preferred_to_its_slow_copy(self, donor, tmp_path):
        other = make(seed=2).body.state_dict()
        for slow, fast in (("module.encoder_k.", "module.encoder_q."), ("key.encoder.body.", "query.encoder.body.")):
            torch.save({"state_dict": prefixed(slow, other) | prefixed(fast, donor)}, tmp_path / "moco.pth")
            encoder = make()
            initialise(encoder, str(tmp_path / "moco.pth"))
            assert same(encoder, donor)

    def test_layers_that_the_encoder_does_not_use_are_left_out(self, donor, tmp_path):
        torch.save(donor, tmp_path / "weights.pt")
        encoder = make(maps=("c3",))
        assert initialise(encoder, str(tmp_path / "weights.pt")).endswith("left out layer3, layer4")
        assert same(encoder, donor)

    def test_old_files_lack_batch_counters(self, donor, tmp_path):
        torch.save({key: value for key, value in donor.items() if "tracked" not in key}, tmp_path / "old.pt")
        encoder = make()
        initialise(encoder, str(tmp_path / "old.pt"))
        assert torch.equal(encoder.body.layer4[0].conv2.weight, donor["layer4.0.conv2.weight"])

    def test_half_precision_files_are_raised(self, donor, tmp_path):
        torch.save({key: v.half() if v.is_floating_point() else v for key, v in donor.items()}, tmp_path / "half.pt")
        encoder = make()
        initialise(encoder, str(tmp_path / "half.pt"))
        weight = encoder.body.layer4[0].conv2.weight
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight.detach(), donor["layer4.0.conv2.weight"], rtol=1e-3, atol=1e-4)


class TestRefusals:
    def refused(self, content: object, path: pathlib.Path, name: str = "test_resnet") -> str:
        torch.save(content, path)
        encoder = make(name)
        before = {key: value.clone() for key, value in encoder.body.state_dict().items()}
        with pytest.raises(InputError) as caught:
            initialise(encoder, str(path))
        assert same(encoder, before)
        return str(caught.value)

    def test_a_deeper_network_of_the_same_kind(self, tmp_path):
        deeper = make("resnet34").body.state_dict()
        message = self.refused(deeper, tmp_path / "w.pt", "resnet18")
        # ResNet-34's first blocks have the keys and shapes of ResNet-18; what is left over gives it away
        assert "does not fit resnet18: 96 unexpected: layer1.2.conv1.weight, " in message
        assert message.count("layer") == 10
        assert "missing" not in message

    def test_a_shallower_network(self, tmp_path):
        message = self.refused(make("resnet18").body.state_dict(), tmp_path / "w.pt", "resnet34")
        assert "80 missing: layer1.2.conv1.weight" in message
        assert "unexpected" not in message

    def test_wrong_shapes(self, donor, tmp_path):
        message = self.refused(donor | {"conv1.0.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "w.pt")
        assert "fit test_resnet: 1 wrong shape: conv1.0.weight (64, 3, 7, 7) for (16, 3, 3, 3). Give" in message

    def test_no_weights_of_this_network(self, tmp_path):
        assert "no key matches" in self.refused({"a": torch.zeros(1), "b": 3}, tmp_path / "w.pt")
        assert "no key matches" in self.refused([1, 2], tmp_path / "w.pt")

    def test_a_pickle_that_needs_code(self, tmp_path):
        ran = tmp_path / "ran"

        class Bomb:
            def __reduce__(self) -> tuple[object, tuple[pathlib.Path]]:
                return (pathlib.Path.touch, (ran,))

        assert "refused" in self.refused({"state_dict": Bomb()}, tmp_path / "w.pt")
        assert "needs code to run" in self.refused(nn.Linear(2, 2), tmp_path / "w.pt")
        assert not ran.exists()

    @pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
    @pytest.mark.parametrize("content", [b"", b"no weights at all"])
    def test_broken_files(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            initialise(make(), str(tmp_path / name))

    def test_missing_files_and_folders_without_weights(self, tmp_path):
        with pytest.raises(InputError, match="random, imagenet, a weights file or a run folder"):
            initialise(make(), str(tmp_path / "none.pt"))
        with pytest.raises(InputError, match=r"weights\.safetensors"):
            initialise(make(), str(tmp_path))


class TestImageNet:
    @pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
    def test_weights_come_through_timm(self, monkeypatch, tmp_path, name):
        torch.manual_seed(5)
        published = timm.create_model(name, num_classes=1000).state_dict()
        torch.save(collections.OrderedDict(published), tmp_path / "published.pth")
        real = timm.create_model

        def create_model(model_name: str, **settings: object) -> nn.Module:
            overlay = {"file": str(tmp_path / "published.pth")} if settings["pretrained"] else None
            return real(model_name, pretrained_cfg_overlay=overlay, **settings)

        monkeypatch.setattr(timm, "create_model", create_model)
        encoder = make(name)
        line = initialise(encoder, "imagenet")
        assert same(encoder, published)
        assert "ImageNet" in line
        assert "licence" in line
        assert "\n" not in line

    def test_without_a_network_the_file_is_asked_for(self, monkeypatch, tmp_path):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        encoder = make("resnet18")
        before = {key: value.clone() for key, value in encoder.body.state_dict().items()}
        with pytest.raises(InputError, match=r"(?s)^imagenet: .* resnet18 .* give the file in place of imagenet$"):
            initialise(encoder, "imagenet")
        assert same(encoder, before)

    def test_models_that_timm_has_no_weights_for(self):
        with pytest.raises(InputError, match="could not get weights for resnetblur18"):
            initialise(make("resnetblur18"), "imagenet")
