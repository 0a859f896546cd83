"""PLRC: points of a region must find each other, and share their affinities (Bai et al., CVPR 2022).

    views: a (query), b (key), c (teacher, overlaps a);  per cell of a view's map  e = head(f), d = unit(head'(f))
    L_m = InfoNCE(mean e_a, mean e_b, queue)
    p_i = unit(e at point i);  points of a region common to a and b are positives of each other
    L_p = T/T_b mean over anchors i, positives j of  -log exp(p_i.p_j/T) / sum_A(i) exp(p_i.p/T)
    y_i = [s d_a(i).d_b, d_a(i).prototypes],  y'_i' the teacher's in c;  pairs (i, i') are near each other in the image
    L_a = mean over pairs of  -softmax((y'_i' - mu)/tau_t) . log softmax(y_i/tau_s)
    L = 0.7 L_m + 0.3 L_p + 0.3 L_a

Sections are those of the specification: points 2.3-2.5, heads 3, losses 4. Preset ``R`` (the default) is the release
with its unambiguous defects repaired (7.1). ``P`` is the paper's form: negatives from other regions of the same image,
affinities without prototypes. Nobody is known to have reproduced the published score with either.

Departures from the release:
- What 7.1 lists: weights are not swapped, the positive is column 0, pixels and regions are mirrored together, points
  are (x, y), an image without a common region is no anchor, the centre is a mean over the pairs of all processes.
- Points are read at lattice centres (2.2), keys are not drawn again (4.2), draws are counted by (seed, epoch, image).
- Groups of images stand for GPUs: statistics, contrast sets and the mean over pairs are per group (5).
- The distillation is evaluated through the cells of the map: exact, without the rows of all pairs (4.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from regionssl import counted
from regionssl.backbones.encoder import Encoder
from regionssl.backbones.norm import grouped_forward
from regionssl.counted import Stream
from regionssl.data.batch import Batch
from regionssl.data.photometric import MOCO_V2
from regionssl.data.views import PairOverlap, ViewPlan, ViewSpec
from regionssl.geometry import between, centre_fractions, inside, lattice_boxes
from regionssl.methods.affinity import CellHead, TeacherRows, distillation, row_factors, teacher_rows
from regionssl.methods.base import EncoderFactory, Matches, MethodConfig, Progress, Terms, World
from regionssl.methods.heads import mlp
from regionssl.methods.losses import assignment_entropy, chance_measure, pair_measures, unit
from regionssl.methods.moco import ImageKeys, Moco, MocoConfig
from regionssl.methods.region_contrast import contrast_drawn_points
from regionssl.methods.resim import full_precision, rows
from regionssl.regions.points import RegionPoints, draw_points, draws_shape, interpolation, read_points
from regionssl.regions.sources import SourceConfig

_LATTICE = 56


class PlrcConfig(MocoConfig):
    """Settings of PLRC; those of MoCo v2 and the points.

    Attributes:
        source: the regions.
        slots: regions per view that points are drawn from: one that both views show, the rest as negatives.
        points: P, points per region.
        intra_image: whether points of other regions of the same image are negatives.
        reach: "all" holds the points of both views against those of both; "cross" the query's against the key's.
        base_temperature: T_b of the factor T/T_b.
        hidden, cell_dim: widths of the distillation's head.
        prototypes: number of prototypes beside the affinities; 0 for pure affinities.
        affinity_scale: s.
        lattice: G, side of the lattice of the distillation; that of the regions is ``regions`` of views 0 and 1.
        radius: rho, how near paired points are, in diagonals of the larger lattice cell.
        student_temperature: tau_s.
        teacher_temperature: tau_t at the first epoch and from epoch ``temperature_epochs`` on.
        centre_momentum: of mu; None leaves the rows uncentred.
        image_weight, point_weight, affinity_weight: of L_m, L_p and L_a. With 0 for L_a its head is left out.
    """

    name: Literal["plrc"] = "plrc"  # type: ignore[assignment]
    plan: ViewPlan = ViewPlan(
        views=(
            ViewSpec(colour=MOCO_V2, regions=_LATTICE),
            ViewSpec(colour=MOCO_V2, regions=_LATTICE),
            ViewSpec(colour=MOCO_V2),
        ),
        overlaps=(PairOverlap(views=(0, 2)), PairOverlap(views=(1, None))),
    )
    source: SourceConfig = SourceConfig()
    slots: int = Field(1, ge=1)
    points: int = Field(16, ge=1)
    intra_image: bool = False
    reach: Literal["all", "cross"] = "all"
    base_temperature: float = Field(0.07, gt=0)
    hidden: int = Field(2048, ge=1)
    cell_dim: int = Field(256, ge=1)
    prototypes: int = Field(4096, ge=0)
    affinity_scale: float = Field(1 / 128, gt=0)
    lattice: int = Field(_LATTICE, ge=1)
    radius: float = Field(0.5, gt=0)
    student_temperature: float = Field(0.1, gt=0)
    teacher_temperature: tuple[float, float] = (0.04, 0.07)
    temperature_epochs: int = Field(30, ge=1)
    centre_momentum: float | None = Field(0.9, ge=0, le=1)
    image_weight: float = Field(0.7, ge=0)
    point_weight: float = Field(0.3, ge=0)
    affinity_weight: float = Field(0.3, ge=0)

    @model_validator(mode="after")
    def _views_fit(self) -> PlrcConfig:
        views = self.plan.views
        if len(views) != 3:
            raise ValueError(f"PLRC takes three views (query, key, teacher), got {len(views)}")
        if views[0].regions is None or views[0].regions != views[1].regions:
            raise ValueError(
                f"views 0 and 1 need region lattices of the same side, got {views[0].regions} and {views[1].regions}"
            )
        return self

    def teacher_temperature_of(self, epoch: int) -> float:
        """tau_t, rising linearly over ``temperature_epochs`` epochs, the first and the last value included (4.3)."""
        first, last = self.teacher_temperature
        return first + (last - first) * min(epoch / max(self.temperature_epochs - 1, 1), 1.0)


class PointBranch(nn.Module):
    """Encoder and heads per cell: views -> ``embedding`` (N, dim), ``points`` (N, L, dim), unit ``cells`` (N, L, C).

    Without distillation, there are no ``cells``.
    """

    def __init__(self, encoder: Encoder, config: PlrcConfig) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.channels["c5"]
        self.head = mlp(width, width, config.dim, norm=False)
        distils = config.affinity_weight > 0
        self.cell_head = CellHead(width, config.hidden, config.cell_dim, config.prototypes) if distils else None

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        cells = self.encoder(views)["c5"].flatten(2).transpose(1, 2)
        points = self.head(cells)
        outputs = {"embedding": points.mean(1), "points": points}
        if self.cell_head is not None:
            outputs["cells"] = self.cell_head(cells)
        return outputs


@dataclass(frozen=True)
class PointKeys(ImageKeys):
    """For the whole local batch of n images.

    Attributes:
        drawn: the regions and points.
        points: (n, S, P, dim) unit key points.
        reference: (n, L, C) unit cells of view b, and teacher: the rows to match; None without distillation.
    """

    drawn: RegionPoints
    points: Tensor
    reference: Tensor | None
    teacher: TeacherRows | None


class Plrc(Moco):
    """PLRC. ``query`` is trained; ``key`` follows it."""

    Config: ClassVar[type[MethodConfig]] = PlrcConfig
    image_term: ClassVar[str] = "image"
    config: PlrcConfig
    centre: Tensor

    def __init__(self, config: PlrcConfig, make_encoder: EncoderFactory, world: World) -> None:
        super().__init__(config, make_encoder, world)
        self.register_buffer("centre", torch.zeros(config.lattice**2 + config.prototypes))
        self.side = cast(int, config.plan.views[0].regions)
        self._fresh_centre: Tensor | None = None

    def make_branch(self, make_encoder: EncoderFactory) -> nn.Module:
        return PointBranch(make_encoder(("c5",)), self.config)

    def draw(self, batch: Batch) -> RegionPoints:
        """The counted regions and points of views a and b."""
        config, (first, second) = self.config, batch.regions[:2]
        shape = draws_shape(config.slots, config.points)
        uniform = counted.uniform(shape, batch.seed, Stream.POINTS, batch.epoch, batch.index)
        return draw_points(cast(Tensor, first), cast(Tensor, second), config.slots, config.points, uniform)

    @torch.no_grad()
    def targets(self, batch: Batch) -> PointKeys:
        distils = bool(self.config.affinity_weight)
        cells = self.encode_keys(batch, view=2)["cells"] if distils else None
        outputs = self.encode_keys(batch)
        keys = self.take_keys(outputs["embedding"])
        drawn = self.draw(batch)
        with torch.autocast(keys.device.type, enabled=False):
            features = full_precision(outputs["points"])
            points = unit(read_points(features, drawn.cells[:, 1], self.side))
            if cells is None:
                return PointKeys(keys, drawn, points, None, None)
            reference = outputs["cells"]
            return PointKeys(keys, drawn, points, reference, self.teacher_rows(cells, reference, batch))

    def teacher_rows(self, cells: Tensor, reference: Tensor, batch: Batch) -> TeacherRows:
        """The teacher's rows of view c; the next centre is put aside (4.3)."""
        config, lattice = self.config, self.interpolation(cells)
        factors = self.row_factors(self.key, cells, reference, lattice)
        boxes = tuple(centre_fractions(batch.crops[view], batch.image_size) for view in (0, 2))
        temperature = config.teacher_temperature_of(batch.epoch)
        centre = self.centre.to(cells.dtype)
        result = teacher_rows(factors, (boxes[0], boxes[1]), lattice, config.radius, temperature, centre)
        if config.centre_momentum is not None:
            pairs = self.world.mean(result.partners.sum())
            mean = self.world.mean(result.row_sum) / pairs.clamp(min=1e-12)
            self._fresh_centre = torch.where(pairs > 0, mean, centre)
        return result

    def interpolation(self, cells: Tensor) -> Tensor:
        """The matrix from cells (n, L, C) to the lattice of the distillation."""
        return interpolation(self.config.lattice, round(cells.shape[1] ** 0.5), cells)

    def row_factors(self, branch: nn.Module, cells: Tensor, reference: Tensor, lattice: Tensor) -> Tensor:
        """Logit rows (4.4) of a branch's cells, with its prototypes."""
        prototypes = cast(CellHead, branch.cell_head).unit_prototypes(cells)
        return row_factors(cells, reference, prototypes, lattice, self.config.affinity_scale)

    def loss(self, batch: Batch, targets: PointKeys) -> Terms:  # type: ignore[override]
        config = self.config
        outputs = grouped_forward(self.query, batch.views[0], self.groups(len(batch)), rowwise=True)
        terms = self.image_terms(outputs["embedding"], batch, targets.keys)
        terms["image"] = terms["loss"].detach()
        loss = config.image_weight * terms["loss"]
        with torch.autocast(loss.device.type, enabled=False):
            if config.point_weight:
                points = self.point_terms(full_precision(outputs["points"]), batch, targets)
                loss = loss + config.point_weight * points["points"]
                terms |= points | {"points": points["points"].detach()}
            if config.affinity_weight:
                affinity = self.affinity_terms(outputs["cells"], batch, targets)
                loss = loss + config.affinity_weight * affinity["affinity"]
                terms |= affinity | {"affinity": affinity["affinity"].detach()}
        return terms | {"loss": loss}

    def group_rows(self, batch: Batch) -> list[tuple[slice, slice]]:
        """The groups of a part: their images within the part and within the local batch."""
        size = len(batch) // self.groups(len(batch))
        starts = range(0, len(batch), size)
        return [(slice(s, s + size), slice(batch.first + s, batch.first + s + size)) for s in starts]

    def point_terms(self, features: Tensor, batch: Batch, keys: PointKeys) -> Terms:
        """This part's share of L_p (with gradient): T/T_b times the mean over groups of means over anchors (4.2)."""
        config, drawn, temperature = self.config, keys.drawn, self.config.temperature
        query = unit(read_points(features, drawn.cells[rows(batch), 0], self.side))
        loss = features.sum() * 0
        for part, group in self.group_rows(batch):
            points = torch.stack([query[part], keys.points[group]], 1)
            cross = config.reach == "cross"
            loss = loss + contrast_drawn_points(points, drawn[group], temperature, config.intra_image, cross)
        factor, valid = temperature / config.base_temperature, drawn.valid[rows(batch)]
        terms = {"points": loss * (factor / self.groups(batch.total)), "valid": valid.float().sum() / batch.total}
        if self.watched:
            # one point an image: the others of its region would count as elsewhere, and they are positives too
            share, one = len(batch) / batch.total, keys.points[rows(batch), 0, :1]
            terms |= pair_measures("points", query[:, 0, :1].detach(), one, share, valid[:, None])
            terms |= chance_measure("points", self.candidates(len(batch)), query, share * factor)
        return terms

    def candidates(self, images: int) -> int:
        """How many points an anchor is held against, in a part of so many images."""
        config, others = self.config, images // self.groups(images) - 1
        of_image = config.points * (1 if config.reach == "cross" else 2)
        own = of_image * (config.slots if config.intra_image else 1) - (config.reach != "cross")
        return own + others * config.slots * of_image

    def affinity_terms(self, cells: Tensor, batch: Batch, targets: PointKeys) -> Terms:
        """This part's share of L_a (with gradient): the mean over groups of the mean over pairs (4.3)."""
        config, lattice = self.config, self.interpolation(cells)
        reference, teacher = cast(Tensor, targets.reference), cast(TeacherRows, targets.teacher)
        factors = self.row_factors(self.query, cells, reference[rows(batch)], lattice)
        part, groups, share = rows(batch), self.groups(len(batch)), len(batch) / batch.total
        partners = teacher.partners[part]
        totals = distillation(factors, teacher.pull[part], partners, lattice, config.student_temperature)
        pairs = partners.view(groups, -1).sum(1).clamp(min=1)
        loss = (totals.view(groups, -1).sum(1) / pairs).sum() / self.groups(batch.total)
        terms = {"affinity": loss, "pairs": partners.sum() / batch.total}
        if self.watched:
            # the rows of the interpolation sum to one, so this is how often each choice is the teacher's
            terms["health/teacher_entropy"] = share * assignment_entropy(teacher.pull[part].sum((0, 1)))
            terms |= chance_measure("affinity", factors.shape[-1], cells, share)
        return terms

    def after_step(self, progress: Progress) -> None:
        super().after_step(progress)
        if self._fresh_centre is not None and self.config.centre_momentum is not None:
            self.centre.lerp_(self._fresh_centre.to(self.centre.dtype), 1 - self.config.centre_momentum)
            self._fresh_centre = None

    def matches(self, batch: Batch) -> Matches:
        """The points of the shared region in view a, and the same places in view b, as boxes of a lattice cell."""
        drawn, (first, second) = self.draw(batch), batch.crops[:2]
        boxes = lattice_boxes(drawn.cells[:, 0, 0], self.side, first.size)
        others = between(boxes, first, second)
        return Matches((0, 1), boxes, others, inside(others, second.size) & drawn.valid[:, None])
