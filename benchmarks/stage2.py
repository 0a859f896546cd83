"""ORL's second stage: what each part costs an image, and the time of a larger set predicted from two smaller ones.

    python -m benchmarks.stage2 --device cpu --out FILE.json

Every part should be a fixed cost (starting processes, loading a network) and one by image, but for the search of
neighbours, whose multiplications grow with the square; a second table sets that search against the matrix product that
it cannot do without.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.results import command_line, facts, show, write_json
from regionssl.backbones.encoder import EncoderConfig
from regionssl.build import load_config
from regionssl.data.images import find_images, scan
from regionssl.data.scenes import write_scenes
from regionssl.regions.neighbours import NearestImages
from regionssl.stores.build import Share
from regionssl.verbs.correspond import Stage
from regionssl.verbs.correspond_work import NetworkSource

SIZES = (24, 72, 216)  # images: two to learn the costs from, one to predict
SIDE = 224
NEIGHBOURS = 10


def seconds_by_part(images: int, device: str, backbone: str) -> dict[str, float]:
    """Seconds of every part of stage 2 of ``orl_small`` on generated pictures."""
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder) / "pictures", images, size=SIDE, labels=False)
        found, _ = scan(find_images(Path(folder) / "pictures"))
        config = load_config("orl_small", {}).method.correspondence  # type: ignore[attr-defined]
        network = NetworkSource(backbone=EncoderConfig(name=backbone))
        stage = Stage(found, network, Path(folder), config, Share(1), device, Console(quiet=True))
        stage.run(None)
        return stage.seconds


def parts(device: str, backbone: str = "resnet18") -> list[dict[str, Any]]:
    """One row a part."""
    small, middle, large = (seconds_by_part(images, device, backbone) for images in SIZES)
    rows = []
    for part in small:
        by_image = (middle[part] - small[part]) / (SIZES[1] - SIZES[0])
        predicted = middle[part] + by_image * (SIZES[2] - SIZES[1])
        rows.append(
            {
                "part": part,
                "fixed_seconds": small[part] - by_image * SIZES[0],
                "ms_an_image": 1000 * by_image,
                f"predicted_seconds_of_{SIZES[2]}": predicted,
                "measured_seconds": large[part],
                "measured_over_predicted": large[part] / predicted,
            }
        )
    return rows


def search(device: str, images: int = 20_000, width: int = 256, block: int = 1024) -> list[dict[str, Any]]:
    """The search of neighbours of a block of images against the matrix product alone."""
    bank = torch.nn.functional.normalize(torch.randn(images, width, device=device), dim=1)
    rows, nearest = torch.arange(block, device=device), NearestImages(bank)

    def seconds(work: Any) -> float:
        times = []
        for _ in range(4):
            began = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        return min(times[1:])

    searched, product = seconds(lambda: nearest.of(rows, NEIGHBOURS)), seconds(lambda: bank[rows] @ bank.T)
    whole = searched * images / block
    return [
        {
            "search": f"{block} of {images} images, {width} numbers, {NEIGHBOURS} neighbours",
            "ms": 1000 * searched,
            "matrix_product_ms": 1000 * product,
            "search_over_product": searched / product,
            "minutes_for_118287_images": whole * (118_287 / images) ** 2 / 60,
        }
    ]


def main() -> None:
    parser = command_line(__doc__, ["cpu", "cuda"])
    parser.add_argument("--backbone", default="resnet18")
    options = parser.parse_args()
    found, searched = parts(options.device, options.backbone), search(options.device)
    show("stage 2 of ORL, by part", found)
    show("nearest images", searched)
    write_json(options.out, facts(options.device), {"stage2": found, "search": searched})


if __name__ == "__main__":
    main()
