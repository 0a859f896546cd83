"""What ``show`` draws of regions that were found: by a method over its training, and by ORL across images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from regionssl.build import RunConfig
from regionssl.data.batch import Batch, coloured
from regionssl.data.images import ImageList
from regionssl.data.loader import EpochPlan
from regionssl.data.patches import PatchSource
from regionssl.engine.checkpoint import list_checkpoints, load_checkpoint
from regionssl.geometry import corners
from regionssl.methods.base import Method
from regionssl.report.pairs import Matched

_STATES = 4  # shown of a run, beside its start
_NEIGHBOURS = 4


@dataclass(frozen=True)
class FoundRegions:
    """The arguments of the figure of regions, and the names of its images."""

    images: list[Image.Image]
    names: list[str]
    rows: dict[str, tuple[np.ndarray, str]]


def finds_regions(method: Method) -> bool:
    """Whether a method may find regions by its own features."""
    return type(method).found_regions is not Method.found_regions


def found_regions(
    config: RunConfig, method: Method, batch: Batch, images: ImageList, run: Path | None, samples: int
) -> FoundRegions | None:
    """The regions that a method finds at its start and at some of the checkpoints that the run keeps.

    Args:
        method: with the weights that the run's seed draws; it is left in another state.
        batch: a whole one, since its images are clustered together; uint8.
        samples: how many of its images are shown.

    Returns:
        None if the method takes regions as they come.
    """
    seen = coloured(batch, config.method.plan)
    found = method.found_regions(seen)
    if found is None:
        return None
    given = next(labels for labels in batch.regions if labels is not None)
    rows = {"given": note_of(given[:samples]), "start, epoch 1": note_of(found[:samples])}
    training = config.training
    epochs = EpochPlan(len(images), training.batch_size, training.seed, training.drop_last)
    kept = list_checkpoints(run / "checkpoints") if run is not None else []
    chosen = {int(i) for i in np.linspace(0, len(kept) - 1, min(_STATES, len(kept))).round()}
    for step, path in (kept[i] for i in sorted(chosen)):
        method.load_state_dict(load_checkpoint(path)["method"])
        epoch = (step - 1) // epochs.steps_per_epoch
        found = method.found_regions(replace(seen, epoch=epoch, step=step - 1))
        assert found is not None
        rows[f"step {step}, epoch {epoch + 1}"] = note_of(found[:samples])
    positions = batch.index[:samples].tolist()
    return FoundRegions([images.load(i) for i in positions], [images.names[i] for i in positions], rows)


def note_of(regions: Tensor) -> tuple[np.ndarray, str]:
    """Region maps (N, h, w) for the figure, and how many regions their images have."""
    maps = regions.cpu().numpy()
    counts = [len(np.unique(one[one >= 0])) for one in maps]
    return maps, f"{np.mean(counts):.1f} an image"


def matched_pairs(images: ImageList, patches: PatchSource, positions: list[int]) -> list[Matched]:
    """Of each image the best pair of boxes with each of its nearest images."""
    rows = []
    for i in positions:
        near = patches.neighbours[i][:_NEIGHBOURS].tolist()
        best = [torch.from_numpy(np.asarray(patches.pairs[i][rank][0], np.float64)) for rank in range(len(near))]
        boxes = [(corners(pair[None, :4])[0].tolist(), corners(pair[None, 4:])[0].tolist()) for pair in best]
        rows.append(Matched(images.load(i), [images.load(other) for other in near], boxes, images.names[i]))
    return rows
