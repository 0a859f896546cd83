"""ORL's proposals: the filter against the release's arrays and a plain reading of its rules, and selective search."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regionssl.errors import InputError
from regionssl.regions.proposals import ProposalFilter, fallback, filter_proposals, selective_search

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "orl_box_filter.npz")
RULES = ProposalFilter()

Box = tuple[int, int, int, int]


def no_size() -> tuple[int, int]:
    raise AssertionError("the image is not needed")


def chosen(boxes: np.ndarray, rules: ProposalFilter, size: Callable[[], tuple[int, int]] = no_size) -> np.ndarray:
    kept = filter_proposals(boxes, rules)
    return kept if len(kept) else fallback(boxes, size, rules)


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket"])
def test_the_release_on_selective_search(name: str) -> None:
    np.testing.assert_array_equal(chosen(GOLDEN[f"ss_{name}_in"], RULES), GOLDEN[f"ss_{name}_out"])


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("96_3_100_05", RULES),
        ("32_3_100_05", ProposalFilter(min_size=32)),
        ("32_3_10_05", ProposalFilter(min_size=32, top=10)),
        ("96_3_100_none", ProposalFilter(max_iou=None)),
        ("20_none_none_none", ProposalFilter(min_size=20, max_aspect=None, top=None, max_iou=None)),
    ],
)
def test_the_release_with_other_rules(name: str, rules: ProposalFilter) -> None:
    np.testing.assert_array_equal(chosen(GOLDEN["rand_in"], rules), GOLDEN[f"rand_out_{name}"])


@pytest.mark.parametrize(
    "name", ["empty_fallback", "size_exact", "ratio_exact", "iou_exact_half", "greedy_order_ab", "greedy_order_ba"]
)
def test_the_release_at_its_limits(name: str) -> None:
    np.testing.assert_array_equal(chosen(GOLDEN[f"edge_{name}_in"], RULES), GOLDEN[f"edge_{name}_out"])


def overlap(a: Box, b: Box) -> tuple[int, int]:
    """Intersection and union, whole numbers."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    return shared, a[2] * a[3] + b[2] * b[3] - shared


def slow_filter(boxes: list[Box]) -> list[Box]:
    """Section 3.3 read aloud, in whole numbers: at least 8 pixels, at most 3:1, IoU at most one half, at most 6."""
    kept: list[Box] = []
    for box in boxes:
        w, h = box[2:]
        fits = min(w, h) >= 8 and w <= 3 * h and h <= 3 * w
        if fits and all(2 * shared <= union for shared, union in (overlap(box, other) for other in kept)):
            kept.append(box)
    return kept[:6]


BOX = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 40), st.integers(1, 40))


@settings(max_examples=120)
@given(st.lists(BOX, max_size=30))
def test_the_filter_is_its_rules(boxes: list[Box]) -> None:
    rules = ProposalFilter(min_size=8, top=6)
    kept = filter_proposals(np.array(boxes).reshape(-1, 4), rules)
    assert [tuple(box) for box in kept.tolist()] == slow_filter(boxes)
    assert kept.dtype == np.int32
    np.testing.assert_array_equal(filter_proposals(kept, rules), kept, "what passed once passes again")


def test_the_fallback_that_is_asked_for() -> None:
    boxes = np.array([[5, 5, 10, 10], [0, 0, 95, 300], [0, 0, 300, 95], [0, 0, 20, 20]])
    assert chosen(boxes, RULES).tolist() == [[5, 5, 10, 10]]
    assert chosen(boxes, ProposalFilter(fallback="largest")).tolist() == [[0, 0, 95, 300]]
    assert chosen(boxes, ProposalFilter(fallback="image"), lambda: (320, 310)).tolist() == [[0, 0, 320, 310]]


@pytest.mark.parametrize("rule", ["first", "largest", "image"])
def test_an_image_without_proposals_is_its_own(rule: str) -> None:
    rules = ProposalFilter(fallback=rule)  # type: ignore[arg-type]
    assert chosen(np.zeros((0, 4), np.int32), rules, lambda: (70, 50)).tolist() == [[0, 0, 70, 50]]


def test_selective_search_repeats() -> None:
    """Whatever was searched before, and with boxes inside the image."""
    pytest.importorskip("cv2")
    image = GOLDEN["image_astronaut"][:120, 100:260]
    first, _, second = selective_search(image), selective_search(image[:90, :70]), selective_search(image)
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.int32
    assert len(first) > 10
    assert (first[:, :2] >= 0).all()
    assert (first[:, 2:] > 0).all()
    assert (first[:, :2] + first[:, 2:] <= (160, 120)).all()


def test_selective_search_of_the_release() -> None:
    """The first image of a fresh process. Versions of OpenCV differ in the order of boxes."""
    cv2 = pytest.importorskip("cv2")
    if cv2.__version__ != str(GOLDEN["cv_version"]) or sys.platform != "linux":
        pytest.skip(f"the arrays are of OpenCV {GOLDEN['cv_version']} on Linux")
    np.testing.assert_array_equal(selective_search(GOLDEN["image_astronaut"]), GOLDEN["ss_astronaut_in"])


def test_a_missing_opencv_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r"pip install 'regionssl\[proposals\]'"):
        selective_search(np.zeros((20, 20, 3), np.uint8))
