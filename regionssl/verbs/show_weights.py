"""The picture of a file of weights: what it tells apart in images, beside the same network before any training."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from rich.console import Console

from regionssl.data.images import ImageList, find_images, scan
from regionssl.data.photometric import normalise
from regionssl.errors import InputError
from regionssl.evaluation.start import Start, open_start, take_statistics
from regionssl.report.features import feature_maps_figure
from regionssl.verbs.features import centre_view

_ENDINGS = (".pth", ".pt", ".pkl", ".safetensors", ".pth.tar", ".ckpt", ".bin")
_SIDE = 448
_SHOWN_MAP = "c4"


def is_weights(source: Path) -> bool:
    """Whether a path is a file of weights by its name; ``.pth.tar`` is one, ``.tar`` holds images."""
    return source.is_file() and source.name.lower().endswith(_ENDINGS)


def show_weights(
    file: Path, out: Path, data: Path | None, backbone: str | None, samples: int, image_root: Path | None
) -> Path:
    """Draw features.png: map c4 of images by the file's backbone, and by one with random weights.

    Args:
        data: the images.
        backbone: timm name.

    Returns:
        The folder of the picture.

    Raises:
        InputError: images or backbone are not named, or the file cannot be used.
    """
    if data is None:
        raise InputError(f"{file} is a file of weights; name images to show it on: --data IMAGES")
    start = open_start(str(file), backbone)
    images, _ = scan(find_images(data, image_root))
    picture = draw(start, images, min(samples, len(images)))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder --out {out}: {error.strerror}") from error
    picture.save(out / "features.png")
    Console().print(f"wrote {out / 'features.png'}", highlight=False, markup=False, soft_wrap=True)
    return out


@torch.no_grad()
def draw(start: Start, images: ImageList, samples: int) -> Image.Image:
    """The first images, and below them the main directions of their features as colours, a row per network."""
    squares = torch.stack([centre_view(images.load(index), _SIDE, _SIDE) for index in range(samples)])
    inputs = normalise(squares.float() / 255)
    begun = Start("random start", "random", start.config, start.size).encoder()
    take_statistics(begun, inputs)
    networks = {"random start": begun, start.name: start.encoder().eval()}
    rows = {
        name: torch.cat([network(image[None])[_SHOWN_MAP] for image in inputs]) for name, network in networks.items()
    }
    pictures = [Image.fromarray(square.permute(1, 2, 0).contiguous().numpy()) for square in squares]
    return feature_maps_figure(pictures, rows, f"{start.name}: {_SHOWN_MAP} of {start.config.name}")
