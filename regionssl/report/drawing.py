"""Drawing primitives of the figures: colours that colour-blind readers can tell apart, panels, outlines, text."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Edges = tuple[int, int, int, int]

# The palette of Okabe and Ito.
BLUE, VERMILLION, GREEN, PURPLE = (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167)
SKY, ORANGE, YELLOW = (86, 180, 233), (230, 159, 0), (240, 228, 66)
PAPER, INK, MUTED, LINE = (255, 255, 255), (34, 34, 34), (112, 112, 112), (222, 222, 222)

TEXT, SMALL = 18, 15


@dataclass(frozen=True)
class Panel:
    """Where a picture lies on the canvas: its top-left corner, its extent, and canvas pixels per picture pixel."""

    left: int
    top: int
    width: int
    height: int
    scale: float

    @property
    def edges(self) -> Edges:
        return self.left, self.top, self.left + self.width, self.top + self.height

    def place(self, box: Sequence[float]) -> Edges:
        """A box x0, y0, x1, y1 of the picture as whole canvas edges, inside the panel and at least one pixel wide."""
        x0, x1 = (min(max(round(x * self.scale), 0), self.width) for x in (box[0], box[2]))
        y0, y1 = (min(max(round(y * self.scale), 0), self.height) for y in (box[1], box[3]))
        x0, y0 = min(x0, self.width - 1), min(y0, self.height - 1)
        return self.left + x0, self.top + y0, self.left + max(x1, x0 + 1), self.top + max(y1, y0 + 1)


@lru_cache(maxsize=8)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font."""
    return ImageFont.load_default(size)


def text_width(text: str, size: int) -> float:
    """Width in pixels."""
    return float(font(size).getlength(text))


def shorten(text: str, width: float, size: int) -> str:
    """Text in letters that the font has, cut in the middle until it is at most ``width`` pixels wide."""
    text = unicodedata.normalize("NFKC", text).encode("latin-1", "replace").decode("latin-1")
    shown, keep = text, len(text)
    while keep > 2 and text_width(shown, size) > width:
        keep -= 1
        shown = f"{text[: keep // 2]}...{text[-((keep + 1) // 2) :]}"
    return shown


def contrast(colour: Colour) -> Colour:
    """Black or white, whichever reads better on ``colour``."""
    red, green, blue = colour
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else PAPER


def fit(image: Image.Image, width: int, height: int) -> tuple[Image.Image, float]:
    """The picture scaled to fit a rectangle, and the scale."""
    scale = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS), scale


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from ``low`` to ``high``, about ``count`` of them."""
    raw = max(high - low, 1e-12 * max(abs(low), abs(high), 1.0)) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.65 * raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


class Canvas:
    """A picture being drawn. Coordinates are edges in pixels; colours with a fourth value are laid over thinly."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), PAPER)
        self.draw = ImageDraw.Draw(self.image, "RGBA")

    def paste(self, picture: Image.Image, panel: Panel) -> None:
        """The picture, resized if need be, on a panel."""
        size = (panel.width, panel.height)
        self.image.paste(
            picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC), panel.edges
        )

    def write(self, x: float, y: float, text: str, size: int = TEXT, ink: Colour = INK, anchor: str = "lm") -> None:
        """Text at (x, y): by default its left end and its middle line."""
        self.draw.text((x, y), text, font=font(size), fill=ink, anchor=anchor)

    def tag(self, edges: Edges, text: str, colour: Colour, size: int = SMALL) -> None:
        """A number on a small plate in the middle of a rectangle."""
        x, y = (edges[0] + edges[2]) / 2, (edges[1] + edges[3]) / 2
        half_width, half_height = max(text_width(text, size) / 2 + 4, size / 2 + 2), size / 2 + 2
        plate = (x - half_width, y - half_height, x + half_width, y + half_height)
        self.draw.rounded_rectangle(plate, radius=4, fill=colour, outline=contrast(colour))
        self.write(x, y, text, size, contrast(colour), "mm")

    def outline(self, edges: Edges, colour: tuple[int, ...], width: int = 3, halo: bool = True) -> None:
        """A rectangle, drawn inside its edges; dark hairlines set it off from the picture if ``halo``."""
        x0, y0, x1, y1 = edges
        width = max(1, min(width, (x1 - x0) // 2, (y1 - y0) // 2))
        if halo:
            self.draw.rectangle((x0 - 1, y0 - 1, x1, y1), outline=(0, 0, 0, 130))
            if min(x1 - x0, y1 - y0) > 2 * width + 2:
                inner = (x0 + width, y0 + width, x1 - width - 1, y1 - width - 1)
                self.draw.rectangle(inner, outline=(0, 0, 0, 130))
        self.draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=colour, width=width)

    def dashed(self, edges: Edges, colour: tuple[int, ...], width: int = 2, dash: int = 7) -> None:
        """A dashed rectangle, drawn inside its edges."""
        x0, y0, x1, y1 = edges
        for start in range(x0, x1, 2 * dash):
            end = min(start + dash, x1) - 1
            self.draw.rectangle((start, y0, end, y0 + width - 1), fill=colour)
            self.draw.rectangle((start, y1 - width, end, y1 - 1), fill=colour)
        for start in range(y0 + 2 * dash, y1 - width, 2 * dash):
            end = min(start + dash, y1) - 1
            self.draw.rectangle((x0, start, x0 + width - 1, end), fill=colour)
            self.draw.rectangle((x1 - width, start, x1 - 1, end), fill=colour)

    def corner(self, edges: Edges, right: bool, colour: Colour, side: int) -> None:
        """A filled triangle in the top-left, or top-right, corner of a rectangle."""
        x0, y0, x1, y1 = edges
        side = min(side, x1 - x0 - 1, y1 - y0 - 1)
        x, inwards = (x1 - 1, -side) if right else (x0, side)
        self.draw.polygon([(x, y0), (x + inwards, y0), (x, y0 + side)], fill=colour)
