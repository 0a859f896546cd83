"""The maps between frames: exact rational oracles, round trips and extreme crops."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regionssl import geometry
from regionssl.geometry import Crops

Rectangle = tuple[int, int, int, int]
FEW = settings(max_examples=60)


def rectangles(least: int = 1, most: int = 10_000) -> st.SearchStrategy[Rectangle]:
    """Crops in whole pixels from ``least`` to ``most`` wide, of any aspect up to most : least."""
    start, extent = st.integers(0, most), st.integers(least, most)
    return st.tuples(start, start, extent, extent).map(lambda r: (r[0], r[1], r[0] + r[2], r[1] + r[3]))


def crops(rectangle: Rectangle, flip: bool = False, size: int = 224) -> Crops:
    return Crops(torch.tensor([rectangle], dtype=torch.float64), torch.tensor([flip]), size)


def tensor(*boxes: tuple[float, ...]) -> Tensor:
    return torch.tensor([boxes], dtype=torch.float64)


@st.composite
def boxes_in(draw: st.DrawFn, low: float = -50, high: float = 300) -> tuple[float, float, float, float]:
    x0, y0 = (draw(st.floats(low, high, allow_subnormal=False)) for _ in range(2))
    w, h = (draw(st.floats(0, high, allow_subnormal=False)) for _ in range(2))
    return x0, y0, x0 + w, y0 + h


def exact_between(
    box: tuple[float, ...], source: Rectangle, flip: bool, target: Rectangle, target_flip: bool, sizes: tuple[int, int]
) -> list[Fraction]:
    """The corner-wise map in rational numbers: unmirror, to the image, to the other view, mirror."""
    size, target_size = sizes
    corners = [[Fraction(box[0]), Fraction(box[1])], [Fraction(box[2]), Fraction(box[3])]]
    for corner in corners:
        if flip:
            corner[0] = size - corner[0]
        for axis in range(2):
            extent, target_extent = source[axis + 2] - source[axis], target[axis + 2] - target[axis]
            image = source[axis] + corner[axis] * extent / size
            corner[axis] = (image - target[axis]) * target_size / target_extent
        if target_flip:
            corner[0] = target_size - corner[0]
    return [f(corner[axis] for corner in corners) for f in (min, max) for axis in range(2)]


@FEW
@given(
    boxes_in(),
    rectangles(),
    rectangles(),
    st.booleans(),
    st.booleans(),
    st.tuples(st.sampled_from([32, 96, 224]), st.sampled_from([32, 128, 224])),
)
def test_between_equals_rational_arithmetic(
    box: tuple[float, float, float, float],
    source: Rectangle,
    target: Rectangle,
    flip: bool,
    target_flip: bool,
    sizes: tuple[int, int],
) -> None:
    ours = geometry.between(tensor(box), crops(source, flip, sizes[0]), crops(target, target_flip, sizes[1]))
    exact = exact_between(box, source, flip, target, target_flip, sizes)
    magnified = sizes[1] / min(target[2] - target[0], target[3] - target[1])
    for mine, true in zip(ours[0, 0].tolist(), exact, strict=True):
        assert abs(Fraction(mine) - true) <= 1e-10 * (1 + magnified)


@FEW
@given(boxes_in(), rectangles(), st.booleans())
def test_view_to_image_and_back(box: tuple[float, float, float, float], rectangle: Rectangle, flip: bool) -> None:
    view = crops(rectangle, flip)
    back = geometry.to_view(geometry.to_image(tensor(box), view), view)
    zoom = view.zoom.max().item()
    torch.testing.assert_close(back, tensor(box), rtol=0, atol=1e-11 * (1 + zoom) * 1e2)


@FEW
@given(boxes_in(0, 12_000), rectangles(), st.booleans())
def test_image_to_view_and_back(box: tuple[float, float, float, float], rectangle: Rectangle, flip: bool) -> None:
    view = crops(rectangle, flip)
    back = geometry.to_image(geometry.to_view(tensor(box), view), view)
    torch.testing.assert_close(back, tensor(box), rtol=0, atol=1e-8)


@FEW
@given(rectangles(), rectangles(), rectangles(), st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_going_through_a_third_view_changes_nothing(
    a: Rectangle, b: Rectangle, c: Rectangle, flips: tuple[bool, bool, bool]
) -> None:
    first, middle, last = (crops(rectangle, flip) for rectangle, flip in zip((a, b, c), flips, strict=True))
    box = tensor((10, 20, 60, 90))
    detour = geometry.between(geometry.between(box, first, middle), middle, last)
    direct = geometry.between(box, first, last)
    torch.testing.assert_close(detour, direct, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("extent", [(8, 8), (10_000, 10_000), (10_000, 100), (8, 800)])
def test_the_whole_view_is_the_crop(extent: tuple[int, int], flip: bool) -> None:
    rectangle = (13, 7, 13 + extent[0], 7 + extent[1])
    view = crops(rectangle, flip)
    assert geometry.to_image(tensor((0, 0, 224, 224)), view).tolist() == [[list(rectangle)]]
    assert geometry.to_view(tensor(rectangle), view).tolist() == [[[0, 0, 224, 224]]]


def test_hand_computed_places() -> None:
    """A crop of 100 x 50 pixels at (10, 20) in a view of 200: x doubles, y grows fourfold."""
    box = tensor((20, 40, 60, 120))
    assert geometry.to_image(box, crops((10, 20, 110, 70), size=200)).tolist() == [[[20, 30, 40, 50]]]
    assert geometry.to_image(box, crops((10, 20, 110, 70), True, 200)).tolist() == [[[80, 30, 100, 50]]]
    assert geometry.to_view(tensor((20, 30, 40, 50)), crops((10, 20, 110, 70), size=200)).tolist() == box.tolist()
    assert geometry.to_view(tensor((0, 0, 10, 20)), crops((10, 20, 110, 70), size=200)).tolist() == [[[-20, -80, 0, 0]]]


def test_a_crop_of_the_views_size_changes_nothing() -> None:
    view = crops((0, 0, 224, 224))
    box = tensor((0.1, 3.7, 99.99, 200.3))
    assert torch.equal(geometry.to_image(box, view), box)
    assert torch.equal(geometry.between(box, view, view), box)


@given(rectangles(), st.integers(0, 500), st.booleans(), st.booleans())
@FEW
def test_disjoint_crops_share_nothing(rectangle: Rectangle, gap: int, flip: bool, other_flip: bool) -> None:
    _, y0, x1, y1 = rectangle
    source, target = crops(rectangle, flip), crops((x1 + gap, y0, x1 + gap + 50, y1), other_flip)
    mapped = geometry.between(tensor((0, 0, 224, 224)), source, target)
    assert not geometry.inside(mapped, 224).any()
    assert geometry.area(geometry.intersect(mapped, tensor((0, 0, 224, 224)))).max() < 1e-6
    assert geometry.area(geometry.intersect(source.box, target.box)) == 0


@FEW
@given(rectangles(), st.integers(1, 300), st.booleans(), st.booleans())
def test_a_nested_crop_lies_inside_and_its_frame_around(
    rectangle: Rectangle, margin: int, flip: bool, other_flip: bool
) -> None:
    x0, y0, x1, y1 = (value + margin for value in rectangle)
    inner, outer = (
        crops((x0, y0, x1, y1), flip),
        crops((x0 - margin, y0 - margin, x1 + margin, y1 + margin), other_flip),
    )
    whole = tensor((0, 0, 224, 224))
    assert geometry.inside(geometry.between(whole, inner, outer), 224).all()
    frame = geometry.between(whole, outer, inner)
    assert not geometry.inside(frame, 224).any()
    assert torch.equal(geometry.intersect(frame, whole), whole)


@FEW
@given(boxes_in(), st.sampled_from([7.0, 14.0, 224.0]))
def test_mirroring_twice_changes_nothing(box: tuple[float, float, float, float], size: float) -> None:
    once = geometry.mirror(tensor(box), torch.tensor([True]), size)
    twice = geometry.mirror(once, torch.tensor([True]), size)
    torch.testing.assert_close(twice, tensor(box), rtol=0, atol=1e-12 * 1e3)
    assert (once[..., 0] <= once[..., 2]).all()
    assert torch.equal(once[..., 1::2], tensor(box)[..., 1::2])
    assert torch.equal(geometry.mirror(tensor(box), torch.tensor([False]), size), tensor(box))


def test_mirror_takes_each_images_own_flip() -> None:
    boxes = torch.tensor([[[1.0, 2.0, 3.0, 4.0]], [[1.0, 2.0, 3.0, 4.0]]])
    mirrored = geometry.mirror(boxes, torch.tensor([True, False]), 10)
    assert mirrored.tolist() == [[[7, 2, 9, 4]], [[1, 2, 3, 4]]]


@FEW
@given(boxes_in(), boxes_in())
def test_iou_is_symmetric_and_within_0_and_1(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    forth, back = geometry.iou(tensor(a), tensor(b)), geometry.iou(tensor(b), tensor(a))
    torch.testing.assert_close(forth, back)
    assert 0 <= forth.item() <= 1 + 1e-12
    if geometry.area(tensor(a)).item() > 1e-9:
        assert geometry.iou(tensor(a), tensor(a)).item() == pytest.approx(1)


@FEW
@given(rectangles(most=40), rectangles(most=40))
def test_iou_of_whole_boxes_counts_pixels(a: Rectangle, b: Rectangle) -> None:
    def pixels(r: Rectangle) -> set[tuple[int, int]]:
        return {(x, y) for x in range(r[0], r[2]) for y in range(r[1], r[3])}

    first, second = pixels(a), pixels(b)
    assert geometry.iou(tensor(a), tensor(b)).item() == pytest.approx(len(first & second) / len(first | second))
    assert geometry.area(geometry.intersect(tensor(a), tensor(b))).item() == len(first & second)


def test_iou_of_empty_and_inverted_boxes_is_zero() -> None:
    empty, inverted, real = (3, 3, 3, 3), (5, 5, 2, 2), (0, 0, 9, 9)
    for first in (empty, inverted):
        for second in (empty, inverted, real):
            assert geometry.iou(tensor(first), tensor(second)).item() == 0
    assert geometry.area(tensor(inverted)).item() == 0


def test_iou_broadcasts() -> None:
    a = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3]])
    table = geometry.iou(a[:, None], a[None])
    torch.testing.assert_close(table, torch.tensor([[1, 1 / 7], [1 / 7, 1]]))


def test_inside_is_half_open() -> None:
    cases = {
        (0.0, 0.0, 223.9, 223.9): True,
        (0.0, 0.0, 224.0, 10.0): False,
        (0.0, 0.0, 10.0, 224.0): False,
        (-1e-12, 0.0, 10.0, 10.0): False,
        (0.0, -1e-12, 10.0, 10.0): False,
        (5.0, 5.0, 300.0, 10.0): False,
    }
    assert geometry.inside(tensor(*cases), 224)[0].tolist() == list(cases.values())


def test_clip_and_cells() -> None:
    box = tensor((-5, 10, 300, 224))
    assert geometry.clip(box, 224).tolist() == [[[0, 10, 224, 224]]]
    assert geometry.to_cells(tensor((16, 32, 224, 112)), 16).tolist() == [[[1, 2, 14, 7]]]


@FEW
@given(rectangles(), st.sampled_from([32, 96, 128, 224]))
def test_zoom_is_the_nearest_double(rectangle: Rectangle, size: int) -> None:
    zoom = crops(rectangle, size=size).zoom[0].tolist()
    x0, y0, x1, y1 = rectangle
    assert zoom == [size / (x1 - x0), size / (y1 - y0)]


def test_crops_are_cut_by_rows() -> None:
    batch = Crops(torch.arange(12.0).view(3, 4), torch.tensor([True, False, True]), 96)
    assert len(batch) == 3
    for rows in (slice(1, 3), torch.tensor([1, 2]), torch.tensor([False, True, True])):
        part = batch[rows]
        assert (len(part), part.size) == (2, 96)
        assert torch.equal(part.box, batch.box[1:])
        assert part.flip.tolist() == [False, True]
    moved = batch.to("cpu", non_blocking=True)
    assert torch.equal(moved.box, batch.box)
    assert moved.size == 96


@FEW
@given(first=boxes_in(), second=boxes_in(), flip=st.booleans())
def test_numpy_gives_the_same_bits(first: tuple[float, ...], second: tuple[float, ...], flip: bool) -> None:
    a, b = (np.array(box).reshape(2, 2, 1, 1) for box in (first, second))
    ratio = geometry.overlap_ratio(a, b)
    assert float(ratio[0, 0]) == float(geometry.iou(tensor(first), tensor(second))[0, 0])
    ours = geometry.mirror_ranges(a.copy(), np.array([[flip]]), 224)
    mirrored = geometry.mirror(tensor(first), torch.tensor([flip]), 224)[0, 0].tolist()
    assert ours.ravel().tolist() == mirrored


def test_numpy_takes_empty_boxes_for_no_overlap() -> None:
    nothing, something = np.zeros((2, 2, 3)), np.array([0.0, 1.0])[:, None, None].repeat(2, 1).repeat(3, 2)
    assert geometry.overlap_ratio(nothing, nothing).tolist() == [0, 0, 0]
    assert geometry.overlap_ratio(nothing, something).tolist() == [0, 0, 0]
