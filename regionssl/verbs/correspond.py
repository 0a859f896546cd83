"""ORL's second stage: from images and the first stage's network to matched boxes (ORL, section 3)."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from regionssl.config import to_plain
from regionssl.data.images import ImageList
from regionssl.data.scan import usable_cores
from regionssl.engine.choices import choose_device
from regionssl.engine.log import duration
from regionssl.errors import InputError
from regionssl.regions.correspondence import CorrespondenceConfig, Correspondences, Ragged, RankedPairs
from regionssl.regions.kinds import SelectiveSearch, library_of
from regionssl.regions.proposals import filter_proposals, opencv
from regionssl.stores.build import Share, Work
from regionssl.stores.store import COMPLETE, Content, Manifest, Store, hash_names, open_store
from regionssl.verbs.correspond_work import (
    BoxWork,
    EmbeddingWork,
    NeighbourWork,
    NetworkSource,
    PairWork,
    RoiWork,
)
from regionssl.verbs.regions import RegionWork
from regionssl.verbs.stores import make_store, share_of

FILE = "correspondences.npz"
COCO = 118_287

_UNREADABLE = np.array([[0, 0, 1, 1]], np.int32)  # never cut: the image cannot be opened


def correspond(
    images: ImageList,
    network: NetworkSource,
    out: Path,
    config: CorrespondenceConfig = CorrespondenceConfig(),
    proposals: Path | None = None,
    devices: int = 1,
    device: str = "auto",
    console: Console | None = None,
    share: Share | None = None,
) -> Correspondences:
    """Find the correspondences of a list of images, and leave them in ``out/correspondences.npz``.

    Every part is a store of its own below ``out``, named by what decides it, so an interrupted call goes on where it
    stopped, and other settings or weights make other parts. Time per part is printed.

    Args:
        network: gives the features.
        out: a folder.
        proposals: a complete store of boxes of these images; None runs selective search.
        devices: processes on this machine for the parts with a network; the others take every core.
        share: of the work; None for what torchrun says, or else all of it.

    Raises:
        InputError: too few images, no selective search, or a store or run that does not fit.
    """
    check_possible(images, config, proposals)
    share = share or share_of(devices, network=True)
    stage = Stage(images, network, out, config, share, choose_device(device).type, console or Console())
    found = stage.run(proposals)
    found.save(out / FILE)
    stage.report(found)
    return found


def check_possible(images: ImageList, config: CorrespondenceConfig, proposals: Path | None = None) -> None:
    """See, before any work, that there is what it needs.

    Raises:
        InputError: too few images, or no selective search.
    """
    if len(images) <= config.neighbours:
        raise InputError(
            f"{config.neighbours} neighbours of each image need at least {config.neighbours + 1} images, and there are "
            f"{len(images)}; give more images or ask for fewer neighbours"
        )
    if proposals is None:
        opencv()


class Stage:
    """One call of :func:`correspond`."""

    def __init__(
        self,
        images: ImageList,
        network: NetworkSource,
        out: Path,
        config: CorrespondenceConfig,
        share: Share,
        device: str,
        console: Console,
    ) -> None:
        self.images, self.network, self.out, self.config = images, network, out, config
        self.share, self.device, self.console = share, device, console
        self.names = hash_names(images.names)
        self.seconds: dict[str, float] = {}

    def run(self, proposals: Path | None) -> Correspondences:
        """Make all parts, or find them made."""
        config, common = self.config, (self.images, self.config, self.device)
        weights = {"weights": self.network.digest(config)}
        if proposals is None:
            libraries = library_of("selective_search")
            search = RegionWork(self.images, SelectiveSearch())
            raw = self.part("proposals", "boxes", {"kind": "selective_search", "libraries": libraries}, search, True)
        else:
            raw = open_store(proposals, self.images.fingerprint, "boxes")
        of = {"proposals": [raw.manifest.settings, raw.contents()], "filter": to_plain(config.proposals)}
        boxes = self.part("boxes", "boxes", of, BoxWork(*common, raw), True)
        view = {**weights, "resize": config.resize, "crop": config.crop}
        embeddings = self.part("embeddings", "features", view, EmbeddingWork(*common, self.network))
        everything = {"images": embeddings.contents()}  # any changed image may change any neighbour
        near = {**everything, "of": embeddings.folder.name, "k": config.neighbours, "self_rule": config.self_rule}
        neighbours = self.part("neighbours", "neighbours", near, NeighbourWork(*common, embeddings))
        roi = {**weights, "boxes": boxes.folder.name, "patch": config.patch}
        features = self.part("roi", "features", roi, RoiWork(*common, self.network, boxes))
        best = {"roi": features.folder.name, "neighbours": neighbours.folder.name, "ratio": config.pair_ratio}
        pairs = self.part("pairs", "pairs", best, PairWork(*common, boxes, features, neighbours), True)
        return assemble(self.images.fingerprint, config.neighbours, boxes, neighbours, pairs)

    def part(
        self, name: str, content: Content, settings: dict[str, Any], work: Work, every_core: bool = False
    ) -> Store:
        """One part, complete.

        Args:
            every_core: the work has no threads of its own, so it gets a process per core.
        """
        share = self.share
        if every_core and share.count == 1:
            share = replace(share, processes=max(share.processes, usable_cores()))
        manifest = Manifest(content, settings, self.names, len(self.images))
        key = hashlib.sha256(json.dumps(manifest.to_plain(), sort_keys=True).encode()).hexdigest()[:8]
        began = time.perf_counter()
        store = make_store(self.out / f"{name}-{key}", manifest, self.images, work, share, self.console, name)
        while not (store.folder / COMPLETE).is_file():  # other processes of torchrun are still at it
            time.sleep(1)
        self.seconds[name] = time.perf_counter() - began
        return store

    def report(self, found: Correspondences) -> None:
        """Print what was found, and the time of each part."""
        count, rules = len(self.images), self.config.proposals
        single = [boxes for boxes in found.boxes if len(boxes) == 1]
        fallbacks = sum(not len(filter_proposals(boxes, rules)) for boxes in single)
        numbers = np.diff(found.boxes.ends, prepend=0)
        table = Table(title=f"time by part, {count:,} images, {usable_cores()} cores, {self.device}")
        for heading in ("part", "time", "ms an image", f"{COCO:,} images"):
            table.add_column(heading, justify="left" if heading == "part" else "right")
        for name, seconds in self.seconds.items():
            table.add_row(name, duration(seconds), f"{1000 * seconds / count:,.1f}", duration(seconds * COCO / count))
        self.console.print(table)
        instead = f"{fallbacks:,} images without a box that passes ({rules.fallback} box instead)"
        self.console.print(
            f"{found.boxes.ends[-1]:,} boxes, {numbers.min()} to {numbers.max()} an image, median "
            f"{int(np.median(numbers))}; {instead}; "
            f"{found.pairs.rows.ends[-1]:,} pairs with {self.config.neighbours} neighbours each: {self.out / FILE}",
            highlight=False,
            soft_wrap=True,
        )


def assemble(fingerprint: str, k: int, boxes: Store, neighbours: Store, pairs: Store) -> Correspondences:
    """The parts as one; an image that could not be read gets a box of one pixel and the first images as neighbours."""
    stored = [boxes.read(i) for i in range(len(boxes))]
    kept = [_UNREADABLE if one is None else one for one in stored]
    readable = np.flatnonzero([one is not None for one in stored])[:k]
    near, ranked = [], []
    for i in range(len(boxes)):
        row, best = neighbours.read(i), pairs.read(i)
        if row is None or best is None:
            row = readable
            best = np.stack([np.concatenate([_UNREADABLE, kept[j][:1]], 1) for j in readable])
        near.append(row)
        ranked.append(best)
    ends = np.cumsum(np.concatenate([np.full(k, best.shape[1]) for best in ranked]), dtype=np.int64)
    values = np.concatenate([best.reshape(-1, 8) for best in ranked]).astype(np.int32)
    rows = RankedPairs(Ragged(values, ends), k)
    return Correspondences(fingerprint, Ragged.of(kept, 4), np.stack(near).astype(np.int64), rows)
