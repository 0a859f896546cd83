"""How an image is copied into a pack."""

from __future__ import annotations

import io
from typing import Any, Literal

from PIL import Image, features
from pydantic import Field, field_validator

from regionssl.config import Config
from regionssl.data.bitmaps import write_bitmap
from regionssl.data.decode import SHORTEST_SIDE, decode, is_upright_rgb_jpeg


class PackConfig(Config):
    """What an image in a pack is.

    Attributes:
        format: "jpeg", or "raw": a bitmap, which needs no decoding.
        short_side: pixels that a longer shortest side is reduced to; 0 leaves every size as it is.
        quality: of JPEGs that are written (4:2:0).
    """

    format: Literal["jpeg", "raw"] = "jpeg"
    short_side: int = 448
    quality: int = Field(95, ge=1, le=100)

    @field_validator("short_side")
    @classmethod
    def _not_too_short(cls, value: int) -> int:
        if value != 0 and value < SHORTEST_SIDE:
            raise ValueError(f"a side of at least {SHORTEST_SIDE} pixels, or 0 for no resizing, got {value}")
        return value

    @property
    def settings(self) -> dict[str, Any]:
        """The values that decide the bytes."""
        return self.model_dump(exclude={"quality"} if self.format == "raw" else None)

    @property
    def libraries(self) -> dict[str, str]:
        """The versions that decide the bytes."""
        codec = "libjpeg_turbo" if features.check("libjpeg_turbo") else "jpg"
        return {"pillow": Image.__version__, codec: str(features.version(codec))}


def packed(content: bytes, config: PackConfig) -> bytes:
    """The file that stands for an image file: upright RGB, no shorter side above the limit.

    A JPEG that is upright RGB and small enough already stays as it is, to the byte, in a pack of JPEGs.

    Raises:
        UnreadableImage: it cannot be decoded.
    """
    image = decode(content)
    small = reduce(image, config.short_side)
    if config.format == "raw":
        return write_bitmap(small)
    if small is image and is_upright_rgb_jpeg(content):
        return content
    file = io.BytesIO()
    small.save(file, "JPEG", quality=config.quality, subsampling="4:2:0")
    return file.getvalue()


def reduce(image: Image.Image, short_side: int) -> Image.Image:
    """The image with its shortest side reduced to ``short_side`` pixels (Lanczos); itself if not longer, or for 0."""
    shortest = min(image.size)
    if not short_side or shortest <= short_side:
        return image
    width, height = (max(short_side, round(side * short_side / shortest)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)
