"""R2O: BYOL per mask, on masks that grow from regions to objects (Gokul et al., arXiv 2208.11821).

    s      regions of the whole image x0 (superpixels), about 100
    u_s    mean of the slow network's c4 features of x0 over region s, of unit length
    k      clusters of the u_s of 32 images: K-means; K falls from 128 to 4 during training          (refine)
    M_k    union of the regions of cluster k; A1_k, A2_k the same seen through each crop, on c5's cells
    Q      predictor(projector(mean of f(x) over A)), Z likewise with the target network, for both crops
    L      mean over the masks that both crops see of  (d(Q1, Z2) + d(Q2, Z1)) / 2,  d(a, b) = 2 - 2 cos (represent)

Sections and quirks (Q) are those of the specification. Defaults are its picks, preset ``official`` repeats the release,
preset ``clean`` is free of its quirks; see docs/methods.md for the table.

Departures from the release:
- The average moves after the optimiser's step, the release's inside the forward pass of the next one: the same sequence
  but for m, which is that of the step before (a difference below 2 / steps x (1 - m)). So the network that clusters is
  one average newer than the release's; ``cluster_with: previous`` keeps the older encoder and clusters with it (Q18).
- A clustering group of 32 images stands for a GPU: any number of processes gives the same groups (Q3). The loss is the
  mean over groups of each group's mean, as in the release.
- Draws of k-means are counted by (seed, step, group). A group without a valid mask gives a loss of 0 (Q11).
- Region labels above 4096 are numbered anew per image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from regionssl import counted
from regionssl.backbones.norm import grouped_forward
from regionssl.counted import Stream
from regionssl.data.batch import Batch
from regionssl.data.photometric import BYOL_FIRST, BYOL_SECOND, ColourPolicy
from regionssl.data.views import ViewPlan, ViewSpec
from regionssl.errors import InputError
from regionssl.methods.base import EncoderFactory, MethodConfig, Progress, Terms, World, no_share
from regionssl.methods.byol import Branch, Byol, ByolConfig
from regionssl.methods.curriculum import CurriculumConfig, cluster_count, most_clusters
from regionssl.methods.losses import assignment_entropy, feature_std, regression
from regionssl.methods.masked import LEAST_WEIGHT, MaskBranch, mask_weights, valid_masks
from regionssl.methods.momentum import frozen_copy
from regionssl.regions.clusters import draws_shape
from regionssl.regions.masks import masks_in_crop, soft_regions
from regionssl.regions.refine import RefineConfig, compact_labels, mask_cells, refine
from regionssl.regions.sources import SourceConfig

_AREA = (0.08, 1.0)
_LATTICE = 224
_LARGEST_LABEL = 4096


def crops_and_whole(flip: float) -> ViewPlan:
    """Two crops with BYOL's colours and the whole image, untouched, with its regions (section 2.2)."""
    first, second = (
        ViewSpec(colour=colour, area=_AREA, interpolation="bicubic", flip=flip) for colour in (BYOL_FIRST, BYOL_SECOND)
    )
    whole = ViewSpec(crop="whole", interpolation="bicubic", colour=ColourPolicy(order=()), regions=_LATTICE)
    return ViewPlan(views=(first, second, whole))


class R2oConfig(ByolConfig):
    """Settings of R2O; those of BYOL and the masks.

    Attributes:
        source: the regions; slic with 100 segments is the paper's.
        curriculum: the number of clusters K of each epoch.
        cluster_group: images that are clustered together, and whose masks the loss averages over; 1 clusters each image
            on its own.
        refine: how clusters become masks.
        area_floor: least total weight, in cells, that a mean over a mask divides by (Q6).
        head_rows: whether the masks that do not count still pass the heads and enter their batch statistics (Q7).
        aligned: RoIAlign of the masks with cells centred on i + 0.5 instead of i (Q8).
        indicator: only masks that both crops see enter the loss.
        area_weights: masks weigh as their area, the mean over both crops, instead of 1.
        cluster_with: the target network, or its encoder one average ago, as in the release (Q18).
        lr_clusters: the learning rate is multiplied by K over this (Q10); None to leave it alone.
    """

    name: Literal["r2o"] = "r2o"  # type: ignore[assignment]
    plan: ViewPlan = crops_and_whole(flip=0.5)
    joint_views: Literal[True] = True
    head_bias: bool = True
    source: SourceConfig = SourceConfig(kind="slic")
    curriculum: CurriculumConfig = CurriculumConfig()
    cluster_group: int = Field(32, ge=1)
    refine: RefineConfig = RefineConfig()
    area_floor: float = Field(1.0, gt=0)
    head_rows: Literal["all", "valid"] = "all"
    aligned: bool = False
    indicator: bool = True
    area_weights: bool = False
    cluster_with: Literal["target", "previous"] = "target"
    lr_clusters: float | None = Field(16.0, gt=0)

    @model_validator(mode="after")
    def _two_crops_and_whole(self) -> Self:
        kinds = [view.crop for view in self.plan.views]
        if len(kinds) != 3 or kinds[2] != "whole" or self.plan.views[2].regions is None:
            raise ValueError("r2o has three views: two crops, then the whole image with its regions")
        if len({view.size for view in self.plan.views}) > 1:
            raise ValueError("the three views of r2o have one size")
        if self.head_rows == "valid" and not self.indicator:
            raise ValueError("head_rows valid makes no rows for the masks that count without the indicator")
        return self


OFFICIAL: dict[str, Any] = {
    "plan": crops_and_whole(flip=1.0).model_dump(),
    "curriculum": {"none_above": 128},
    "refine": {"empty": "nan", "border": "blend"},
    "cluster_with": "previous",
}
"""The release: Q1 (both crops always mirrored), Q2, Q5, Q17, Q18; the others are defaults already."""

CLEAN: dict[str, Any] = {
    "curriculum": {"clusters": (128, 3)},
    "refine": {"zero_rows": False},
    "area_floor": LEAST_WEIGHT,
    "head_rows": "valid",
    "aligned": True,
    "lr_clusters": None,
}
"""Free of quirks: Q4 (K ends at 3, since no cluster is spent on empty rows), Q6, Q7, Q8, Q10 over the defaults."""


@dataclass(frozen=True)
class MaskTargets:
    """For the whole local batch of n images: the masks, what they count, and the projections of their rows.

    Attributes:
        masks: (n, 2, K, h, w) float32, soft masks on c5's cells of both crops.
        valid: (n, K) bool, masks that both crops see.
        weights: (n, K) float32; the loss is the sum of weight times both distances.
        rows: (n, 2, K, D) target projections.
        measures: scalars for the log.
    """

    masks: Tensor
    valid: Tensor
    weights: Tensor
    rows: Tensor
    measures: Terms


class R2o(Byol):
    """R2O. ``online`` is trained; ``target`` follows it and makes the masks."""

    Config: ClassVar[type[MethodConfig]] = R2oConfig
    config: R2oConfig
    maps: ClassVar[tuple[str, ...]] = ("c4", "c5")

    def __init__(self, config: R2oConfig, make_encoder: EncoderFactory, world: World) -> None:
        check_enough_regions(config)
        super().__init__(config, make_encoder, world)
        if config.cluster_with == "previous":
            self.previous = frozen_copy(self.target.encoder)

    def make_branch(self, make_encoder: EncoderFactory, *, predicts: bool) -> Branch:
        return MaskBranch(
            make_encoder(self.maps),
            self.config,
            predicts=predicts,
            area_floor=self.config.area_floor,
            head_rows=self.config.head_rows,
            synchronised=self.synchronised and self.world.size > 1,
        )

    def clusters(self, epoch: int) -> int | None:
        """K of an epoch, which is counted from 0 here and from 1 in the paper; None for no clusters."""
        return cluster_count(self.config.curriculum, epoch + 1)

    def lr_factor(self, epoch: int) -> float:
        clusters, divisor = self.clusters(epoch), self.config.lr_clusters
        return 1.0 if clusters is None or divisor is None else clusters / divisor

    def draws(self, batch: Batch, clusters: int) -> Tensor:
        """The counted draws of k-means, (groups, *draws_shape(clusters)) in [0, 1)."""
        groups = self.cluster_groups(len(batch))
        numbers = self.world.rank * groups + torch.arange(groups, device=batch.index.device)
        return counted.uniform(draws_shape(clusters), batch.seed, Stream.CLUSTERS, batch.step, numbers)

    def cluster_groups(self, images: int) -> int:
        """Number of clustering groups among ``images`` images."""
        groups = max(1, images // self.config.cluster_group)
        if images % groups:
            raise ValueError(f"{images} images cannot be cut into groups of {self.config.cluster_group}")
        return groups

    @torch.no_grad()
    def targets(self, batch: Batch) -> MaskTargets:
        features = self.whole_features(batch)
        whole, measures = self.whole_masks(features["c4"], batch)
        side = features["c5"].shape[-1]
        masks = torch.stack(
            [masks_in_crop(whole, crops, batch.crops[2], side, self.config.aligned) for crops in batch.crops[:2]], 1
        )
        areas = masks.sum((-2, -1))
        valid = valid_masks(areas)
        weights = mask_weights(areas, self.cluster_groups(len(batch)), self.config.indicator, self.config.area_weights)
        rows = self.encode_masks(self.target, batch, masks, valid)
        counted_rows = rows.movedim(2, 1)[valid].flatten(0, 1)
        measures["valid_masks"] = valid.sum() / len(batch)
        if self.watched:
            present = measures["masks_per_image"]
            measures["health/masks_valid"] = measures["valid_masks"] / present.clamp(min=1)
        measures["feature_std"] = feature_std(counted_rows) if len(counted_rows) else rows.new_zeros(())
        return MaskTargets(masks, valid, weights, rows, measures)

    @torch.no_grad()
    def found_regions(self, batch: Batch) -> Tensor:
        masks, _ = self.whole_masks(self.whole_features(batch)["c4"], batch)
        return torch.where(masks.amax(1) > 0, masks.argmax(1), -1)

    def whole_features(self, batch: Batch) -> dict[str, Tensor]:
        """Maps c4 and c5 of the whole images, by the network that clusters."""
        encoder = self.previous if self.config.cluster_with == "previous" else self.target.encoder
        maps: dict[str, Tensor] = grouped_forward(encoder, batch.views[2], self.groups(len(batch)))
        return maps

    def whole_masks(self, features: Tensor, batch: Batch) -> tuple[Tensor, Terms]:
        """Masks (n, K, cells, cells) over the whole images from their c4 map, and what to log of them (section 4)."""
        regions, slots = self.region_labels(batch)
        clusters = self.clusters(batch.epoch)
        if clusters is None:
            masks, filled = soft_regions(regions, slots, mask_cells(regions)), torch.zeros(1, device=regions.device)
        else:
            draws = self.draws(batch, clusters)
            refined = refine(self.config.refine, features, regions, slots, clusters, draws)
            masks, filled = refined.masks, refined.filled
        areas = masks.sum((2, 3))
        measures = {"clusters": filled.float().mean(), "masks_per_image": (areas > 0).sum(1).float().mean()}
        if self.watched:
            grouped = areas.view(self.cluster_groups(len(areas)), -1, areas.shape[1])
            measures["health/masks_entropy"] = assignment_entropy(grouped.sum(1))
        return masks, measures

    def region_labels(self, batch: Batch) -> tuple[Tensor, int]:
        """Regions (n, G, G) of the whole images, and how many slots the images of all processes need for them."""
        regions = batch.regions[2]
        assert regions is not None
        slots = int(self.world.gather(regions.amax()[None]).amax()) + 1
        if slots > _LARGEST_LABEL:
            regions = compact_labels(regions)
            slots = int(self.world.gather(regions.amax()[None]).amax()) + 1
        return regions, slots

    def encode_masks(self, branch: nn.Module, batch: Batch, masks: Tensor, valid: Tensor) -> Tensor:
        """Rows (n, 2, K, D) of a branch for all masks of both crops."""
        views = torch.stack(batch.views[:2], 1)
        return grouped_forward(branch, (views, masks, valid), self.groups(len(batch)))

    def loss(self, batch: Batch, targets: MaskTargets) -> Terms:  # type: ignore[override]
        part = slice(batch.first, batch.first + len(batch))
        predictions = self.encode_masks(self.online, batch, targets.masks[part], targets.valid[part])
        with torch.autocast(predictions.device.type, enabled=False):
            distance = regression(predictions, targets.rows[part].flip(1)).sum(1)
            loss = (targets.weights[part] * distance).sum()
        if self.config.head_rows == "valid" and not targets.valid[part].any():
            loss = loss + no_share(self.online)
        share = len(batch) / batch.total
        terms = {"loss": loss} | {name: value * share for name, value in targets.measures.items()}
        rows, valid = targets.rows[part], targets.valid[part]
        return terms | self.measures("masks", predictions[:, 0], rows, batch, {"loss": 2}, valid)

    def after_step(self, progress: Progress) -> None:
        if self.config.cluster_with == "previous":
            with torch.no_grad():
                old, new = self.previous.parameters(), self.target.encoder.parameters()
                torch._foreach_copy_(list(old), list(new))
        super().after_step(progress)


def check_enough_regions(config: R2oConfig) -> None:
    """Refuse more clusters than there can be regions to cluster, where the source's number of regions is known.

    Raises:
        InputError: there are too few.
    """
    if config.source.kind != "grid":
        return
    regions, clusters = config.cluster_group * config.source.side**2, most_clusters(config.curriculum)
    if clusters > regions:
        raise InputError(
            f"r2o makes up to {clusters} clusters, but {config.cluster_group} image(s) with a grid of "
            f"{config.source.side} x {config.source.side} have {regions} regions; lower method.curriculum.clusters, or "
            "raise method.source.side or method.cluster_group"
        )
