"""BYOL: predict the slow network's projection of the other view (as released with SCRL and with ORL).

    Q = predictor(projector(pool(f(x))))        online, both views
    Z = projector'(pool(f'(x)))                 target, both views, no gradient
    L = mean over images of  d(Q1, Z2) + d(Q2, Z1),   d(a, b) = 2 - 2 cos(a, b)
    target <- m target + (1 - m) online,  m rising from its base to 1

Sections: SCRL specification 3-4, ORL specification 2.2-2.4. The two releases differ in what is a setting here:
``joint_views`` (SCRL: both views in one batch, so that batch statistics are joint; ORL: one after the other) and
``target_init`` (SCRL: independent random weights; ORL: a copy).

Departures from the releases: no classification probe beside the loss, since the images have no labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from regionssl.backbones.encoder import Encoder, pool
from regionssl.backbones.norm import grouped_forward
from regionssl.data.batch import Batch
from regionssl.data.photometric import BYOL_FIRST, BYOL_SECOND
from regionssl.data.views import ViewPlan, ViewSpec
from regionssl.methods.base import EncoderFactory, Matches, Method, MethodConfig, Progress, Terms, World
from regionssl.methods.heads import kaiming_fan_in, mlp
from regionssl.methods.losses import feature_std, pair_measures, regression
from regionssl.methods.moco import overlap_match
from regionssl.methods.momentum import frozen_copy, moving_average, rising_momentum

_AREA = (0.08, 1.0)


class ByolConfig(MethodConfig):
    """Settings of BYOL.

    Attributes:
        hidden, dim: widths of projector and predictor.
        momentum: m of the target at the first step.
        joint_views: both views share batch statistics.
        target_init: whether the target starts as a copy of the online network or with weights of its own.
        head_bias: whether the last layer of projector and predictor has a bias.
        head_init: weights of projector and predictor: torch's own, or N(0, 2 / fan_in) with biases 0 (ORL 2.2).
        group_size: images that share batch statistics; None for all images of all processes.
    """

    name: Literal["byol"] = "byol"
    plan: ViewPlan = ViewPlan(views=(ViewSpec(colour=BYOL_FIRST, area=_AREA), ViewSpec(colour=BYOL_SECOND, area=_AREA)))
    hidden: int = Field(4096, ge=1)
    dim: int = Field(256, ge=1)
    momentum: float = Field(0.99, ge=0, le=1)
    joint_views: bool = False
    target_init: Literal["copy", "independent"] = "copy"
    head_bias: bool = False
    head_init: Literal["default", "kaiming_fan_in"] = "default"
    group_size: int | None = Field(None, ge=1)


def make_head(inputs: int, config: ByolConfig) -> nn.Sequential:
    """A projector or predictor: rows (R, inputs) -> (R, dim)."""
    head = mlp(inputs, config.hidden, config.dim, norm=True, bias=config.head_bias)
    return head if config.head_init == "default" else kaiming_fan_in(head)


class Branch(nn.Module):
    """Encoder and projector, and on the online side the predictor."""

    def __init__(self, encoder: Encoder, config: ByolConfig, *, predicts: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = make_head(encoder.channels["c5"], config)
        if predicts:
            self.predictor: nn.Module = make_head(config.dim, config)

    def head(self, rows: Tensor) -> Tensor:
        """Pooled rows (R, C) to projections (target) or predictions (online), (R, dim)."""
        rows = self.projector(rows)
        return self.predictor(rows) if hasattr(self, "predictor") else rows

    def forward(self, views: Tensor) -> Tensor:
        """Views (n, V, 3, S, S) -> (n, V, dim)."""
        rows = pool(self.encoder(views.flatten(0, 1))["c5"])
        return self.head(rows).unflatten(0, views.shape[:2])


@dataclass(frozen=True)
class Projections:
    """Target projections (n, 2, D) of the whole local batch."""

    rows: Tensor


class Byol(Method):
    """BYOL. ``online`` is trained; ``target`` follows it."""

    Config: ClassVar[type[MethodConfig]] = ByolConfig
    maps: ClassVar[tuple[str, ...]] = ("c5",)

    def __init__(self, config: ByolConfig, make_encoder: EncoderFactory, world: World) -> None:
        super().__init__()
        self.config = config
        self.world = world
        self.online = self.make_branch(make_encoder, predicts=True)
        if config.target_init == "copy":
            self.target = frozen_copy(self.online)
            del self.target.predictor
        else:
            self.target = self.make_branch(make_encoder, predicts=False).requires_grad_(False)

    def make_branch(self, make_encoder: EncoderFactory, *, predicts: bool) -> Branch:
        return Branch(make_encoder(self.maps), self.config, predicts=predicts)

    @property
    def synchronised(self) -> bool:
        return self.config.group_size is None

    @property
    def backbone(self) -> Encoder:  # type: ignore[override]
        return self.online.encoder

    @property
    def branches(self) -> tuple[nn.Module, ...]:
        return self.online, self.target

    def groups(self, images: int) -> int:
        """Number of groups with own batch statistics among ``images`` images."""
        return 1 if self.config.group_size is None else max(1, images // self.config.group_size)

    def encode(self, branch: Branch, batch: Batch, forward: Callable[..., Tensor] | None = None) -> Tensor:
        """Outputs (n, 2, D) of a branch for both views, with the batch statistics that the config asks for.

        Args:
            forward: what to call instead of the branch.
        """
        groups = self.groups(len(batch))
        if self.config.joint_views:
            return grouped_forward(branch, torch.stack(batch.views, 1), groups, forward)
        return torch.cat([grouped_forward(branch, view[:, None], groups, forward) for view in batch.views], 1)

    @torch.no_grad()
    def targets(self, batch: Batch) -> Any:
        return Projections(self.encode(self.target, batch))

    def loss(self, batch: Batch, targets: Projections) -> Terms:
        predictions = self.encode(self.online, batch)
        projections = targets.rows[batch.first :][: len(batch)]
        terms = self.terms(predictions, projections, batch, batch.total)
        return terms | self.measures("image", predictions[:, :1], projections[:, :, None], batch, {"loss": 4})

    def terms(self, predictions: Tensor, projections: Tensor, batch: Batch, count: int | Tensor) -> Terms:
        """Crossed distances between rows (P, 2, D), summed over both directions and divided by ``count``."""
        with torch.autocast(predictions.device.type, enabled=False):
            distance = regression(predictions, projections.flip(1)).sum(1)
            return {
                "loss": distance.sum() / count,
                "feature_std": feature_std(projections.flatten(0, 1)) * (len(batch) / batch.total),
            }

    def measures(
        self,
        kind: str,
        predictions: Tensor,
        projections: Tensor,
        batch: Batch,
        orthogonal: dict[str, float],
        valid: Tensor | None = None,
    ) -> Terms:
        """What the run's health is judged by, if the step is watched.

        Args:
            kind, valid: as for :func:`regionssl.methods.losses.pair_measures`.
            predictions: (n, r, D) of view 1. projections: (n, 2, r, D) of both views.
            orthogonal: terms that are distances, and what each is of rows that have nothing to do with each other.
        """
        if not self.watched:
            return {}
        share = len(batch) / batch.total
        device = predictions.device
        levels = {
            f"health/{term}_orthogonal": torch.full((), at * share, device=device) for term, at in orthogonal.items()
        }
        return pair_measures(kind, predictions, projections[:, 1], share, valid, projections[:, 0]) | levels

    def after_step(self, progress: Progress) -> None:
        momentum = rising_momentum(self.config.momentum, progress.step, progress.total_steps)
        moving_average(self.target, self.online, momentum)

    def slow_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.target, self.online)]

    def matches(self, batch: Batch) -> Matches:
        """The overlap of the two crops."""
        return overlap_match(batch)
