"""Colours of a batch against torchvision's operators image by image, with the same draws, on one device.

    python -m benchmarks.colours --device cpu --out FILE.json

BYOL's full policy on both views. torchvision's side applies to every image the operators that were drawn for it, on
float tensors on the same device; both sides end normalised, and are compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor

from benchmarks.results import command_line, facts, show, write_json
from regionssl.data.photometric import (
    BYOL_FIRST,
    BYOL_SECOND,
    IMAGENET_MEAN,
    IMAGENET_STD,
    ColourDraws,
    ColourPolicy,
    apply,
    draw,
    stack,
)

CASES = {"cpu": ((32, 128), (16, 224)), "cuda": ((256, 224),)}
POLICIES = (BYOL_FIRST, BYOL_SECOND)
KERNEL = 17  # as wide as ours: four times the largest sigma on each side
REPEATS = 5


def torchvision_apply(images: Tensor, draws: ColourDraws, policy: ColourPolicy) -> Tensor:
    """The same draws by torchvision, image by image."""
    done = []
    for row, image in enumerate(images):
        pixels = F.to_dtype(image, torch.float32, scale=True)
        brightness, contrast, saturation, hue = draws.factors[row].tolist()
        if draws.jitter[row]:
            for operator in draws.order[row].tolist():
                if operator == 0:
                    pixels = F.adjust_brightness(pixels, brightness)
                elif operator == 1:
                    pixels = F.adjust_contrast(pixels, contrast)
                elif operator == 2:
                    pixels = F.adjust_saturation(pixels, saturation)
                else:
                    pixels = F.adjust_hue(pixels, hue)
        if draws.grey[row]:
            pixels = F.rgb_to_grayscale(pixels, num_output_channels=3)
        if draws.blur[row] > 0:
            pixels = F.gaussian_blur(pixels, [KERNEL, KERNEL], [float(draws.blur[row])] * 2)
        if draws.solarise[row]:
            pixels = F.solarize(pixels, 0.5)
        done.append(F.normalize(pixels, list(IMAGENET_MEAN), list(IMAGENET_STD)))
    return torch.stack(done)


def seconds(work: Callable[[], Any], device: str) -> float:
    began = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def row(batch: int, size: int, device: str) -> dict[str, Any]:
    """Milliseconds for two views of a batch by both ways, in turns."""
    rng = np.random.default_rng(0)
    views = [torch.from_numpy(rng.integers(0, 256, (batch, 3, size, size), np.uint8)).to(device) for _ in POLICIES]
    draws = [stack([draw(policy, rng) for _ in range(batch)]) for policy in POLICIES]
    cases = list(zip(views, draws, POLICIES, strict=True))
    ways: dict[str, Callable[[], list[Tensor]]] = {
        "ours": lambda: [apply(*case) for case in cases],
        "torchvision": lambda: [torchvision_apply(*case) for case in cases],
    }
    first = {name: way() for name, way in ways.items()}
    difference = max(float((a - b).abs().max()) for a, b in zip(*first.values(), strict=True))
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, way in ways.items():
            taken[name].append(1000 * seconds(way, device))
    ours, theirs = (statistics.median(taken[name]) for name in ways)
    return {
        "case": f"2 x {batch} views of {size} px, BYOL's policy",
        "ours_ms": ours,
        "torchvision_ms": theirs,
        "ratio": theirs / ours,
        "spread": (max(taken["ours"]) - min(taken["ours"])) / ours,
        "largest_difference": difference,
    }


def rows(device: str) -> list[dict[str, Any]]:
    """All cases of a device."""
    return [row(batch, size, device) for batch, size in CASES[device]]


def main() -> None:
    options = command_line(__doc__, list(CASES)).parse_args()
    found = rows(options.device)
    show("colours of two views", found)
    write_json(options.out, facts(options.device), {"colours": found})


if __name__ == "__main__":
    main()
