"""The parts of ORL's second stage, each as the work that fills a store (ORL, sections 3.1 to 3.5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from regionssl.backbones.encoder import Encoder, EncoderConfig
from regionssl.backbones.weights import initialise
from regionssl.build import load_config, make_method
from regionssl.data.contents import content_digest
from regionssl.data.decode import UnreadableImage
from regionssl.data.images import ImageList
from regionssl.engine.checkpoint import list_checkpoints, load_checkpoint
from regionssl.errors import InputError
from regionssl.export.run_weights import digest, load_backbone, named_tensors
from regionssl.methods.base import World
from regionssl.methods.byol import Byol
from regionssl.regions.correspondence import CorrespondenceConfig
from regionssl.regions.neighbours import NearestImages, best_pairs
from regionssl.regions.proposals import fallback, filter_proposals
from regionssl.stores.store import Store
from regionssl.verbs.features import Forward, Pooled, centre_view, warp
from regionssl.verbs.run_folder import CONFIG

_BATCH = 32


@dataclass(frozen=True)
class NetworkSource:
    """Where the network comes from: a run, or given weights of a backbone.

    Attributes:
        run: a run folder. A BYOL run gives its online backbone and projector as of the last checkpoint (ORL, 3.1 and
            3.4); another gives its backbone.
        backbone, init: without a run, an architecture and its weights, as ``regionssl pretrain --init`` takes them.
    """

    run: Path | None = None
    backbone: EncoderConfig | None = None
    init: str = "random"

    def load(self, config: CorrespondenceConfig) -> tuple[Encoder, nn.Module | None]:
        """Backbone with map c5, and projector if there is one, in evaluation mode.

        Raises:
            InputError: the run holds no weights yet, or the weights cannot be used.
        """
        if self.run is None:
            encoder = Encoder(self.backbone or EncoderConfig(), size=config.patch)
            initialise(encoder, self.init)
            return encoder.eval(), None
        run = load_config(str(self.run / CONFIG), {})
        checkpoints = list_checkpoints(self.run / "checkpoints")
        if run.method.name != "byol":
            return load_backbone(self.run, ("c5",)), None
        if not checkpoints:
            raise InputError(f"{self.run} has no checkpoint yet, which holds the projector; train it first")
        method = make_method(run, World(), run.training.seed, "random")
        method.load_state_dict(load_checkpoint(checkpoints[-1][1])["method"])
        assert isinstance(method, Byol)
        return method.online.encoder.eval(), method.online.projector.eval()

    def digest(self, config: CorrespondenceConfig) -> str:
        """A hash of the weights."""
        encoder, projector = self.load(config)
        extras = {} if projector is None else {"projector": projector}
        return digest(named_tensors(encoder, extras))[:16]


@dataclass
class ImageWork:
    """What the parts have in common: images, settings, device."""

    images: ImageList
    config: CorrespondenceConfig
    device: str
    forks: ClassVar[bool] = False

    def start(self, worker: int) -> None:
        if self.device == "cuda":
            self.device = f"cuda:{worker % torch.cuda.device_count()}"

    def digest(self, i: int) -> bytes:
        return content_digest(self.images, i)

    def load(self, i: int) -> Image.Image | None:
        """An image, or None if it cannot be read."""
        try:
            return self.images.load(i)
        except UnreadableImage:
            return None


@dataclass
class EmbeddingWork(ImageWork):
    """The feature of each whole image, of unit length: (D,) float32 (ORL, section 3.1)."""

    source: NetworkSource
    forward: Callable[[Tensor], Tensor] = field(init=False, repr=False)

    def start(self, worker: int) -> None:
        super().start(worker)
        encoder, projector = self.source.load(self.config)
        network = nn.Sequential(Pooled(encoder), *([] if projector is None else [projector]))
        self.forward = Forward(network.to(self.device), self.device)

    def make(self, positions: Sequence[int]) -> Iterator[np.ndarray | None]:
        views = (self._view(i) for i in positions)
        while batch := list(islice(views, _BATCH)):
            present = [view for view in batch if view is not None]
            rows = iter(self.forward(torch.stack(present)).numpy() if present else ())
            yield from (None if view is None else next(rows) for view in batch)

    def _view(self, i: int) -> Tensor | None:
        image = self.load(i)
        return None if image is None else centre_view(image, self.config.resize, self.config.crop)


@dataclass
class BoxWork(ImageWork):
    """The proposals of each image that pass the filter, or its fallback: (B, 4) int32 (ORL, section 3.3)."""

    proposals: Store
    forks: ClassVar[bool] = True

    def make(self, positions: Sequence[int]) -> Iterator[np.ndarray | None]:
        rules = self.config.proposals
        for i in positions:
            boxes = self.proposals.read(i)
            if boxes is None:
                yield None
                continue
            kept = filter_proposals(boxes, rules)
            yield kept if len(kept) else fallback(boxes, lambda i=i: self.images.load(i).size, rules)  # type: ignore[misc]


@dataclass
class RoiWork(ImageWork):
    """The feature of each kept box, of unit length: (B, D) float16 (ORL, section 3.4)."""

    source: NetworkSource
    boxes: Store
    forward: Callable[[Tensor], Tensor] = field(init=False, repr=False)

    def start(self, worker: int) -> None:
        super().start(worker)
        self.forward = Forward(Pooled(self.source.load(self.config)[0]).to(self.device), self.device)

    def make(self, positions: Sequence[int]) -> Iterator[np.ndarray | None]:
        for i in positions:
            image, boxes = self.load(i), self.boxes.read(i)
            if image is None or boxes is None:
                yield None
                continue
            rows = [
                self.forward(torch.stack([warp(image, box, self.config.patch) for box in part]))
                for part in np.split(boxes, range(_BATCH, len(boxes), _BATCH))
            ]
            yield torch.cat(rows).half().numpy()


@dataclass
class NeighbourWork(ImageWork):
    """The positions of each image's nearest images: (K,) (ORL, section 3.1). Unreadable images are nobody's."""

    embeddings: Store
    search: NearestImages = field(init=False, repr=False)
    readable: Tensor = field(init=False, repr=False)

    def start(self, worker: int) -> None:
        super().start(worker)
        rows = [self.embeddings.read(i) for i in range(len(self.embeddings))]
        self.readable = torch.tensor([i for i, row in enumerate(rows) if row is not None])
        bank = torch.from_numpy(np.stack([row for row in rows if row is not None]))
        self.search = NearestImages(bank.to(self.device))

    def make(self, positions: Sequence[int]) -> Iterator[np.ndarray | None]:
        wanted = torch.tensor(positions)
        place = torch.searchsorted(self.readable, wanted).clamp(max=len(self.readable) - 1)
        found = self.search.of(place, self.config.neighbours, self.config.self_rule).cpu()
        known = self.readable[place] == wanted
        for neighbours, present in zip(self.readable[found].numpy(), known.tolist(), strict=True):
            yield neighbours if present else None


@dataclass
class PairWork(ImageWork):
    """The best pairs of each image with its neighbours: (K, n, 8) int32 (ORL, section 3.5)."""

    boxes: Store
    features: Store
    neighbours: Store

    def make(self, positions: Sequence[int]) -> Iterator[np.ndarray | None]:
        for i in positions:
            neighbours = self.neighbours.read(i)
            own = self._of(i)
            if neighbours is None or own is None:
                yield None
                continue
            yield np.stack([self._pairs(own, int(j)) for j in neighbours])

    def _pairs(self, own: tuple[np.ndarray, Tensor], j: int) -> np.ndarray:
        other = self._of(j)
        if other is None:
            raise InputError(f"{self.images.names[j]} could be read once and then not any more; run the command again")
        return best_pairs(own[1], own[0], other[1], other[0], self.config.pair_ratio)

    def _of(self, i: int) -> tuple[np.ndarray, Tensor] | None:
        boxes, rows = self.boxes.read(i), self.features.read(i)
        return None if boxes is None or rows is None else (boxes.astype(np.int32), torch.from_numpy(rows).float())
