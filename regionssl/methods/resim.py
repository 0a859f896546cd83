"""ReSim: sliding windows must find their counterpart in the other view (Xiao et al., ICCV 2021).

    windows a_i on a fixed grid of view q; b_i the same rectangle of the image in view k; valid if b_i lies inside k
    g_i = norm(PrRoI(f_q, a_i)),  p_i = norm(PrRoI(f_k, b_i)),  z = norm(3x3 means of the key maps)
    L_level = mean over valid i of  -log exp(g_i.p_i/T) / (exp(g_i.p_i/T) + sum_z exp(g_i.z/T))
    L = L_image + L_P4 + L_P3

Sections are those of the specification: windows 2.3-2.5, pooling 3.3, losses 4.2-4.3, groups 4.5.

Departures from the release:
- A group without a valid window contributes 0 instead of NaN (quirk 4).
- Groups of 32 images stand for the release's GPUs, in any number of processes (4.5): P4 negatives come from all groups,
  P3 negatives from the own group.
- The C4 variant was never released; it is a reconstruction (3.5): a bias-free 1x1 convolution of c4 to 128 channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from regionssl.backbones.encoder import Encoder, pool
from regionssl.backbones.fpn import FPN
from regionssl.backbones.norm import grouped_forward
from regionssl.backbones.pooling import precise_roi_pool
from regionssl.config import Config
from regionssl.data.batch import Batch
from regionssl.data.photometric import RESIM
from regionssl.data.views import ViewPlan, ViewSpec
from regionssl.methods.base import EncoderFactory, Matches, MethodConfig, Terms
from regionssl.methods.heads import mlp
from regionssl.methods.losses import chance_measure, info_nce, pair_measures, unit
from regionssl.methods.moco import ImageKeys, Moco, MocoConfig
from regionssl.regions.windows import matched_windows, window_grid

STRIDES = {"p3": 8, "p4": 16, "c4": 16}


class Level(Config):
    """The windows of one feature map.

    Attributes:
        map: which feature map.
        window, step: side and spacing of the windows, view pixels.
        negatives: "all" takes the key maps of all images of all processes, "group" those of the own group.
    """

    map: Literal["p4", "p3", "c4"]
    window: int = Field(ge=1)
    step: int = Field(ge=1)
    negatives: Literal["all", "group"]

    @property
    def stride(self) -> int:
        return STRIDES[self.map]


P4 = Level(map="p4", window=48, step=32, negatives="all")
P3 = Level(map="p3", window=32, step=24, negatives="group")
C4 = Level(map="c4", window=48, step=32, negatives="all")


class ReSimConfig(MocoConfig):
    """Settings of ReSim; those of MoCo v2 and the region levels.

    Attributes:
        levels: the feature maps with windows: P4 and P3 of an FPN, or c4 (reconstruction).
        fpn_width: channels of the FPN.
        fpn_norm: batch normalisation in the FPN (``--fpn-bn`` of the release; off in the published command).
        c4_width: channels of the projected c4 map.
        image_weight, region_weight: factors of the image loss and of each level's loss.
    """

    name: Literal["resim"] = "resim"  # type: ignore[assignment]
    plan: ViewPlan = ViewPlan(views=(ViewSpec(colour=RESIM), ViewSpec(colour=RESIM)), shared_flip=True)
    levels: tuple[Level, ...] = (P4, P3)
    fpn_width: int = Field(256, ge=1)
    fpn_norm: bool = False
    c4_width: int = Field(128, ge=1)
    image_weight: float = Field(1.0, ge=0)
    region_weight: float = Field(1.0, ge=0)

    @model_validator(mode="after")
    def _levels_fit(self) -> ReSimConfig:
        size = self.plan.views[0].size
        if not self.levels or len({level.map == "c4" for level in self.levels}) > 1:
            raise ValueError("levels are P4 and/or P3 of the FPN, or c4 alone")
        for level in self.levels:
            if level.window >= size or size < 3 * level.stride:
                least = max(level.window + 1, 3 * level.stride)
                raise ValueError(
                    f"views of {size} px are too small for {level.map} windows of {level.window} px; "
                    f"the least size is {least}"
                )
        return self


class RegionBranch(nn.Module):
    """Encoder, image head and FPN (or c4 projection): views -> ``embedding`` and the maps of the levels."""

    def __init__(self, make_encoder: EncoderFactory, config: ReSimConfig) -> None:
        super().__init__()
        fpn = config.levels[0].map != "c4"
        self.encoder: Encoder = make_encoder(("c3", "c4", "c5") if fpn else ("c4", "c5"))
        channels = self.encoder.channels
        self.head = mlp(channels["c5"], channels["c5"], config.dim, norm=False)
        self.fpn = FPN(channels, config.fpn_width, norm=config.fpn_norm) if fpn else None
        self.projection = None if fpn else nn.Conv2d(channels["c4"], config.c4_width, 1, bias=False)

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        maps = self.encoder(views)
        outputs = {"embedding": self.head(pool(maps["c5"]))}
        if self.fpn is not None:
            return outputs | self.fpn(maps)
        return outputs | {"c4": cast(nn.Module, self.projection)(maps["c4"])}


@dataclass(frozen=True)
class RegionKeys:
    """Keys of one level for the whole local batch of n images: W windows, M positions per key map.

    Attributes:
        positives: (n, W, C) unit rows. valid: (n, W) bool, windows that lie in both views.
        negatives: (images, M, C) unit rows; images of all processes, or the n local ones.
    """

    positives: Tensor
    valid: Tensor
    negatives: Tensor


@dataclass(frozen=True)
class Keys(ImageKeys):
    """Image keys (n, D), and the keys of each level by the name of its map."""

    regions: dict[str, RegionKeys]


class ReSim(Moco):
    """ReSim on FPN maps, or on c4."""

    Config: ClassVar[type[MethodConfig]] = ReSimConfig
    image_term: ClassVar[str] = "image"
    config: ReSimConfig

    def make_branch(self, make_encoder: EncoderFactory) -> nn.Module:
        return RegionBranch(make_encoder, self.config)

    def extras(self) -> dict[str, nn.Module]:
        fpn = cast(RegionBranch, self.query).fpn
        return {} if fpn is None else {"fpn": fpn}

    def windows(self, level: Level, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Query windows (W, 4), key windows (n, W, 4) and validity (n, W) of a level."""
        grid = window_grid(batch.crops[0].size, level.window, level.step).to(batch.crops[0].box.device)
        return grid, *matched_windows(grid, batch.crops[0], batch.crops[1])

    @torch.no_grad()
    def targets(self, batch: Batch) -> Keys:
        outputs = self.encode_keys(batch)
        keys = self.take_keys(outputs["embedding"])
        regions: dict[str, RegionKeys] = {}
        with torch.autocast(keys.device.type, enabled=False):
            for level in self.config.levels:
                features = full_precision(outputs[level.map])
                _, windows, valid = self.windows(level, batch)
                positives = unit(precise_roi_pool(features, windows, level.stride))
                negatives = unit(F.avg_pool2d(features, 3, stride=1).flatten(2).transpose(1, 2))
                if level.negatives == "all":
                    negatives = self.world.gather(negatives)
                regions[level.map] = RegionKeys(positives, valid, negatives)
        return Keys(keys, regions)

    def loss(self, batch: Batch, targets: Keys) -> Terms:  # type: ignore[override]
        outputs = grouped_forward(self.query, batch.views[0], self.groups(len(batch)), rowwise=True)
        terms = self.image_terms(outputs["embedding"], batch, targets.keys)
        terms["image"] = terms["loss"].detach()
        loss = self.config.image_weight * terms["loss"]
        for level in self.config.levels:
            region = self.region_terms(level, outputs[level.map], batch, targets.regions[level.map])
            loss = loss + self.config.region_weight * region[level.map]
            terms |= region | {level.map: region[level.map].detach()}
        return terms | {"loss": loss}

    def region_terms(self, level: Level, features: Tensor, batch: Batch, keys: RegionKeys) -> Terms:
        """This part's share of L_level (with gradient), of its accuracy and of what else is logged of the level.

        Loss and accuracy are means over groups of means over valid windows (4.5).
        """
        groups, part = self.groups(len(batch)), rows(batch)
        with torch.autocast(features.device.type, enabled=False):
            grid = window_grid(batch.crops[0].size, level.window, level.step).to(features.device)
            query = unit(precise_roi_pool(full_precision(features), grid.expand(len(batch), -1, -1), level.stride))
            positives, valid, negatives = keys.positives[part], keys.valid[part].view(groups, -1), keys.negatives
            if level.negatives == "all":
                query, positives, negatives = (tensor.flatten(0, 1) for tensor in (query, positives, negatives))
            else:
                query, positives, negatives = (
                    tensor.unflatten(0, (groups, -1)).flatten(1, 2) for tensor in (query, positives, negatives[part])
                )
            losses, hits = info_nce(query, positives, negatives, self.config.temperature)
            count = valid.sum(1).clamp(min=1) * self.groups(batch.total)
            loss, accuracy = (
                (torch.where(valid, values.view_as(valid), 0).sum(1) / count).sum() for values in (losses, hits)
            )
            chosen = keys.valid[part]
            valid_share = chosen.float().sum() / (batch.total * chosen.shape[1])
            terms = {level.map: loss, f"{level.map}_top1": accuracy, f"{level.map}_valid": valid_share}
            if self.watched:
                share = len(batch) / batch.total
                own, others = query.reshape(*chosen.shape, -1), 1 + negatives.shape[-2]
                terms |= pair_measures(level.map, own, keys.positives[part], share, chosen)
                terms |= chance_measure(level.map, others, losses, share)
        return terms

    def matches(self, batch: Batch) -> Matches:
        """Windows of the first level and their counterparts."""
        grid, windows, valid = self.windows(self.config.levels[0], batch)
        return Matches((0, 1), grid.expand(len(batch), -1, -1), windows, valid)


def rows(batch: Batch) -> slice:
    """The images of this part within the local batch."""
    return slice(batch.first, batch.first + len(batch))


def full_precision(features: Tensor) -> Tensor:
    """Half precision raised to float32; others unchanged."""
    return features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
