"""Objects without training: clusters of an image's own features against its foreground mask (R2O, section 7.4).

The published foreground is the cluster that overlaps the true foreground best. This **oracle choice** reads the label,
so its score is an upper bound over clusters, not a segmentation that anyone could make; every name here says so. Beside
it stands a **blind choice** that reads no label: the cluster that overlaps a centred box best.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from regionssl import counted
from regionssl.backbones.encoder import Encoder
from regionssl.counted import Stream
from regionssl.data.photometric import IMAGENET_MEAN, IMAGENET_STD
from regionssl.errors import InputError
from regionssl.evaluation.inputs import standardise
from regionssl.regions.clusters import draws_shape, k_means

SIDE = 128
"""Side of the grid on which predictions and truth are compared."""


@dataclass(frozen=True)
class OracleScore:
    """Scores of the oracle choice over a set of images.

    Attributes:
        miou: mean of the two intersections over union.
        background_iou, foreground_iou: of the confusion matrix summed over images.
        accuracy: share of the grid points that are right.
        confusion: (2, 2) int64, grid points by truth (row) and prediction, background first.
        images: how many were scored; skipped: how many had no foreground.
    """

    miou: float
    background_iou: float
    foreground_iou: float
    accuracy: float
    confusion: Tensor
    images: int
    skipped: int


def oracle_object_score(
    encoder: Encoder,
    pictures: Iterable[tuple[Image.Image, np.ndarray]],
    clusters: int = 5,
    size: int = 1280,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> OracleScore:
    """Score an encoder on images with foreground masks; one k-means per image, nothing is trained.

    Args:
        encoder: yields a c4 map; it is put into evaluation mode.
        pictures: RGB images and their masks (H, W), uint8 from 0 to 255 or bool.
        size: side to which the images are squashed, pixels; 1280 gives 80 x 80 vectors.
        seed: of the first centres.

    Raises:
        InputError: no image has a foreground, or an image has fewer vectors than clusters.
    """
    encoder = encoder.to(device).eval()
    confusion, scored, skipped = torch.zeros(2, 2, dtype=torch.int64), 0, 0
    for position, (picture, mask) in enumerate(pictures):
        truth = truth_on_grid(mask)
        if not truth.any():
            skipped += 1
            continue
        on_grid = clusters_on_grid(encoder, picture, position, clusters, size, seed)
        prediction = on_grid == oracle_choice(on_grid, truth, clusters)
        confusion += confusion_matrix(prediction, truth)
        scored += 1
    if scored == 0:
        raise InputError(f"none of the {skipped} images has a foreground; masks are 255 (or true) on the objects")
    return score_of(confusion, scored, skipped)


def clusters_on_grid(
    encoder: Encoder,
    picture: Image.Image,
    position: int,
    clusters: int = 5,
    size: int = 1280,
    seed: int = 0,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Tensor:
    """Clusters (128, 128) int64 of one image, on the CPU (steps 2 to 4); computed where the encoder is.

    Args:
        position: what the draws are counted by.
    """
    device = next(encoder.parameters(), torch.zeros(())).device
    pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None].to(device)
    labels = feature_clusters(encoder, pixels, torch.tensor([position]), clusters, size, seed, mean, std)
    return labels_on_grid(labels, clusters)[0].cpu()


@torch.no_grad()
def feature_clusters(
    encoder: Encoder,
    pixels: Tensor,
    index: Tensor,
    clusters: int = 5,
    size: int = 1280,
    seed: int = 0,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Tensor:
    """K-means of each image's c4 vectors, of unit length (steps 2 and 3).

    Args:
        pixels: (N, 3, H, W) uint8.
        index: (N,) int64, what the draws of each image are counted by.
        mean, std: what the encoder's inputs are normalised by.

    Returns:
        (N, h, w) int64 in 0..clusters-1, h = w = size / 16.

    Raises:
        InputError: there are fewer vectors than clusters.
    """
    squashed = F.interpolate(standardise(pixels, mean, std), (size, size), mode="bilinear", align_corners=False)
    features = encoder(squashed)["c4"].float()
    if features[0, 0].numel() < clusters:
        raise InputError(
            f"{clusters} clusters need as many vectors, but an image of {size} px has {features[0, 0].numel()}; "
            "use larger images or fewer clusters"
        )
    rows = F.normalize(features.flatten(2).transpose(1, 2), dim=-1, eps=1e-12)
    uniform = counted.uniform(draws_shape(clusters), seed, Stream.CLUSTERS, 0, index.to(rows.device))
    return k_means(rows, clusters, uniform).labels.unflatten(1, features.shape[2:])


def labels_on_grid(labels: Tensor, clusters: int, side: int = SIDE) -> Tensor:
    """Labels (N, h, w) on a grid: one-hots resized bilinearly, then the largest, (N, side, side) int64 (step 4)."""
    one_hot = F.one_hot(labels, clusters).movedim(-1, 1).float()
    return F.interpolate(one_hot, (side, side), mode="bilinear", align_corners=False).argmax(1)


def truth_on_grid(mask: np.ndarray, side: int = SIDE) -> Tensor:
    """A foreground mask (H, W), uint8 or bool, on a grid: more than half of a cell, (side, side) bool (step 5)."""
    share = torch.from_numpy(np.ascontiguousarray(mask)).float() / (1 if mask.dtype == np.bool_ else 255)
    return F.interpolate(share[None, None], (side, side), mode="area")[0, 0] > 0.5


def oracle_ious(labels: Tensor, truth: Tensor, clusters: int) -> Tensor:
    """IoU of each cluster with the true background and with the true foreground, (2, clusters); 0 for empty clusters.

    Args:
        labels: (s, s) int64.
        truth: (s, s) bool.
    """
    chosen = labels == torch.arange(clusters, device=labels.device)[:, None, None]
    truths = torch.stack([~truth, truth])[:, None]
    shared, either = (chosen & truths).sum((2, 3)), (chosen | truths).sum((2, 3))
    return shared / either.clamp(min=1)


def oracle_choice(labels: Tensor, truth: Tensor, clusters: int) -> int:
    """The cluster with the largest IoU with the true foreground, the first at a tie (step 6)."""
    return int(oracle_ious(labels, truth, clusters)[1].argmax())


def centred_box(side: int = SIDE) -> Tensor:
    """(side, side) bool: the box of half the sides in the middle, where photographers put things."""
    inside = torch.zeros(side, side, dtype=torch.bool)
    inside[side // 4 : side - side // 4, side // 4 : side - side // 4] = True
    return inside


def blind_choice(labels: Tensor, clusters: int) -> int:
    """The cluster with the largest IoU with the centred box, the first at a tie; reads no label."""
    return oracle_choice(labels, centred_box(labels.shape[-1]), clusters)


def confusion_matrix(prediction: Tensor, truth: Tensor) -> Tensor:
    """Grid points by truth (row) and prediction (column), bool, background first: (2, 2) int64."""
    return torch.bincount((2 * truth + prediction.long()).flatten(), minlength=4).view(2, 2)


def score_of(confusion: Tensor, images: int, skipped: int = 0) -> OracleScore:
    """The scores of a summed confusion matrix (step 7)."""
    right = confusion.diagonal().double()
    background, foreground = (right / (confusion.sum(0) + confusion.sum(1) - right)).tolist()
    accuracy = float(right.sum() / confusion.sum())
    return OracleScore((background + foreground) / 2, background, foreground, accuracy, confusion, images, skipped)
