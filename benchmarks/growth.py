"""How the time per image grows along the axes that a user can turn: fitted exponents, on the CPU in one run.

    python -m benchmarks.growth --out FILE.json

``time per image ~ axis ** exponent`` by least squares of logarithms; 0 if an image costs the same however large the
axis. The batch and the view size are of a whole forward and backward pass of a backbone (ResNet-18, fp32); the others
are of the region part alone, forward and backward where it has a gradient. Processor time, the least of some repeats.
Where a fixed cost is large beside what grows, the exponent is below that of the arithmetic, which stands beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.region_parts import clustered_rows, random_views
from benchmarks.results import command_line, facts, show, write_json
from regionssl.backbones.encoder import Encoder, EncoderConfig
from regionssl.backbones.pooling import precise_roi_pool, roi_align_pool
from regionssl.methods.affinity import distillation, teacher_rows
from regionssl.methods.losses import info_nce, unit
from regionssl.methods.region_contrast import contrast_drawn_points
from regionssl.regions.boxes import BoxSamplerConfig, draw_boxes
from regionssl.regions.clusters import draws_shape, k_means
from regionssl.regions.points import RegionPoints, interpolation

Part = tuple[int, Callable[[], object]]
"""How many images a call does, and the call."""


def network(size: int, batch: int) -> Part:
    encoder = Encoder(EncoderConfig(name="resnet18"), size=size, maps=("c5",)).to(memory_format=torch.channels_last)
    views = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    return batch, lambda: encoder(views)["c5"].sum().backward()


def boxes(count: int, images: int = 64) -> Part:
    first, second = random_views(images)
    config = BoxSamplerConfig(boxes=count)
    return images, lambda: draw_boxes(config, first, second, 0, 0, torch.arange(images))


def box_rows(count: int, images: int = 16) -> Part:
    """RoIAlign of boxes of c5 at 224 px."""
    features = torch.randn(images, 512, 7, 7, requires_grad=True)
    corner = 100 * torch.rand(images, count, 2)
    regions = torch.cat([corner, corner + 32 + 80 * torch.rand(images, count, 2)], -1)
    return images, lambda: roi_align_pool(features, regions, 32).sum().backward()


def windows(count: int, images: int = 32) -> Part:
    """ReSim's P4 of a group at 224 px: pooling of ``count`` windows, and logits against 144 cells of each image."""
    features = torch.randn(images, 256, 14, 14, requires_grad=True)
    corner = 170 * torch.rand(images, count, 2)
    places = torch.cat([corner, corner + 48], -1)
    keys, negatives = unit(torch.randn(images * count, 256)), unit(torch.randn(images * 144, 256))

    def call() -> None:
        query = unit(precise_roi_pool(features, places, 16)).flatten(0, 1)
        info_nce(query, keys, negatives, 0.2)[0].mean().backward()

    return images, call


def points(count: int, images: int = 32) -> Part:
    """PLRC's contrast of ``count`` points in one region of each view, among ``images`` images."""
    rows = unit(torch.randn(images, 2, 1, count, 128)).requires_grad_()
    drawn = RegionPoints(
        torch.randint(0, 3136, (images, 2, 1, count)),
        torch.zeros(images, 2, 1, dtype=torch.int64),
        torch.ones(images, dtype=torch.bool),
    )
    return images, lambda: contrast_drawn_points(rows, drawn, 0.2, False, False).backward()


def lattice(side: int, images: int = 8) -> Part:
    """PLRC's distillation on a lattice of ``side`` x ``side``, 512 prototypes; the views overlap by a half."""
    width = side**2 + 512
    factors = torch.randn(images, 49, width, requires_grad=True)
    reading = interpolation(side, 7, factors.detach())
    views = [torch.tensor([box] * images, dtype=torch.float64) for box in ([0, 0, 0.6, 0.6], [0.2, 0.2, 0.8, 0.8])]

    def call() -> None:
        taught = teacher_rows(factors.detach(), (views[0], views[1]), reading, 0.5, 0.07, torch.zeros(width))
        distillation(factors, taught.pull, taught.partners, reading, 0.1).sum().backward()

    return images, call


def clusters(count: int, images: int = 32) -> Part:
    """R2O's k-means of 30 superpixels of each of 32 images: seeding and 5 rounds."""
    rows = clustered_rows(1, 30 * images, 256)
    draws = torch.rand(1, *draws_shape(count))
    return images, lambda: k_means(rows, count, draws, rounds=5, tolerance=0)


AXES: tuple[tuple[str, str, Callable[[int], Part], Sequence[int], str], ...] = (
    ("batch", "network, 64 px", lambda batch: network(64, batch), (8, 16, 32, 64), "0"),
    ("view size", "network, batch 4", lambda size: network(size, 4), (96, 128, 192, 256), "2"),
    ("batch", "SCRL's boxes", lambda images: boxes(10, images), (32, 64, 128, 256), "0"),
    ("boxes", "SCRL's boxes", boxes, (5, 10, 20, 40), "1 to 2"),
    ("boxes", "RoIAlign", box_rows, (5, 10, 20, 40), "1"),
    ("windows", "ReSim's P4", windows, (9, 18, 36, 72), "1"),
    ("batch", "ReSim's P4, one group", lambda images: windows(36, images), (8, 16, 32, 64), "1"),
    ("points", "PLRC's contrast", points, (8, 16, 32, 64), "2"),
    ("lattice side", "PLRC's affinities", lattice, (12, 16, 24, 32), "2 to 4"),
    ("K", "R2O's k-means", clusters, (8, 16, 32, 64), "1"),
)


def seconds(call: Callable[[], object], repeats: int) -> float:
    """The least processor time of a call."""
    call()
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return min(taken)


def grow(axis: str, part: str, make: Callable[[int], Part], values: Sequence[int], expected: str) -> dict[str, Any]:
    """A row: milliseconds per image at the ends of an axis, and the exponent."""
    times = []
    for value in values:
        torch.manual_seed(0)
        images, call = make(value)
        times.append(1000 * seconds(call, 5) / images)
    exponent, offset = np.polyfit(np.log(values), np.log(times), 1)
    residual = np.log(times) - (exponent * np.log(values) + offset)
    return {
        "axis": axis,
        "part": part,
        "from": values[0],
        "to": values[-1],
        "ms_per_image_first": times[0],
        "ms_per_image_last": times[-1],
        "exponent": float(exponent),
        "largest_misfit": float(np.abs(np.expm1(residual)).max()),
        "arithmetic": expected,
    }


def rows() -> list[dict[str, Any]]:
    """All axes."""
    torch.set_num_threads(1)
    return [grow(*axis) for axis in AXES]


def main() -> None:
    options = command_line(__doc__).parse_args()
    found = rows()
    show("growth of the time per image", found)
    write_json(options.out, facts("cpu"), {"growth": found})


if __name__ == "__main__":
    main()
