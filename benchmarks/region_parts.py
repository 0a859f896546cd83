"""The region parts alone, each beside what it takes the place of, in turns on one core in one run.

    python -m benchmarks.region_parts --out FILE.json

- SCRL's boxes: the batched sampler beside the published way, one image, box and attempt at a time with NumPy's scalars.
- R2O's k-means beside scikit-learn's, group by group: its greedy k-means++, then its Lloyd's rounds from our seeds, as
  many as ours.
- Region logits in blocks beside the whole matrix, forward and backward: processor time and peak memory.

Processor time, so that other work on the machine does not count; medians, and the range over the median as spread.
"""

from __future__ import annotations

import resource
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.published_boxes import PublishedBoxes
from benchmarks.results import command_line, facts, in_new_process, show, write_json
from regionssl import counted
from regionssl.counted import Stream
from regionssl.data.views import ViewPlan, ViewSpec, draw_crops
from regionssl.geometry import Crops
from regionssl.methods.losses import LOGITS_AT_ONCE, info_nce, unit
from regionssl.regions.boxes import BoxSamplerConfig, draw_boxes
from regionssl.regions.clusters import draws_shape, k_means, seed_centres

IMAGE_SIDES = ((375, 500), (500, 375), (333, 500), (500, 500), (480, 640))


def in_turns(functions: Sequence[Callable[[], object]], repeats: int) -> list[tuple[float, float]]:
    """Median milliseconds of processor time of each function, and the range of its middle half over the median."""
    taken: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats + 1):
        for times, function in zip(taken, functions, strict=True):
            start = time.process_time()
            function()
            if turn:
                times.append(1000 * (time.process_time() - start))
    quarters = [np.percentile(times, [25, 50, 75]) for times in taken]
    return [(float(middle), float((high - low) / middle)) for low, middle, high in quarters]


def side_by_side(case: str, ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> dict[str, Any]:
    """A row of two medians, their ratio and spreads."""
    (fast, fast_spread), (slow, slow_spread) = in_turns([ours, theirs], repeats)
    return {
        "case": case,
        "ours_ms": fast,
        "theirs_ms": slow,
        "ratio": slow / fast,
        "ours_spread": fast_spread,
        "theirs_spread": slow_spread,
    }


def random_views(images: int, size: int = 224) -> tuple[Crops, Crops]:
    """Two views of so many images, as training draws them."""
    plan = ViewPlan(views=(ViewSpec(), ViewSpec()))
    records = []
    for number in range(images):
        height, width = IMAGE_SIDES[number % len(IMAGE_SIDES)]
        drawn = draw_crops(plan, width, height, counted.generator(3, Stream.VIEWS, 0, number))
        records.append([[c.left, c.top, c.left + c.width, c.top + c.height, c.flip] for c in drawn])
    table = torch.tensor(records, dtype=torch.float64)
    first, second = (Crops(table[:, view, :4], table[:, view, 4].bool(), size) for view in (0, 1))
    return first, second


def sampler_rows(batches: Sequence[int] = (64, 256), repeats: int = 15) -> list[dict[str, Any]]:
    """SCRL's sampler, ten boxes an image."""
    torch.set_num_threads(1)
    config, rows = BoxSamplerConfig(), []
    for images in batches:
        first, second = random_views(images)
        index, published = torch.arange(images), PublishedBoxes(config, np.random.RandomState(0))
        rows.append(
            side_by_side(
                f"boxes of {images} images",
                lambda a=first, b=second, i=index: draw_boxes(config, a, b, 0, 0, i),
                lambda a=first, b=second, p=published: p.batch(a, b),
                repeats,
            )
        )
    return rows


def clustered_rows(groups: int, rows: int, width: int, seed: int = 0) -> Tensor:
    """Unit rows (groups, rows, width) in 40 loose clusters, as the features of regions are."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(groups, 40, width, generator=generator)
    own = torch.randint(0, 40, (groups, rows, 1), generator=generator).expand(-1, -1, width)
    return unit(0.6 * centres.gather(1, own) + torch.randn(groups, rows, width, generator=generator))


def k_means_rows(repeats: int = 5) -> list[dict[str, Any]]:
    """R2O's clustering of 32 images, 100 superpixels and c4 of ResNet-18, or 30 (small recipe); then per image."""
    from sklearn.cluster import KMeans, kmeans_plusplus

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # scikit-learn says that the rounds it was given ended
    table = []
    for groups, rows, clusters in (
        (1, 3200, 128),
        (1, 3200, 16),
        (1, 3200, 4),
        (1, 960, 64),
        (1, 960, 3),
        (8, 960, 16),
        (32, 100, 8),
        (32, 100, 16),
    ):
        data = clustered_rows(groups, rows, 256)
        draws = torch.rand(groups, *draws_shape(clusters), generator=torch.Generator().manual_seed(1))
        seeds = seed_centres(data, clusters, draws, torch.ones(groups, rows, dtype=torch.bool))
        starts = data.take_along_dim(seeds[..., None], 1).numpy()
        rounds = k_means(data, clusters, draws).rounds.tolist()

        def theirs(
            data: Tensor = data, clusters: int = clusters, starts: np.ndarray = starts, rounds: list[int] = rounds
        ) -> None:
            for group, start, count in zip(data.numpy(), starts, rounds, strict=True):
                kmeans_plusplus(group, clusters, random_state=0)
                KMeans(clusters, init=start, n_init=1, max_iter=count, tol=0).fit(group)

        def ours(data: Tensor = data, clusters: int = clusters, draws: Tensor = draws) -> None:
            k_means(data, clusters, draws)

        table.append(side_by_side(f"k-means, {groups} x {rows} rows, K = {clusters}", ours, theirs, repeats))
    return table


def dense_info_nce(query: Tensor, positive: Tensor, negatives: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy over the whole matrix of logits, as the published codes have it."""
    own = (query * positive).sum(-1, keepdim=True)
    logits = torch.cat([own, query @ negatives.T], 1) / temperature
    losses = F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64), reduction="none")
    return losses, (logits.detach().argmax(1) == 0).float()


def logits_step(blockwise: bool, queries: int, negatives: int, width: int, repeats: int) -> dict[str, float]:
    """Median milliseconds of forward and backward, and MiB that the process grew by."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    query, positive, others = (
        unit(torch.randn(rows, width, generator=generator)) for rows in (queries, queries, negatives)
    )
    query.requires_grad_()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    milliseconds = []
    for _ in range(repeats + 1):
        start = time.process_time()
        losses, _ = (info_nce if blockwise else dense_info_nce)(query, positive, others, 0.2)
        losses.mean().backward()
        milliseconds.append(1000 * (time.process_time() - start))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"ms": statistics.median(milliseconds[1:]), "mib": grown}


def logits_rows(repeats: int = 3) -> list[dict[str, Any]]:
    """ReSim's P3 of 32 images at 224 px, its P4, MoCo's queue, and the P4 of 128 px, whose logits are one block."""
    table = []
    for name, queries, negatives, width in (
        ("P3, 224 px", 2048, 21632, 256),
        ("P4, 224 px", 1152, 4608, 256),
        ("queue of 65,536", 256, 65536, 128),
        ("P4, 128 px", 1152, 1152, 256),
    ):
        whole, blocks = (
            in_new_process(logits_step, blockwise, queries, negatives, width, repeats) for blockwise in (False, True)
        )
        table.append(
            {
                "case": f"{name}: {queries:,} x {negatives + 1:,}",
                "blocks": -(-queries * negatives // LOGITS_AT_ONCE),
                "ours_ms": blocks["ms"],
                "dense_ms": whole["ms"],
                "time_ratio": whole["ms"] / blocks["ms"],
                "ours_mib": blocks["mib"],
                "dense_mib": whole["mib"],
            }
        )
    return table


def tables(repeats: int = 5) -> dict[str, list[dict[str, Any]]]:
    """All three parts, in processes of their own."""
    return {
        "boxes": in_new_process(sampler_rows, (64, 256), 3 * repeats),
        "k_means": in_new_process(k_means_rows, repeats),
        "logits": logits_rows(min(repeats, 3)),
    }


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    found = tables(options.repeats)
    for name, rows in found.items():
        show(name, rows)
    write_json(options.out, facts("cpu"), found)


if __name__ == "__main__":
    main()
