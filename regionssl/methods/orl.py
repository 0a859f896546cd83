"""ORL, stage 3: BYOL on whole images, on boxes, and on matched boxes of similar images (Xie et al., NeurIPS 2021).

    pairs: global (two views of the image), intra (a box, its jittered copy), inter (a box, its match in a neighbour)
    O = projector(pool(f(x))),  P = predictor_pair(O)       online; encoder and projector are shared by the pairs
    Z = projector'(pool(f'(x)))                              target, no gradient
    L_pair = mean over images of  d(P1, Z2) + d(P2, Z1),     d(a, b) = 2 - 2 cos(a, b)
    L = w_global L_global + w_intra L_intra + w_inter L_inter
    target <- m target + (1 - m) online,  m rising from its base to 1

Sections are those of the specification: patches 4.1-4.3, networks 4.4, optimisation 4.5, losses 5. The boxes and pairs
come from stage 2; they reach the method as views. Stage 1 is BYOL (methods/byol.py, preset ``official_orl``).

The six views go through the online network one after the other, then through the target, each with batch statistics
of its own (4.4); ``joint_views`` lets the two of a pair share them.

Departures from the release: box draws are counted by (seed, epoch, image), not restarted each epoch (quirk 6).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from regionssl.backbones.encoder import Encoder, pool
from regionssl.data.batch import Batch
from regionssl.data.photometric import BYOL_FIRST, BYOL_SECOND
from regionssl.data.views import ViewPlan, ViewSpec
from regionssl.methods.base import EncoderFactory, Matches, MethodConfig, Terms, no_share
from regionssl.methods.byol import Branch, Byol, ByolConfig, make_head
from regionssl.methods.moco import overlap_match
from regionssl.regions.correspondence import CorrespondenceConfig

KINDS = ("global", "intra", "inter")
"""The kinds of pairs: pair k consists of views 2k and 2k + 1."""

_AREA = (0.08, 1.0)
_PATCH = ViewSpec(size=96, crop="patch")
_PATCHES = (_PATCH.model_copy(update={"colour": BYOL_FIRST}), _PATCH.model_copy(update={"colour": BYOL_SECOND}))


class OrlConfig(ByolConfig):
    """Settings of ORL; those of BYOL and the weights of the three losses.

    Attributes:
        global_weight, intra_weight, inter_weight: factors of the losses of the three kinds of pairs.
        correspondence: how stage 2 finds the boxes and pairs.
    """

    name: Literal["orl"] = "orl"  # type: ignore[assignment]
    plan: ViewPlan = ViewPlan(
        views=(ViewSpec(colour=BYOL_FIRST, area=_AREA), ViewSpec(colour=BYOL_SECOND, area=_AREA), *_PATCHES, *_PATCHES)
    )
    head_init: Literal["default", "kaiming_fan_in"] = "kaiming_fan_in"
    global_weight: float = Field(1.0, ge=0)
    intra_weight: float = Field(1.0, ge=0)
    inter_weight: float = Field(1.0, ge=0)
    correspondence: CorrespondenceConfig = CorrespondenceConfig()

    @model_validator(mode="after")
    def _three_pairs(self) -> OrlConfig:
        patches = [view.crop == "patch" for view in self.plan.views]
        if patches != [False, False, True, True, True, True]:
            raise ValueError("ORL has six views: two of the image, then four patches")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """The factor of each kind's loss."""
        return dict(zip(KINDS, (self.global_weight, self.intra_weight, self.inter_weight), strict=True))

    def stage_1(self) -> ByolConfig:
        """BYOL with the same settings, on the two views of the whole image (2.2, 4.4)."""
        plan = self.plan.model_copy(update={"views": self.plan.views[:2]})
        return ByolConfig(
            plan=plan,
            hidden=self.hidden,
            dim=self.dim,
            momentum=self.momentum,
            joint_views=self.joint_views,
            target_init=self.target_init,
            head_init=self.head_init,
            group_size=self.group_size,
        )


class PairBranch(Branch):
    """Encoder and projector, and on the online side one predictor for each kind of pair."""

    def __init__(self, encoder: Encoder, config: ByolConfig, *, predicts: bool) -> None:
        super().__init__(encoder, config, predicts=False)
        if predicts:
            self.predictor = nn.ModuleDict({kind: make_head(config.dim, config) for kind in KINDS})

    def forward(self, views: Tensor, kind: str) -> Tensor:  # type: ignore[override]
        """Views (n, V, 3, S, S) of one kind of pair -> (n, V, dim)."""
        rows = self.projector(pool(self.encoder(views.flatten(0, 1))["c5"]))
        if hasattr(self, "predictor"):
            rows = cast(nn.ModuleDict, self.predictor)[kind](rows)
        return rows.unflatten(0, views.shape[:2])


class Orl(Byol):
    """ORL, stage 3. ``online`` is trained; ``target`` follows it."""

    Config: ClassVar[type[MethodConfig]] = OrlConfig
    config: OrlConfig

    def make_branch(self, make_encoder: EncoderFactory, *, predicts: bool) -> Branch:
        return PairBranch(make_encoder(self.maps), self.config, predicts=predicts)

    def encode_pair(self, branch: Branch, batch: Batch, kind: str) -> Tensor:
        """Outputs (n, 2, D) of a branch for one kind of pair."""
        first = 2 * KINDS.index(kind)
        pair = replace(batch, views=batch.views[first : first + 2])
        return self.encode(branch, pair, partial(branch, kind=kind))

    @torch.no_grad()
    def targets(self, batch: Batch) -> Any:
        return {kind: self.encode_pair(self.target, batch, kind) for kind in KINDS}

    def parts(self, batch: Batch, targets: dict[str, Tensor], images: int) -> Iterator[tuple[Batch, Any]]:
        """One kind of pair at a time: six views then need no more memory than two."""
        return ((part, {kind: targets[kind]}) for part in batch.split(images) for kind in KINDS)

    def loss(self, batch: Batch, targets: dict[str, Tensor]) -> Terms:  # type: ignore[override]
        """Of the kinds of pairs that there are targets of."""
        part = slice(batch.first, batch.first + len(batch))
        losses, terms = [], {}
        for kind, projections in targets.items():
            predictions, rows = self.encode_pair(self.online, batch, kind), projections[part]
            weight, pair = self.config.weights[kind], self.terms(predictions, rows, batch, batch.total)
            losses.append(weight * pair["loss"])
            terms[kind] = losses[-1].detach()
            if kind == "global":
                terms["feature_std"] = pair["feature_std"]
            found = self.measures(kind, predictions[:, :1], rows[:, :, None], batch, {kind: 4 * weight})
            # matches across images may be poor ones, so how alike they are is logged and not judged
            terms |= {name: value for name, value in found.items() if kind != "inter" or "negative" not in name}
        if self.world.size > 1:
            predictors = cast(nn.ModuleDict, self.online.predictor)
            losses += [no_share(predictors[kind]) for kind in KINDS if kind not in targets]
        return {"loss": torch.stack(losses).sum(), **terms}

    def matches(self, batch: Batch) -> Matches:
        """The overlap of the box and its jittered copy."""
        return overlap_match(batch, (2, 3))
