"""What the networks of a run tell apart in some images: their features, point affinities, nearest regions, segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from regionssl.backbones.encoder import STRIDES, Encoder
from regionssl.backbones.pooling import precise_roi_pool
from regionssl.build import RunConfig, make_method
from regionssl.counted import Stream, generator
from regionssl.data.batch import Batch
from regionssl.data.decode import UnreadableImage
from regionssl.data.images import ImageList
from regionssl.data.loader import EpochPlan
from regionssl.data.photometric import normalise
from regionssl.data.views import CropDraw, ViewSpec, centred_crop, cut
from regionssl.engine.checkpoint import list_checkpoints, load_checkpoint
from regionssl.errors import InputError
from regionssl.evaluation.start import take_statistics
from regionssl.export.run_weights import CARD, load_backbone, read_card
from regionssl.methods.base import Method, World
from regionssl.regions.clusters import draws_shape, k_means
from regionssl.report.affinity import Affinity, PointViews, affinity, on_points, places_between, unit_about_mean
from regionssl.report.nearest import Neighbours, most_unlike, nearest_regions, spread_regions
from regionssl.verbs.subject import Subject

MAP = "c4"
"""The map that is shown."""
START = "random start"
_CHECKPOINTS = 3  # shown beside start and end
_POINTS = 14  # along a side of a view, at most: the tables of a page grow with its fourth power
_CLUSTERS, _CLUSTER_CELLS = 8, 28
_GALLERY, _QUERIES, _NEAREST, _BOXES, _LEAST_SIDE = 32, 4, 5, 5, 160

Networks = dict[str, Encoder]


@dataclass(frozen=True)
class Gallery:
    """Images to look for regions in: N squares (N, 3, side, side) uint8 and names; boxes (K, 4) in their pixels."""

    squares: Tensor
    names: list[str]
    boxes: Tensor

    @property
    def pictures(self) -> list[Image.Image]:
        return [picture_of(square) for square in self.squares]


def networks_of(subject: Subject) -> tuple[Networks, list[str]]:
    """The backbone of a run at its random start, at some checkpoints that it keeps, and at its end.

    Returns:
        Label -> network in evaluation mode, in the order of training; and sentences on what could not be loaded. The
        batch norms of the start have seen nothing yet.
    """
    config, run = subject.config, subject.run
    method = make_method(config, World(), config.training.seed, "random")
    networks, notes = {START: _backbone(method, config)}, list[str]()
    if run is None:
        return networks, notes
    training = config.training
    epochs = EpochPlan(len(subject.images), training.batch_size, training.seed, training.drop_last)
    weights = int(read_card(run)["step"]) if (run / CARD).is_file() else None
    for step, path in _chosen([one for one in list_checkpoints(run / "checkpoints") if one[0] != weights]):
        try:
            method.load_state_dict(load_checkpoint(path)["method"])
        except (InputError, RuntimeError, KeyError) as error:
            notes.append(f"the state of step {step}: {str(error).splitlines()[0]}")
            continue
        networks[f"step {step}, epoch {step / epochs.steps_per_epoch:.3g}"] = _backbone(method, config)
    if weights is not None:
        networks[f"latest, step {weights}"] = load_backbone(run, (MAP,))
    return networks, notes


def _chosen(kept: list[tuple[int, Path]]) -> list[tuple[int, Path]]:
    """At most as many as are shown, evenly spread."""
    places = np.linspace(0, len(kept) - 1, min(_CHECKPOINTS, len(kept))).round()
    return [kept[int(place)] for place in places]


def _backbone(method: Method, config: RunConfig) -> Encoder:
    """A copy of a method's backbone that yields the shown map."""
    encoder = Encoder(config.backbone, size=config.method.plan.views[0].size, maps=(MAP,))
    state = method.backbone.body.state_dict()
    encoder.body.load_state_dict({key: value for key, value in state.items() if key not in encoder.pruned})
    return encoder.eval()


def prepare(networks: Networks, squares: Tensor) -> None:
    """Give the random starts the statistics of some images."""
    for label, network in networks.items():
        if label.endswith(START):
            take_statistics(network, normalise(squares.float() / 255))


@torch.no_grad()
def maps_of(network: Encoder, squares: Tensor) -> Tensor:
    """The shown map (N, C, h, w) of pictures (N, 3, S, S) uint8."""
    return torch.cat([network(normalise(square[None].float() / 255))[MAP] for square in squares])


def centre_squares(images: ImageList, positions: Sequence[int], side: int) -> Tensor:
    """The centres of images: (N, 3, side, side) uint8."""
    return torch.stack([centre_square(images.load(index), side) for index in positions])


def centre_square(image: Image.Image, side: int) -> Tensor:
    """The largest centred square of an image, resized: (3, side, side) uint8."""
    width, height = image.size
    crop = CropDraw(*centred_crop(width, height, (1.0, 1.0)), flip=False)
    return torch.from_numpy(cut(image, crop, ViewSpec(size=side, interpolation="bicubic")))


def picture_of(square: Tensor) -> Image.Image:
    """A picture (3, S, S) uint8."""
    return Image.fromarray(square.permute(1, 2, 0).contiguous().numpy())


def point_views(images: ImageList, batch: Batch, side: int) -> tuple[list[PointViews], tuple[Tensor, Tensor]]:
    """The first two views of each image of a batch, cut anew with ``side`` pixels, without colours.

    Returns:
        Their pictures and geometry, and the views as two tensors (N, 3, side, side) uint8.
    """
    positions, crops = batch.index.tolist(), batch.crops[:2]
    cuts = []
    for crop in crops:
        boxes, flips = crop.box.round().long().tolist(), crop.flip.tolist()
        draws = [CropDraw(x0, y0, x1 - x0, y1 - y0, flip) for (x0, y0, x1, y1), flip in zip(boxes, flips, strict=True)]
        spec = ViewSpec(size=side, interpolation="bicubic")
        pictures = (cut(images.load(index), draw, spec) for index, draw in zip(positions, draws, strict=True))
        cuts.append(torch.stack([torch.from_numpy(picture) for picture in pictures]))
    points = min(_POINTS, side // STRIDES[MAP])
    places = [places_between(crops[view], crops[1 - view], points) for view in (0, 1)]
    found = [
        PointViews(images.names[index], (picture_of(cuts[0][i]), picture_of(cuts[1][i])), (places[0][i], places[1][i]))
        for i, index in enumerate(positions)
    ]
    return found, (cuts[0], cuts[1])


def affinities(network: Encoder, views: tuple[Tensor, Tensor]) -> list[Affinity]:
    """The point affinities of pairs of views."""
    count = len(views[0])
    points = on_points(unit_about_mean(maps_of(network, torch.cat(views))), _POINTS)
    return [affinity(points[i], points[count + i]) for i in range(count)]


def gallery(images: ImageList, first: Sequence[int], side: int) -> Gallery:
    """These images and others, evenly spread over the list, without those that cannot be read."""
    spread = np.linspace(0, len(images) - 1, min(_GALLERY, len(images))).round().astype(int).tolist()
    side = max(side, _LEAST_SIDE)
    squares, names = [], []
    for index in list(dict.fromkeys([*first, *spread]))[: max(_GALLERY, len(first))]:
        try:
            squares.append(centre_square(images.load(index), side))
        except UnreadableImage:
            continue
        names.append(images.names[index])
    return Gallery(torch.stack(squares), names, spread_regions(_BOXES, side))


def neighbours(networks: Networks, shown: Gallery) -> tuple[list[tuple[int, int]], dict[str, Neighbours]]:
    """Regions of the first images, chosen by the last network, and what is nearest to them by each network."""
    found: dict[str, Tensor] = {}
    for label, network in networks.items():
        maps = maps_of(network, shown.squares)
        found[label] = precise_roi_pool(maps, shown.boxes.expand(len(maps), -1, -1), STRIDES[MAP])
    last = list(found.values())[-1]
    queries = most_unlike(last, range(min(_QUERIES, len(shown.squares))))
    return queries, {label: nearest_regions(features, queries, _NEAREST) for label, features in found.items()}


def segments(maps: Mapping[str, Tensor], seed: int) -> dict[str, tuple[np.ndarray, str]]:
    """Cells of feature maps (N, C, h, w) in clusters by k-means, over all images of a network together.

    Returns:
        Label -> (N, h', w') int64, maps brought to 28 cells along a side if they have fewer; and a note.
    """
    rows = {}
    for label, one in maps.items():
        units = unit_about_mean(one).float()
        side = max(_CLUSTER_CELLS, units.shape[-1])
        fine = F.interpolate(units, (side, side), mode="bilinear") if side != units.shape[-1] else units
        draws = torch.from_numpy(generator(seed, Stream.CLUSTERS).random(draws_shape(_CLUSTERS)))
        found = k_means(fine.permute(0, 2, 3, 1).reshape(1, -1, fine.shape[1]), _CLUSTERS, draws[None].float())
        rows[label] = (found.labels.reshape(len(one), side, side).numpy(), f"{_CLUSTERS} clusters")
    return rows
