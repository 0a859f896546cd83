"""How images are cut for classification: one fixed way to be scored, and counted draws to be trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor
from torch.utils.data import Dataset

from regionssl.config import Config
from regionssl.counted import Stream, generator, permutation
from regionssl.data import photometric
from regionssl.data.image_list import ImageList
from regionssl.data.photometric import ColourDraws, ColourPolicy
from regionssl.data.views import ViewPlan, ViewSpec, cut, draw_crops
from regionssl.errors import InputError
from regionssl.evaluation.inputs import load_image

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# Principal components of the colours of ImageNet's pixels, RGB in 0..1 (Krizhevsky et al., 2012): roots of the
# eigenvalues, and the vectors as columns.
_SPREADS = (0.2175, 0.0188, 0.0045)
_COMPONENTS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


class ScoringCut(Config):
    """How an image to be scored is cut.

    Attributes:
        size: side of what the network sees, pixels.
        resize: the shorter side is brought to this first, pixels.
        squash: then the whole image is squashed to the square (ORL 6.3) instead of the centre being cut out.
        interpolation: of the resampling, antialiased.
        workers: processes that read images; results do not depend on it.
    """

    size: int = Field(224, ge=32)
    resize: int = Field(256, ge=32)
    squash: bool = False
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    workers: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _centre_fits(self) -> Self:
        if not self.squash and self.resize < self.size:
            raise ValueError(f"a centre of {self.size} px cannot be cut from a shorter side of {self.resize} px")
        return self

    def cut(self, image: Image.Image) -> Tensor:
        """(3, size, size) uint8."""
        short = min(image.size)
        sides = tuple(int(self.resize * side / short) if side != short else self.resize for side in image.size)
        square = image.resize((sides[0], sides[1]), _RESAMPLING[self.interpolation])
        if self.squash:
            square = square.resize((self.size, self.size), _RESAMPLING[self.interpolation])
        else:
            left, top = (round((side - self.size) / 2) for side in square.size)
            square = square.crop((left, top, left + self.size, top + self.size))
        return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


class TrainingCut(ScoringCut):
    """How an image to be trained on is cut, as a counted draw.

    Attributes:
        area: range of the crop's share of the image.
        aspect: range of its width over height.
        flip: probability of the mirror.
        jitter: brightness, contrast, saturation and hue of a colour jitter that every image undergoes; None for none.
        lighting: standard deviation of the shares of ImageNet's principal colours that are added (ORL 6.2).
    """

    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = Field(0.5, ge=0, le=1)
    jitter: tuple[float, float, float, float] | None = None
    lighting: float = Field(0.0, ge=0)

    def policy(self) -> ColourPolicy:
        """The colours' part; without jitter nothing happens to them."""
        if self.jitter is None:
            return ColourPolicy(order=(), jitter=0)
        brightness, contrast, saturation, hue = self.jitter
        return ColourPolicy(
            order=("jitter",), jitter=1, brightness=brightness, contrast=contrast, saturation=saturation, hue=hue
        )

    def draw(self, images: ImageList, i: int, seed: int, epoch: int) -> Example:
        """Image ``i`` as an epoch sees it: a pure function of (seed, epoch, i)."""
        image = load_image(images, i)
        view = ViewSpec(
            size=self.size, area=self.area, aspect=self.aspect, interpolation=self.interpolation, flip=self.flip
        )
        plan = ViewPlan(views=(view,))
        crop = draw_crops(plan, image.width, image.height, generator(seed, Stream.VIEWS, epoch, i))[0]
        rng = generator(seed, Stream.COLOURS, epoch, i)
        colours = photometric.draw(self.policy(), rng)
        shares = rng.standard_normal(3) * self.lighting
        return Example(torch.from_numpy(cut(image, crop, view)), colours, torch.from_numpy(shares))

    def colour(self, batch: Batch) -> Tensor:
        """Images (B, 3, S, S) of a batch with their colours, as float32 with values around 0..1, on their device."""
        pixels = photometric.recolour(batch.pixels, batch.colours, self.policy())
        return pixels + lighting(batch.shares.to(pixels))[:, :, None, None] if self.lighting else pixels


def lighting(shares: Tensor) -> Tensor:
    """What shares (B, 3) of the principal components add to red, green and blue: (B, 3)."""
    components = torch.tensor(_COMPONENTS, device=shares.device, dtype=shares.dtype)
    return (shares * torch.tensor(_SPREADS, device=shares.device, dtype=shares.dtype)) @ components.T


@dataclass(frozen=True)
class Example:
    """An image to train on: pixels (3, S, S) uint8, its colour draws, and shares (3,) float64 of the lighting."""

    pixels: Tensor
    colours: ColourDraws
    shares: Tensor


@dataclass(frozen=True)
class Batch:
    """Examples of one iteration; ``rows`` (B,) int64 are their images."""

    pixels: Tensor
    colours: ColourDraws
    shares: Tensor
    rows: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """With the pixels on a device."""
        return replace(self, pixels=self.pixels.to(device, non_blocking=True))


class TrainingBatches(Dataset[Batch | InputError]):
    """Batches by iteration; every epoch is a permutation, and batches run over the ends of epochs.

    A mistake of the user is handed over as a value, for workers would bury it.
    """

    def __init__(self, images: ImageList, cut: TrainingCut, batch_size: int, iterations: int, seed: int) -> None:
        self.images, self.cut, self.batch_size, self.iterations, self.seed = images, cut, batch_size, iterations, seed

    def __len__(self) -> int:
        return self.iterations

    def __getitem__(self, step: int) -> Batch | InputError:
        if step >= self.iterations:
            raise IndexError(step)
        places = order(len(self.images), self.seed, step * self.batch_size, self.batch_size)
        try:
            examples = [self.cut.draw(self.images, i, self.seed, epoch) for epoch, i in places]
        except InputError as error:
            return error
        return Batch(
            torch.stack([one.pixels for one in examples]),
            photometric.stack([one.colours for one in examples]),
            torch.stack([one.shares for one in examples]),
            torch.tensor([i for _, i in places]),
        )


def order(count: int, seed: int, first: int, length: int) -> list[tuple[int, int]]:
    """Epoch and image of ``length`` places of the endless order of ``count`` images, from the place ``first`` on."""
    places: list[tuple[int, int]] = []
    for epoch in range(first // count, math.ceil((first + length) / count)):
        images = permutation(count, seed, Stream.ORDER, epoch)
        low, high = max(first - epoch * count, 0), min(first + length - epoch * count, count)
        places += [(epoch, int(i)) for i in images[low:high]]
    return places


class ScoredImages(Dataset[Tensor | InputError]):
    """Images of a list as they are scored, (3, S, S) uint8; mistakes as in :class:`TrainingBatches`."""

    def __init__(self, images: ImageList, cut: ScoringCut) -> None:
        self.images, self.cut = images, cut

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor | InputError:
        if i >= len(self.images):
            raise IndexError(i)
        try:
            return self.cut.cut(load_image(self.images, i))
        except InputError as error:
            return error


def together(found: Sequence[Tensor | InputError]) -> Tensor | InputError:
    """A batch of scored images, or the first mistake among them."""
    mistakes = [one for one in found if isinstance(one, InputError)]
    return mistakes[0] if mistakes else torch.stack([one for one in found if isinstance(one, Tensor)])
