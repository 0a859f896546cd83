"""From an image of a list to what a network takes, and who reads it."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from regionssl.data.decode import UnreadableImage
from regionssl.data.image_list import ImageList
from regionssl.data.scan import usable_cores
from regionssl.engine.distributed import current_world
from regionssl.errors import InputError

_WORKERS = 8


def worker_count(device: torch.device) -> int:
    """Processes that read images for this one; none on a CPU, which they would only slow down.

    Each GPU of the machine has its share of the cores, for another process may use it.
    """
    if device.type != "cuda":
        return 0
    return min(_WORKERS, max(1, usable_cores() // max(1, current_world().size, torch.cuda.device_count())))


def load_image(images: ImageList, i: int) -> Image.Image:
    """Image ``i``, upright RGB.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return images.load(i)
    except UnreadableImage as error:
        raise InputError(f"the image {images.names[i]} {error}; repair it, or drop it and its labels") from error


def standardise(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Images (N, 3, H, W), uint8 or float32 in 0..1, as the network takes them: ``(value - mean) / std``."""
    values = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
    middle, spread = (torch.tensor(numbers, device=pixels.device).view(3, 1, 1) for numbers in (mean, std))
    return (values - middle) / spread
