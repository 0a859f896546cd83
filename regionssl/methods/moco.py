"""MoCo v2: an image must find its other view among the keys of past images (MoCo v2; ReSim specification, 3.4 and 4.1).

    k = key(view 2)                   key network: moving average of the query network, batch norm over shuffled groups
    q = query(view 1)
    L = -log exp(q.k/T) / (exp(q.k/T) + sum_r exp(q.r/T))      r: keys in the queue
    queue <- k;  key <- m key + (1 - m) query

Departures from the release:
- The release runs one group of 32 images per GPU. Here a process runs any number of groups: batch statistics are per
  group, and the keys are shuffled over all groups of all processes, so 1 process equals 8.
- The moving average and the queue move after the optimiser's step instead of at the start of the next forward pass,
  which is the same sequence and keeps gradient accumulation exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from regionssl import counted
from regionssl.backbones.encoder import Encoder, pool
from regionssl.backbones.norm import grouped_forward
from regionssl.counted import Stream
from regionssl.data.batch import Batch
from regionssl.data.photometric import MOCO_V2
from regionssl.data.views import ViewPlan, ViewSpec
from regionssl.geometry import intersect, to_view
from regionssl.methods.base import EncoderFactory, Matches, Method, MethodConfig, Progress, Terms, World
from regionssl.methods.heads import mlp
from regionssl.methods.losses import chance_measure, feature_std, info_nce, pair_measures, unit
from regionssl.methods.momentum import frozen_copy, moving_average
from regionssl.methods.queue import KeyQueue


class MocoConfig(MethodConfig):
    """Settings of MoCo v2.

    Attributes:
        dim: of the embedding.
        queue: number of past keys.
        temperature: T.
        momentum: m of the key network.
        group_size: images that share batch statistics (the release: 32 per GPU).
    """

    name: Literal["moco"] = "moco"
    plan: ViewPlan = ViewPlan(views=(ViewSpec(colour=MOCO_V2), ViewSpec(colour=MOCO_V2)))
    dim: int = Field(128, ge=1)
    queue: int = Field(65536, ge=1)
    temperature: float = Field(0.2, gt=0)
    momentum: float = Field(0.999, ge=0, le=1)
    group_size: int = Field(32, ge=1)


class ImageBranch(nn.Module):
    """Encoder and image head: views (N, 3, S, S) -> ``{"embedding": (N, dim)}``, not normalised."""

    def __init__(self, encoder: Encoder, dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.channels["c5"]
        self.head = mlp(width, width, dim, norm=False)

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        return {"embedding": self.head(pool(self.encoder(views)["c5"]))}


@dataclass(frozen=True)
class ImageKeys:
    """Unit keys (n, D) of the process's images."""

    keys: Tensor


class Moco(Method):
    """MoCo v2. ``query`` is trained; ``key`` follows it.

    Attributes:
        image_term: the term that is the image loss.
    """

    Config: ClassVar[type[MethodConfig]] = MocoConfig
    image_term: ClassVar[str] = "loss"

    def __init__(self, config: MocoConfig, make_encoder: EncoderFactory, world: World) -> None:
        super().__init__()
        self.config = config
        self.world = world
        self.query = self.make_branch(make_encoder)
        self.key = frozen_copy(self.query)
        self.queue = KeyQueue(config.queue, config.dim)
        self._fresh_keys: Tensor | None = None

    def make_branch(self, make_encoder: EncoderFactory) -> nn.Module:
        return ImageBranch(make_encoder(("c5",)), self.config.dim)

    @property
    def backbone(self) -> Encoder:  # type: ignore[override]
        return cast(Encoder, self.query.encoder)

    @property
    def branches(self) -> tuple[nn.Module, ...]:
        return self.query, self.key

    @torch.no_grad()
    def targets(self, batch: Batch) -> ImageKeys:
        """Keys of view 2; those of all processes will enter the queue after the step."""
        return ImageKeys(self.take_keys(self.encode_keys(batch)["embedding"]))

    def take_keys(self, embeddings: Tensor) -> Tensor:
        """Unit keys (n, D) of this process's images; those of all processes are kept for the queue."""
        keys = unit(embeddings)
        self._fresh_keys = self.world.gather(keys)
        return keys

    def encode_keys(self, batch: Batch, view: int = 1) -> dict[str, Tensor]:
        """Outputs of the key network for a view of this process's images, with batch norm shuffled over all processes.

        Every process encodes a slice of one permutation of the global batch (ReSim specification, 3.4).
        """
        local = len(batch)
        groups = self.groups(local)
        if groups * self.world.size == 1:
            return dict(self.key(batch.views[view]))
        images = local * self.world.size
        order = torch.from_numpy(counted.permutation(images, batch.seed, Stream.SHUFFLE, batch.step, view - 1))
        outputs = grouped_forward(self.key, self.world.exchange(batch.views[view], order), groups, rowwise=True)
        restore = order.argsort()
        return {name: self.world.exchange(output, restore) for name, output in outputs.items()}

    def groups(self, images: int) -> int:
        """Number of groups with own batch statistics among ``images`` images."""
        return max(1, images // self.config.group_size)

    def loss(self, batch: Batch, targets: ImageKeys) -> Terms:
        outputs = grouped_forward(self.query, batch.views[0], self.groups(len(batch)), rowwise=True)
        return self.image_terms(outputs["embedding"], batch, targets.keys)

    def image_terms(self, embedding: Tensor, batch: Batch, keys: Tensor) -> Terms:
        """InfoNCE of query embeddings (n, D) against ``keys`` of the whole local batch (ReSim specification, 4.1)."""
        with torch.autocast(embedding.device.type, enabled=False):
            query, keys, share = unit(embedding), keys[batch.first :][: len(batch)], len(batch) / batch.total
            losses, hits = info_nce(query, keys, self.queue.keys, self.config.temperature)
            terms = {
                "loss": losses.sum() / batch.total,
                "image_top1": hits.sum() / batch.total,
                "feature_std": feature_std(query) * share,
            }
            if self.watched:
                terms |= pair_measures("image", query[:, None], keys[:, None], share)
                terms |= chance_measure(self.image_term, 1 + len(self.queue.keys), losses, share)
            return terms

    def after_step(self, progress: Progress) -> None:
        moving_average(self.key, self.query, self.config.momentum)
        if self._fresh_keys is not None:
            self.queue.enqueue(self._fresh_keys)
            self._fresh_keys = None

    def slow_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.key, self.query)]

    @property
    def past_negatives(self) -> int:
        return len(self.queue.keys)

    def matches(self, batch: Batch) -> Matches:
        """The overlap of the two crops."""
        return overlap_match(batch)


def overlap_match(batch: Batch, views: tuple[int, int] = (0, 1)) -> Matches:
    """The image area that two views of the same image share, as one box in each."""
    first, second = batch.crops[views[0]], batch.crops[views[1]]
    overlap = intersect(first.box, second.box)
    valid = (overlap[:, 2:] > overlap[:, :2]).all(1)
    boxes = overlap[:, None]
    return Matches(views, to_view(boxes, first), to_view(boxes, second), valid[:, None])
