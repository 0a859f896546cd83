"""Two views of one image whose geometry is known: the square in its middle, and a warp of that."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import Field, model_validator
from torch import Tensor

from regionssl import geometry
from regionssl.config import Config
from regionssl.data import photometric
from regionssl.data.photometric import ColourPolicy
from regionssl.geometry import Crops

Warp = Literal["identity", "crop", "flip", "rotation", "colour", "view"]

_COLOURS = ColourPolicy(order=("jitter", "grey"), jitter=1.0)


class WarpSettings(Config):
    """How the second view differs from the first.

    Attributes:
        size: side of both views, pixels.
        warps: "identity"; "crop", a smaller square of the first view; "flip", its mirror image; "rotation", to one side
            or the other, enlarged so that no corner is empty; "colour", MoCo v2's jitter, always, and its loss of
            colour; "view", the crop, perhaps mirrored, with the colours: what pre-training does.
        crop: range of the side of the crop, as a share of the first view's.
        angle: of the rotation, degrees.
    """

    size: int = Field(224, ge=32)
    warps: tuple[Warp, ...] = Field(("crop", "flip", "rotation", "colour", "view"), min_length=1)
    crop: tuple[float, float] = (0.7, 0.9)
    angle: float = Field(15.0, gt=0, le=45)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise ValueError(f"crop is a range of shares of the side, low then high, got {self.crop}")
        if len(set(self.warps)) < len(self.warps):
            raise ValueError(f"each warp can be named once, got {', '.join(self.warps)}")
        return self

    @property
    def turned(self) -> int:
        """Side of a square that, turned by the angle, still covers one of ``size``; the margins are whole pixels."""
        angle = math.radians(self.angle)
        return self.size + 2 * math.ceil(self.size * (math.cos(angle) + math.sin(angle) - 1) / 2)

    @property
    def largest_zoom(self) -> float:
        """By how much a warp may enlarge what the first view shows."""
        zooms = {"rotation": self.turned / self.size, "crop": 1 / self.crop[0], "view": 1 / self.crop[0]}
        return max(zooms.get(warp, 1.0) for warp in self.warps)

    def first(self, width: int, height: int) -> Look:
        """The largest square in the middle of an image."""
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return _look([left, top, left + side, top + side], False, self.size, self.size)

    def second(self, warp: Warp, first: Look, rng: np.random.Generator) -> Look:
        """What a warp shows of the first view; always takes five numbers of ``rng``."""
        share, x, y, mirrored, sign = rng.random(5).tolist()
        left, top, right, bottom = first.crops.box[0].tolist()
        if warp == "rotation":
            angle = self.angle if sign < 0.5 else -self.angle
            return _look([left, top, right, bottom], False, self.turned, self.size, angle)
        if warp in ("crop", "view"):
            side = (right - left) * (self.crop[0] + share * (self.crop[1] - self.crop[0]))
            left, top = left + x * (right - left - side), top + y * (bottom - top - side)
            right, bottom = left + side, top + side
        flip = warp == "flip" or (warp == "view" and mirrored < 0.5)
        return _look([left, top, right, bottom], flip, self.size, self.size, colours=warp in ("colour", "view"))

    def render(self, image: Image.Image, look: Look, rng: np.random.Generator) -> Tensor:
        """(3, size, size) uint8."""
        x0, y0, x1, y1 = look.crops.box[0].tolist()
        side = look.crops.size
        view = image.resize((side, side), Image.Resampling.BILINEAR, box=(x0, y0, x1, y1))
        if look.crops.flip[0]:
            view = ImageOps.mirror(view)
        if look.angle:
            view = view.rotate(look.angle, Image.Resampling.BILINEAR)
        margin = look.margin
        view = view.crop((margin, margin, margin + self.size, margin + self.size))
        pixels = torch.from_numpy(np.array(view)).permute(2, 0, 1)
        if look.colours:
            changed = photometric.recolour(pixels[None], photometric.draw(_COLOURS, rng), _COLOURS)[0]
            pixels = (changed * 255).round().to(torch.uint8)
        return pixels


@dataclass(frozen=True)
class Look:
    """How a view looks at an image.

    Attributes:
        crops: of one image: its rectangle, perhaps mirrored, as a square.
        size: side of the view, which is the middle of this square after it is turned.
        angle: by which it is turned counter-clockwise about its centre, degrees.
        colours: whether they are changed.
    """

    crops: Crops
    size: int
    angle: float = 0.0
    colours: bool = False

    @property
    def margin(self) -> int:
        return (self.crops.size - self.size) // 2

    def zoom_over(self, other: Look) -> float:
        """Pixels of this view for one of the other."""
        return float(self.crops.zoom[0, 0] / other.crops.zoom[0, 0])

    def carry(self, boxes: Tensor, other: Look) -> Tensor:
        """Boxes (K, 4) of this view in the frame of another that is not turned.

        Boxes stay upright and keep their sizes in the image; where the view is turned, their centres turn.
        """
        return geometry.between(self._upright(boxes + self.margin)[None], self.crops, other.crops)[0]

    def _upright(self, boxes: Tensor) -> Tensor:
        """Boxes of the turned square in the square before it was turned."""
        if not self.angle:
            return boxes
        cos, sin = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        middle = self.crops.size / 2
        x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2 - middle).unbind(1)
        centres = torch.stack([cos * x - sin * y, sin * x + cos * y], 1) + middle
        half = (boxes[:, 2:] - boxes[:, :2]) / 2
        return torch.cat([centres - half, centres + half], 1)


def _look(box: list[float], flip: bool, side: int, size: int, angle: float = 0.0, colours: bool = False) -> Look:
    crops = Crops(torch.tensor([box], dtype=torch.float64), torch.tensor([flip]), side)
    return Look(crops, size, angle, colours)
