"""The linear pixel probe: how well one linear layer on frozen features names the class of every pixel.

A multinomial logistic regression on standardised features, read bilinearly at sampled pixels of the training pictures,
scored by the mean intersection over union on every pixel of the validation pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from regionssl.data.photometric import normalise
from regionssl.errors import InputError

Picture = tuple[Tensor, Tensor]  # (3, H, W) uint8 and its labels (H, W) int64
Extract = Callable[[Tensor], Tensor]

_BATCH = 32  # pictures per call of the extractor


@dataclass(frozen=True)
class ProbeResult:
    """Scores in 0..1.

    Attributes:
        miou: mean of the intersection over union of the classes that occur in the labels or the predictions.
        per_class: intersection over union by class name; nan for a class that occurs in neither.
        accuracy: share of the labelled pixels that are named rightly.
    """

    miou: float
    per_class: dict[str, float]
    accuracy: float


@dataclass(frozen=True)
class LinearClassifier:
    """Class scores that are linear in the features: weight (C, D) and bias (C,), for features as they come."""

    weight: Tensor
    bias: Tensor

    def on_map(self, features: Tensor) -> Tensor:
        """Scores (B, C, h, w) of feature maps (B, D, h, w)."""
        return F.conv2d(features, self.weight[:, :, None, None], self.bias)


def pixel_probe(
    extract: Extract,
    train: Sequence[Picture],
    val: Sequence[Picture],
    classes: Sequence[str],
    ignore: int | None = None,
    seed: int = 0,
    pixels: int = 40_000,
    l2: float = 3e-3,
    balance: float = 0.5,
) -> ProbeResult:
    """Train a linear pixel classifier on frozen features and score it. The result depends on the arguments alone.

    Args:
        extract: pictures (B, 3, H, W) float32, normalised, on the CPU -> features (B, D, h, w) on any device, whose
            cells cover the picture evenly. Nothing is differentiated; put a network in evaluation mode before.
        train, val: pairs of a picture (3, H, W) uint8 and its labels (H, W) int64, 0 to ``len(classes) - 1``. Pictures
            may differ in size.
        classes: names of the labels, the background too if it is one.
        ignore: label of pixels that neither train nor count.
        seed: of the choice of the training pixels, the same number from every picture.
        pixels: how many training pixels to use in all, drawn in the classes' natural shares.
        l2: weight of half the squared norm of the classifier's weights (standardised features) beside the mean loss.
        balance: a class of share p weighs p ** -balance per pixel in the loss: 0 lets a frequent background outvote
            weak features everywhere, 1 names rare classes too often; one half is between.

    Raises:
        InputError: no pictures, labels out of range or of another size than the picture, no labelled pixel, features
            that are not finite.
    """
    for name, pictures in (("training", train), ("validation", val)):
        if not pictures:
            raise InputError(f"the pixel probe needs at least one {name} picture, got none")
        for image, labels in pictures:
            _check(image, labels, len(classes), ignore)

    def normalised(pictures: Tensor) -> Tensor:
        return extract(normalise(pictures.float() / 255))

    features, targets = read_samples(normalised, train, ignore, math.ceil(pixels / len(train)), seed)
    classifier = fit(features, targets, len(classes), l2, balance)
    counts = torch.zeros(len(classes), len(classes), dtype=torch.int64)
    for maps, labels in _maps(normalised, val, _BATCH):
        # a linear map and bilinear interpolation commute, so the few scores are interpolated, not the many features
        scores = F.interpolate(classifier.on_map(maps), labels.shape[1:], mode="bilinear", align_corners=False)
        counts += confusion(scores.argmax(1).cpu(), labels, len(classes), ignore)
    return score(counts, classes)


def fit(features: Tensor, targets: Tensor, classes: int, l2: float, balance: float) -> LinearClassifier:
    """Multinomial logistic regression, to convergence (L-BFGS from zero).

    Args:
        features: (P, D) float32; standardised inside, so their scale does not matter.
        targets: (P,) int64, 0 to ``classes - 1``, same device.
        l2, balance: as in :func:`pixel_probe`.
    """
    spread, centre = torch.std_mean(features, 0, correction=0)
    spread = torch.where(spread > 1e-6 * (1 + centre.abs()), spread, 1)  # a constant feature says nothing
    inputs = (features - centre) / spread
    share = torch.bincount(targets, minlength=classes).clamp(min=1).to(features)
    importance = share**-balance  # cross_entropy divides by their sum over the pixels
    weight = torch.zeros(classes, features.shape[1], device=features.device, requires_grad=True)
    bias = torch.zeros(classes, device=features.device, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=300, history_size=10, tolerance_grad=1e-4, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(F.linear(inputs, weight, bias), targets, importance) + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    scaled = weight.detach() / spread
    return LinearClassifier(scaled, bias.detach() - scaled @ centre)


def confusion(predictions: Tensor, labels: Tensor, classes: int, ignore: int | None = None) -> Tensor:
    """Counts (classes, classes) int64 of pixels by true class (row) and predicted class (column).

    Args:
        predictions, labels: equal shapes, int64, values 0 to ``classes - 1``; pixels labelled ``ignore`` are left out.
    """
    kept = torch.ones_like(labels, dtype=torch.bool) if ignore is None else labels != ignore
    pairs = labels[kept] * classes + predictions[kept]
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def score(counts: Tensor, classes: Sequence[str]) -> ProbeResult:
    """The result that a confusion matrix (true class by predicted class) amounts to."""
    counts = counts.double()
    hits = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - hits
    ious = torch.where(union > 0, hits / union, math.nan)
    return ProbeResult(
        miou=float(ious.nanmean()),
        per_class=dict(zip(classes, ious.tolist(), strict=True)),
        accuracy=float(hits.sum() / counts.sum()),
    )


def _check(image: Tensor, labels: Tensor, classes: int, ignore: int | None) -> None:
    if image.shape[1:] != labels.shape:
        raise InputError(
            f"labels of the size of their picture are needed, got {tuple(labels.shape)} "
            f"for a picture of {tuple(image.shape[1:])}"
        )
    kept = labels if ignore is None else labels[labels != ignore]
    if kept.numel() and (kept.min() < 0 or kept.max() >= classes):
        raise InputError(
            f"labels must be 0 to {classes - 1}{'' if ignore is None else f' or {ignore}'}, "
            f"found {int(kept.min())} to {int(kept.max())}; name all classes, the background too"
        )


def read_samples(
    extract: Extract, pictures: Iterable[Picture], ignore: int | None, per_picture: int, seed: int, batch: int = _BATCH
) -> tuple[Tensor, Tensor]:
    """Features (P, D) and labels (P,) at labelled pixels drawn without repetition from each picture.

    Labels may have another size than their picture; both cover the same frame. Pictures are gone through once.

    Args:
        extract: pictures (B, 3, H, W) uint8 -> features (B, D, h, w), whose cells cover the picture evenly.
        batch: pictures per call of ``extract``, at most.

    Raises:
        InputError: no labelled pixel, or features that are not finite.
    """
    rng = torch.Generator().manual_seed(seed)
    features, targets = [], []
    for maps, labels in _maps(extract, pictures, batch):
        for one, truth in zip(maps, labels, strict=True):
            valid = torch.arange(truth.numel()) if ignore is None else (truth.flatten() != ignore).nonzero()[:, 0]
            chosen = valid[torch.randperm(len(valid), generator=rng)[:per_picture]]
            features.append(_read(one, chosen, truth.shape[0], truth.shape[1]))
            targets.append(truth.flatten()[chosen].to(maps.device))
    if not sum(len(part) for part in targets):
        raise InputError(f"the training pictures have no labelled pixel: every label is the ignored one, {ignore}")
    return torch.cat(features), torch.cat(targets)


def extracted(extract: Extract, pictures: Tensor) -> Tensor:
    """Feature maps (B, D, h, w) float32 of pictures, without gradient.

    Raises:
        InputError: they are not finite.
    """
    with torch.no_grad():
        maps = extract(pictures).float()
    if not maps.isfinite().all():
        raise InputError("the features are not finite, so there is nothing to probe; the network has diverged")
    return maps


def _maps(extract: Extract, pictures: Iterable[Picture], batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Feature maps (B, D, h, w) and labels (B, H, W) of batches of neighbouring pictures of one size."""
    for alike in _alike(pictures, batch):
        images, labels = zip(*alike, strict=True)
        yield extracted(extract, torch.stack(images)), torch.stack(labels)


def _alike(pictures: Iterable[Picture], most: int) -> Iterator[list[Picture]]:
    """Neighbouring pictures whose shapes and whose labels' shapes agree, at most so many together."""
    kept: list[Picture] = []
    for picture in pictures:
        if kept and (len(kept) == most or _shapes(kept[0]) != _shapes(picture)):
            yield kept
            kept = []
        kept.append(picture)
    if kept:
        yield kept


def _shapes(picture: Picture) -> tuple[torch.Size, torch.Size]:
    return picture[0].shape, picture[1].shape


def _read(features: Tensor, chosen: Tensor, height: int, width: int) -> Tensor:
    """Features (P, D) of a map (D, h, w), bilinear between cell centres, at the centres of flat pixel indices (P,)."""
    x, y = chosen % width + 0.5, chosen // width + 0.5
    grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], -1).to(features)  # -1 and 1 are the picture's edges
    read = F.grid_sample(features[None], grid[None, None], padding_mode="border", align_corners=False)
    return read[0, :, 0].T
