"""SCRL's box sampler against the slow per-image sampler of the specification and the release's own boxes.

``golden/scrl_boxes_*.npz`` were made by the authors' generator from stored crops and NumPy seeds (SCRL, section 8).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.published_boxes import Box, clipped, overlap_ratio
from regionssl import counted, geometry
from regionssl.counted import Stream
from regionssl.data.views import ViewPlan, ViewSpec, draw_crops
from regionssl.geometry import Crops
from regionssl.regions.boxes import BoxPairs, BoxSamplerConfig, draw_boxes, sample_at_once, sample_boxes

GOLDEN = Path(__file__).parents[1] / "golden"
RANDOM = ["default", "jitter", "nogrid", "iou1", "k3"]


# The oracle: one image, one box, one attempt at a time, from the specification's sections 2.3 to 2.5.


class LegacyNumpy:
    """The release's source of draws: NumPy's legacy generator. Keeps what it drew."""

    def __init__(self, seed: int) -> None:
        self.state = np.random.RandomState(seed)
        self.integers: list[tuple[float, float, float]] = []
        self.uniforms: dict[tuple[int, int, int], list[float]] = {}

    def begin(self, image: int, box: int, attempt: int) -> None:
        self.current = self.uniforms.setdefault((image, box, attempt), [])

    def integer(self, low: int, high: float) -> int:
        value = int(self.state.randint(low, int(high)))
        self.integers.append((low, high, value))
        self.current.append((value - low + 0.5) / (int(high) - low))
        return value

    def unit(self) -> float:
        value = float(self.state.random_sample())
        self.current.append(value)
        return value


class GivenUniforms:
    """Draws from an array (N, K, attempts, draws) of uniform numbers."""

    def __init__(self, uniform: Tensor) -> None:
        self.uniform = uniform.numpy()

    def begin(self, image: int, box: int, attempt: int) -> None:
        self.row: Iterator[float] = iter(self.uniform[image, box, attempt].tolist())

    def integer(self, low: int, high: float) -> int:
        return low + math.floor(next(self.row) * (int(high) - low))

    def unit(self) -> float:
        return next(self.row)


Source = LegacyNumpy | GivenUniforms


@dataclass
class Official:
    """The slow sampler of one image after another."""

    config: BoxSamplerConfig
    source: Source
    size: int = 224

    def image(self, n: int, t1: list[int], t2: list[int]) -> list[tuple[Box, Box]] | None:
        (y1, x1, h1, w1, _), (y2, x2, h2, w2, _) = t1, t2
        left, right = max(x1, x2), min(x1 + w1, x2 + w2)
        top, bottom = max(y1, y2), min(y1 + h1, y2 + h2)
        if left >= right or top >= bottom:
            return None
        a, b = min(self.size / w1, self.size / w2), min(self.size / h1, self.size / h2)
        width, height = round((right - left) * a), round((bottom - top) * b)
        if width <= self.config.min_size or height <= self.config.min_size:
            return None
        pairs: list[tuple[Box, Box]] = []
        for k in range(self.config.boxes):
            for attempt in range(self.config.attempts):
                self.source.begin(n, k, attempt)
                canvas_box = self.grid(width, height) if self.config.grid else self.anywhere(width, height)
                first = self.place(canvas_box, t1, left, top, a, b)
                second = self.place(canvas_box, t2, left, top, a, b)
                if self.config.jitter:
                    second = self.jitter(second)
                if k == 0 or self.config.max_iou == 1 or self.diverse(first, pairs):
                    break
            pairs.append((clipped(first, self.size), clipped(second, self.size)))
        return pairs

    def grid(self, width: int, height: int) -> tuple[int, int, int, int]:
        draw, m = self.source.integer, self.config.min_size
        nx, ny = draw(1, width // m + 1), draw(1, height // m + 1)
        gw, gh = width / nx, height / ny
        cx, cy = draw(0, nx), draw(0, ny)
        bw, bh = draw(m, gw + 1), draw(m, gh + 1)
        ox, oy = draw(0, gw - bw + 1), draw(0, gh - bh + 1)
        return ox + math.floor(cx * gw), oy + math.floor(cy * gh), bw, bh

    def anywhere(self, width: int, height: int) -> tuple[int, int, int, int]:
        draw, m = self.source.integer, self.config.min_size
        bw, bh = draw(m, width), draw(m, height)
        return draw(0, width - bw), draw(0, height - bh), bw, bh

    def place(self, box: tuple[int, int, int, int], t: list[int], left: int, top: int, a: float, b: float) -> Box:
        bx, by, bw, bh = box
        y, x, h, w, flip = t
        ai, bi, ia, ib = self.size / w, self.size / h, 1 / a, 1 / b
        x0 = bx * ia * ai + (left - x) * ai
        x1 = x0 + bw * ia * ai
        y0 = by * ib * bi + (top - y) * bi
        y1 = y0 + bh * ib * bi
        return (self.size - x1, y0, self.size - x0, y1) if flip else (x0, y0, x1, y1)

    def jitter(self, box: Box) -> Box:
        low, high = 1 - self.config.jitter, 1 + self.config.jitter
        j = [low + (high - low) * self.source.unit() for _ in range(4)]
        x0, y0, x1, y1 = box
        w, h = x1 - x0, y1 - y0
        x0, y0 = x0 + w * (j[0] - 1), y0 + h * (j[1] - 1)
        return x0, y0, x0 + w * j[2], y0 + h * j[3]

    def diverse(self, candidate: Box, pairs: list[tuple[Box, Box]]) -> bool:
        return max(overlap_ratio(candidate, first) for first, _ in pairs) < self.config.max_iou


def official_rows(sampler: Official, t1: np.ndarray, t2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The release's output: float32 rows (image index, box) of both views."""
    rows: tuple[list[list[float]], list[list[float]]] = ([], [])
    for n, (a, b) in enumerate(zip(t1.tolist(), t2.tolist(), strict=True)):
        for first, second in sampler.image(n, a, b) or []:
            rows[0].append([n, *first])
            rows[1].append([n + len(t1), *second])
    return np.array(rows[0], np.float32), np.array(rows[1], np.float32)


# The vectorised sampler in the release's clothes.


def crops_of(records: np.ndarray, size: int = 224) -> Crops:
    """Crops from rows top, left, height, width, flip."""
    t = torch.from_numpy(np.asarray(records))
    box = torch.stack([t[:, 1], t[:, 0], t[:, 1] + t[:, 3], t[:, 0] + t[:, 2]], 1).double()
    return Crops(box, t[:, 4].bool(), size)


def rows_of(pairs: BoxPairs) -> tuple[np.ndarray, np.ndarray]:
    n = len(pairs.valid)
    images = torch.arange(n)[:, None, None].expand(-1, pairs.first.shape[1], 1)
    first = torch.cat([images, pairs.first], -1)[pairs.valid].flatten(0, 1)
    second = torch.cat([images + n, pairs.second], -1)[pairs.valid].flatten(0, 1)
    return first.float().numpy(), second.float().numpy()


def sampled(config: BoxSamplerConfig, first: Crops, second: Crops, uniform: Tensor) -> BoxPairs:
    """The boxes, which the CPU's way and the GPU's agree on to the last bit."""
    ours, at_once = sample_boxes(config, first, second, uniform), sample_at_once(config, first, second, uniform)
    assert_equal(ours, at_once)
    return ours


def assert_equal(ours: BoxPairs, theirs: BoxPairs) -> None:
    for name in ("first", "second", "valid"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def golden(name: str) -> tuple[dict[str, np.ndarray], BoxSamplerConfig]:
    with np.load(GOLDEN / f"scrl_boxes_{name}.npz") as file:
        data = dict(file)
    values = dict(zip(data["cfg_keys"].tolist(), data["cfg_vals"].tolist(), strict=True))
    config = BoxSamplerConfig(
        boxes=int(values["num_patches_per_image"]),
        max_iou=values["iou_threshold"],
        min_size=int(values["min_size"]),
        grid=name != "nogrid",
        jitter=values["box_jittering_ratio"] if values["box_jittering"] else 0.0,
    )
    return data, config


@pytest.mark.parametrize("name", [*RANDOM, "edge"])
def test_oracle_and_sampler_reproduce_the_release(name: str) -> None:
    data, config = golden(name)
    t1, t2 = data["transf1"], data["transf2"]
    source = LegacyNumpy(int(data["numpy_seed"]))
    first, second = official_rows(Official(config, source), t1, t2)
    np.testing.assert_array_equal(np.array(source.integers), data["draws"])
    np.testing.assert_array_equal(first, data["boxes1"])
    np.testing.assert_array_equal(second, data["boxes2"])

    uniform = torch.zeros(len(t1), *config.draws_shape, dtype=torch.float64)
    for place, draws in source.uniforms.items():
        uniform[place] = torch.tensor(draws, dtype=torch.float64)
    ours = rows_of(sampled(config, crops_of(t1), crops_of(t2), uniform))
    np.testing.assert_array_equal(ours[0], data["boxes1"])
    np.testing.assert_array_equal(ours[1], data["boxes2"])


@pytest.mark.parametrize("grid", [True, False])
@pytest.mark.parametrize(("value", "u"), [("lowest", 0.0), ("middle", 0.5 - 1e-9), ("highest", 1 - 2.0**-53)])
def test_extreme_draws_reproduce_the_release(value: str, u: float, grid: bool) -> None:
    with np.load(GOLDEN / "scrl_boxes_deterministic.npz") as data:
        t1, t2 = data["transf1"], data["transf2"]
        expected = [data[f"boxes{view}_{value}_{'grid' if grid else 'nogrid'}"] for view in (1, 2)]
    config = BoxSamplerConfig(boxes=1, grid=grid)
    uniform = torch.full((len(t1), *config.draws_shape), u, dtype=torch.float64)
    ours = rows_of(sampled(config, crops_of(t1), crops_of(t2), uniform))
    for mine, theirs in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def draws(config: BoxSamplerConfig, count: int, seed: int = 0) -> Tensor:
    return counted.uniform(config.draws_shape, seed, Stream.BOXES, 0, torch.arange(count))


@st.composite
def records(draw: st.DrawFn) -> list[list[int]]:
    """Two crops of an image of up to 700 pixels, of any aspect: top, left, height, width, flip."""
    rows = []
    for _ in range(2):
        top, left = draw(st.integers(0, 300)), draw(st.integers(0, 300))
        rows.append([top, left, draw(st.integers(1, 400)), draw(st.integers(1, 400)), draw(st.integers(0, 1))])
    return rows


@settings(max_examples=60)
@given(
    pairs=st.lists(records(), min_size=1, max_size=6),
    grid=st.booleans(),
    jitter=st.sampled_from([0.0, 0.1, 0.4]),
    max_iou=st.sampled_from([0.05, 0.3, 0.5, 1.0]),
    boxes=st.integers(1, 6),
    attempts=st.sampled_from([1, 3, 12]),
    size_and_least=st.sampled_from([(224, 32), (128, 18), (64, 8), (32, 1)]),
    seed=st.integers(0, 2**32),
)
def test_equals_the_oracle_on_the_same_draws(
    pairs: list[list[list[int]]],
    grid: bool,
    jitter: float,
    max_iou: float,
    boxes: int,
    attempts: int,
    size_and_least: tuple[int, int],
    seed: int,
) -> None:
    size, least = size_and_least
    config = BoxSamplerConfig(boxes=boxes, max_iou=max_iou, min_size=least, grid=grid, jitter=jitter, attempts=attempts)
    t = np.array(pairs)
    uniform = draws(config, len(t), seed)
    views = crops_of(t[:, 0], size), crops_of(t[:, 1], size)
    ours = sampled(config, *views, uniform)
    assert_equal(draw_boxes(config, *views, seed, 0, torch.arange(len(t))), ours)
    oracle = Official(config, GivenUniforms(uniform), size)
    for n, (first, second) in enumerate(pairs):
        expected = oracle.image(n, first, second)
        assert bool(ours.valid[n]) == (expected is not None)
        pairs_of = zip(*(expected or [((0, 0, 1, 1), (0, 0, 1, 1))] * boxes), strict=True)
        for mine, theirs in zip((ours.first[n], ours.second[n]), pairs_of, strict=True):
            torch.testing.assert_close(mine, torch.tensor(theirs, dtype=torch.float64), rtol=0, atol=0)


def random_records(count: int) -> np.ndarray:
    """(count, 2, 5) crops of images of common sizes."""
    sizes = [(375, 500), (500, 375), (333, 500), (500, 500), (480, 640), (1200, 1600), (400, 400)]
    plan = ViewPlan(views=(ViewSpec(), ViewSpec()))
    rows = []
    for i in range(count):
        height, width = sizes[i % len(sizes)]
        crops = draw_crops(plan, width, height, counted.generator(3, Stream.VIEWS, 0, i))
        rows.append([[c.top, c.left, c.height, c.width, c.flip] for c in crops])
    return np.array(rows)


def sample_many(config: BoxSamplerConfig, t: np.ndarray) -> BoxPairs:
    return draw_boxes(config, crops_of(t[:, 0]), crops_of(t[:, 1]), 0, 0, torch.arange(len(t)))


def quantiles(values: Tensor, *at: float) -> list[float]:
    return np.quantile(values.numpy(), at).tolist()


def test_statistics_of_the_release() -> None:
    """SCRL, section 2.6. Its image sizes are not stated, so what depends on them (the tails) has wider tolerances."""
    t = random_records(4000)
    config = BoxSamplerConfig()
    pairs = sample_many(config, t)
    assert pairs.valid.double().mean().item() == pytest.approx(0.9835, abs=0.007)
    first, second = pairs.first[pairs.valid], pairs.second[pairs.valid]
    side = first[..., 2:] - first[..., :2]
    share = geometry.area(first) / 224**2
    assert side.mean().item() == pytest.approx(62, rel=0.015)
    assert quantiles(side, 0.5) == pytest.approx([49], rel=0.015)
    assert quantiles(side, 0.95) == pytest.approx([144], rel=0.05)
    assert quantiles(share, 0.5) == pytest.approx([0.055], rel=0.03)
    assert quantiles(share, 0.05, 0.95) == pytest.approx([0.024, 0.21], rel=0.05)
    shape = quantiles(side[..., 0] / side[..., 1], 0.01, 0.05, 0.5, 0.95, 0.99)
    assert shape == pytest.approx([0.22, 0.33, 1.0, 3.0, 4.5], rel=0.05)
    assert quantiles(geometry.area(second) / geometry.area(first), 0.05, 0.95) == pytest.approx([0.41, 2.47], rel=0.05)
    broken = geometry.iou(first[:, :, None], first[:, None]).tril(-1).amax(-1) >= config.max_iou
    assert broken.double().mean().item() == pytest.approx(0.0008, abs=0.0006)
    assert broken.any(1).double().mean().item() == pytest.approx(0.005, abs=0.0035)

    loose = sample_many(BoxSamplerConfig(max_iou=1), t)
    first = loose.first[loose.valid]
    overlapping = geometry.iou(first[:, :, None], first[:, None]).tril(-1).amax(-1) >= config.max_iou
    assert overlapping.double().mean().item() == pytest.approx(0.089, rel=0.05)

    free = sample_many(BoxSamplerConfig(grid=False), t)
    first = free.first[free.valid]
    assert (first[..., 2:] - first[..., :2]).mean().item() == pytest.approx(95, rel=0.015)
    assert quantiles(geometry.area(first) / 224**2, 0.5) == pytest.approx([0.145], rel=0.03)


@pytest.mark.parametrize("grid", [True, False])
def test_both_boxes_are_the_same_place_in_the_image(grid: bool) -> None:
    t = random_records(1000)
    first, second = crops_of(t[:, 0]), crops_of(t[:, 1])
    pairs = sample_many(BoxSamplerConfig(grid=grid), t)
    gap = (geometry.to_image(pairs.first, first) - geometry.to_image(pairs.second, second)).abs()[pairs.valid]
    half_a_pixel = (0.5 / torch.minimum(first.zoom, second.zoom)).repeat(1, 2)[pairs.valid][:, None]
    assert (gap <= half_a_pixel + 1e-9).all()
    untouched = ((pairs.first > 0) & (pairs.first < 224) & (pairs.second > 0) & (pairs.second < 224))[pairs.valid]
    assert gap[untouched.all(-1)].max() < 1e-9
    assert untouched.all(-1).double().mean() > 0.7


def test_sides_reach_the_least_size_in_the_coarser_view() -> None:
    t = random_records(300)
    pairs = sample_many(BoxSamplerConfig(), t)
    shorter = torch.minimum(pairs.first[..., 2:] - pairs.first[..., :2], pairs.second[..., 2:] - pairs.second[..., :2])
    assert shorter[pairs.valid].min() >= 32 - 0.5 - 1e-9
    for boxes in (pairs.first, pairs.second):
        assert boxes.min() >= 0
        assert boxes.max() <= 224


def test_an_iou_of_exactly_the_limit_is_too_much() -> None:
    """Boxes in the corner of the identical view: 64 x 32, then 32 x 32 (IoU 1/2) refused for 32 x 33."""
    whole = crops_of(np.array([[0, 0, 224, 224, 0]]))
    config = BoxSamplerConfig(boxes=2, grid=False, attempts=3)
    sides = torch.tensor([[[64, 32]] * 3, [[32, 32], [32, 33], [40, 40]]], dtype=torch.float64)
    uniform = torch.cat([(sides - 32 + 0.5) / 192, torch.zeros_like(sides)], -1)
    pairs = sample_boxes(config, whole, whole, uniform[None])
    assert pairs.first.tolist() == pairs.second.tolist() == [[[0, 0, 64, 32], [0, 0, 32, 33]]]


def test_images_without_overlap_get_the_dummy() -> None:
    t1 = np.array([[0, 0, 100, 100, 0], [0, 0, 100, 100, 1], [0, 0, 448, 448, 0], [0, 0, 448, 448, 0]])
    t2 = np.array([[0, 100, 100, 100, 0], [300, 300, 9, 9, 0], [384, 0, 448, 448, 0], [382, 0, 448, 448, 1]])
    config = BoxSamplerConfig()
    pairs = sampled(config, crops_of(t1), crops_of(t2), draws(config, 4))
    assert pairs.valid.tolist() == [False, False, False, True]
    for boxes in (pairs.first, pairs.second):
        assert (boxes[:3] == torch.tensor([0.0, 0.0, 1.0, 1.0])).all()
        assert boxes.isfinite().all()


def test_an_image_does_not_depend_on_its_batch() -> None:
    t = random_records(8)
    config = BoxSamplerConfig(jitter=0.1)
    uniform = draws(config, 8)
    whole = sample_boxes(config, crops_of(t[:, 0]), crops_of(t[:, 1]), uniform)
    rows = torch.tensor([5, 2])
    part = sample_boxes(config, crops_of(t[rows, 0]), crops_of(t[rows, 1]), uniform[rows])
    assert torch.equal(part.first, whole.first[rows])
    assert torch.equal(part.second, whole.second[rows])


def test_no_images_no_boxes() -> None:
    config = BoxSamplerConfig(boxes=4)
    nothing = crops_of(np.zeros((0, 5), dtype=np.int64))
    pairs = draw_boxes(config, nothing, nothing, 0, 0, torch.empty(0, dtype=torch.int64))
    assert_equal(sampled(config, nothing, nothing, draws(config, 0)), pairs)
    assert pairs.first.shape == pairs.second.shape == (0, 4, 4)
    assert pairs.valid.shape == (0,)


@pytest.mark.parametrize("config", [BoxSamplerConfig(), BoxSamplerConfig(max_iou=0.2, jitter=0.1, attempts=7)])
def test_many_images_at_once(config: BoxSamplerConfig) -> None:
    """Images of a batch are settled in different rounds; epoch and positions reach the draws."""
    t, index = random_records(120), torch.arange(120) * 3 + 7
    views = crops_of(t[:, 0]), crops_of(t[:, 1])
    uniform = counted.uniform(config.draws_shape, 5, Stream.BOXES, 2, index)
    assert_equal(draw_boxes(config, *views, 5, 2, index), sample_at_once(config, *views, uniform))
