"""Backbones by timm name, as feature maps by stride.

The timm model is held as it is, in ``Encoder.body``: its keys and shapes are timm's own whatever the size of the views,
and for ResNets those of torchvision too. Layers that feed none of the asked-for maps are taken out, so every parameter
that is left gets a gradient.
"""

from __future__ import annotations

import difflib
import math
from functools import partial
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from regionssl.config import Config
from regionssl.errors import InputError

STRIDES = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}

ALIASES = {
    "swin_tiny": "swin_tiny_patch4_window7_224",
    "swin_small": "swin_small_patch4_window7_224",
    "swin_base": "swin_base_patch4_window7_224",
    "vit_tiny": "vit_tiny_patch16_224",
    "vit_small": "vit_small_patch16_224",
    "vit_base": "vit_base_patch16_224",
}

# Architectures whose last map passes their final norm, and what makes them take views of any size. They are built at
# timm's own size: position tables keep their published shape, and ViTs resample theirs to the view.
_ANY_SIZE: dict[str, dict[str, bool]] = {
    "timm.models.vision_transformer": {"dynamic_img_size": True, "dynamic_img_pad": True},
    "timm.models.deit": {"dynamic_img_size": True, "dynamic_img_pad": True},
    "timm.models.swin_transformer": {"strict_img_size": False},
}

InitScheme = Literal["default", "kaiming_fan_out", "kaiming_fan_in"]


class EncoderConfig(Config):
    """Which backbone, and its initial weights when it starts from none.

    Attributes:
        name: a timm model, or an alias such as "vit_small", which is replaced by the timm name.
        init_scheme: "default" is timm's own, for ResNets Kaiming normal by fan-out (ReSim 3.2, SCRL 3, PLRC 3);
            "kaiming_fan_out" does this to the convolutions of any architecture; "kaiming_fan_in" draws every
            convolution and linear layer from N(0, 2 / fan_in), with biases 0 (ORL 2.2).
        zero_init_last: start the last batch norm of every residual block at 0 (PLRC 3), where timm offers it.
        drop_path: rate of stochastic depth.
    """

    name: str = "resnet50"
    init_scheme: InitScheme = "default"
    zero_init_last: bool = False
    drop_path: float = Field(default=0.0, ge=0, lt=1)

    @field_validator("name")
    @classmethod
    def _known_name(cls, name: str) -> str:
        name = ALIASES.get(name, name)
        if not timm.is_model(name):
            close = difflib.get_close_matches(name, [*ALIASES, *timm.list_models()], n=3, cutoff=0)
            raise InputError(f"unknown backbone {name!r}; it must be a timm model; the nearest are {', '.join(close)}")
        return name


class Encoder(nn.Module):
    """Views (N, 3, S, S) float -> ``{"c2": (N, C, S/4, S/4), ...}``, the asked-for maps at strides 4, 8, 16, 32.

    Plain vision transformers have all their maps at stride 16. Their c4 is the last token map after the final norm;
    c5 is its 2x2 mean, c3 and c2 are its bilinear enlargements by 2 and 4, without parameters.

    Attributes:
        body: the timm model.
        channels: of each map.
        pruned: keys of the timm model that ``body`` lacks.

    Raises:
        InputError: the views are smaller than one cell of the coarsest map, or the architecture has no such maps or
            does not take views of this size.
    """

    def __init__(self, config: EncoderConfig, size: int = 224, maps: tuple[str, ...] = ("c5",)) -> None:
        super().__init__()
        self.config = config
        self.name = config.name
        self.maps = maps
        coarsest = max(maps, key=STRIDES.__getitem__)
        if size < STRIDES[coarsest]:
            raise InputError(
                f"views of {size} px are smaller than one cell of {coarsest} (stride {STRIDES[coarsest]}); "
                f"the least size is {STRIDES[coarsest]}"
            )
        self.body: Any = timm_model(config)
        self._final_norm = _family(config.name) in _ANY_SIZE
        self.plain = _is_plain(self.body, config.name)
        self._sources = {
            name: _feature_index(self.body, config.name, 16 if self.plain else STRIDES[name]) for name in maps
        }
        self._indices = sorted(set(self._sources.values()))
        self.pruned = self._prune()
        _initialise(self.body, config)
        self.channels = self._probe(size)

    def _prune(self) -> frozenset[str]:
        before = set(self.body.state_dict())
        self.body.prune_intermediate_layers(self._indices, prune_norm=not self._final_norm, prune_head=True)
        return frozenset(before - set(self.body.state_dict()))

    @torch.no_grad()
    def _probe(self, size: int) -> dict[str, int]:
        """Channels of the maps, found by looking at the maps of one empty view."""
        self.eval()
        try:
            maps = self(torch.zeros(1, 3, size, size))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise InputError(f"{self.name} does not take views of {size} px: {error}") from error
        self.train()
        return {name: features.shape[1] for name, features in maps.items()}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body.forward_intermediates(
            x, self._indices, norm=self._final_norm, stop_early=True, output_fmt="NCHW", intermediates_only=True
        )
        by_index = dict(zip(self._indices, features, strict=True))
        maps = {name: by_index[index] for name, index in self._sources.items()}
        return {name: _rescale(tokens, name) for name, tokens in maps.items()} if self.plain else maps


def pool(features: Tensor) -> Tensor:
    """Global average of a map: (N, C, h, w) -> (N, C)."""
    return features.mean((2, 3))


def timm_model(config: EncoderConfig, pretrained: bool = False) -> Any:
    """The whole timm model without its classifier; with ``pretrained``, timm fetches its published weights."""
    options = _ANY_SIZE.get(_family(config.name), {})
    make = partial(timm.create_model, config.name, pretrained=pretrained, num_classes=0, **options)
    try:
        return make(drop_path_rate=config.drop_path)
    except TypeError as error:
        if config.drop_path or "drop_path_rate" not in str(error):
            raise InputError(f"timm cannot make {config.name} with drop_path {config.drop_path}: {error}") from error
        return make()


def _family(name: str) -> str:
    """The timm module that defines a model."""
    return str(timm.models.model_entrypoint(name).__module__)


def _is_plain(body: Any, name: str) -> bool:
    """Whether all maps have one stride.

    Raises:
        InputError: they do and it is not 16, or the model has no maps.
    """
    if not hasattr(body, "forward_intermediates") or not hasattr(body, "prune_intermediate_layers"):
        raise InputError(
            f"timm's {name} does not hand out feature maps; choose a backbone such as resnet50 or convnext_tiny"
        )
    strides = {info["reduction"] for info in body.feature_info}
    if len(strides) > 1:
        return False
    if strides != {16}:
        raise InputError(
            f"{name} has all its maps at stride {strides.pop()}; plain vision transformers are used with patches of "
            "16 px: choose one such as vit_small_patch16_224"
        )
    return True


def _feature_index(body: Any, name: str, stride: int) -> int:
    """Position of the last of timm's feature maps that has this stride."""
    strides = [info["reduction"] for info in body.feature_info]
    if stride not in strides:
        raise InputError(f"{name} has feature maps at strides {strides}, none at {stride}; choose another backbone")
    return len(strides) - 1 - strides[::-1].index(stride)


def _rescale(tokens: Tensor, name: str) -> Tensor:
    """The token map of a plain vision transformer (stride 16) at the stride of map ``name``."""
    if name == "c4":
        return tokens
    if name == "c5":
        return F.avg_pool2d(tokens, 2, ceil_mode=True)
    return F.interpolate(tokens, scale_factor=16 // STRIDES[name], mode="bilinear", align_corners=False)


def _initialise(body: nn.Module, config: EncoderConfig) -> None:
    """What the config asks for beyond timm's own initialisation."""
    for module in body.modules():
        if isinstance(module, _BatchNorm) and not config.zero_init_last and not module.weight.any():
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.Conv2d) and config.init_scheme == "kaiming_fan_out":
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Conv2d | nn.Linear) and config.init_scheme == "kaiming_fan_in":
            fan_in = math.prod(module.weight.shape[1:])
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_in))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
