"""What the health of a run is judged by: features measured by hand, and the terms that methods add."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regionssl.data.images import ImageList
from regionssl.methods.losses import assignment_entropy, feature_std, pair_measures, unit
from regionssl.methods.scrl import BoxTargets
from regionssl.regions.boxes import BoxPairs

from method_variants import VARIANTS, batch_of, method_of


def slowly(online: np.ndarray, target: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """The measures by their definitions, row by row."""
    online, target = (rows / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in (online, target))
    places = [(i, j) for i in range(valid.shape[0]) for j in range(valid.shape[1]) if valid[i, j]]
    pairs = {(a, b): online[a] @ target[b] for a in places for b in places}
    found = {
        "positive": np.mean([value for (a, b), value in pairs.items() if a == b]),
        "negative": np.mean([value for (a, b), value in pairs.items() if a[0] != b[0] and a[1] == b[1]]),
        "elsewhere": np.mean([value for (a, b), value in pairs.items() if a[0] == b[0] and a != b]),
    }
    for side, rows in (("online", online), ("target", target)):
        chosen = np.stack([rows[place] for place in places])
        found[f"{side}_std"] = chosen.std(0).mean() * math.sqrt(rows.shape[-1])
        values = np.linalg.eigvalsh(np.cov(chosen.T, bias=True))
        found[f"{side}_rank"] = values.sum() ** 2 / (values**2).sum()
    return found


@pytest.mark.parametrize(("rows", "dim"), [(3, 5), (4, 40)])  # the rank comes from D x D, or from R x R
def test_the_measures_are_those_of_their_definitions(rows: int, dim: int) -> None:
    rng = np.random.default_rng(rows)
    online, target = rng.normal(0.3, 1, (2, 6, rows, dim))
    valid = rng.random((6, rows)) < 0.7
    valid[0] = True
    found = pair_measures("boxes", torch.tensor(online), torch.tensor(target), 1.0, torch.tensor(valid))
    expected = {f"health/boxes_{name}": value for name, value in slowly(online, target, valid).items()}
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, rel=1e-9)


def test_with_one_row_an_image_there_is_no_elsewhere_and_a_twin_adds_its_likeness() -> None:
    generator = torch.Generator().manual_seed(0)
    online, target, twin = (torch.randn(8, 1, 16, generator=generator) for _ in range(3))
    found = pair_measures("image", online, target, 0.5, twin=twin)
    assert not any("elsewhere" in name for name in found)
    alike = pair_measures("image", twin, target, 0.5)
    for name in ("positive", "negative"):
        assert found[f"health/image_slow_{name}"] == pytest.approx(float(alike[f"health/image_{name}"]), abs=1e-7)
    assert float(found["health/image_online_std"]) == pytest.approx(0.5 * float(feature_std(online[:, 0])), rel=1e-5)


@settings(max_examples=30)
@given(st.integers(2, 6), st.integers(1, 4), st.integers(2, 12), st.integers(0, 2**20))
def test_rotating_and_scaling_the_features_changes_nothing(images: int, rows: int, dim: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    online, target = torch.randn(2, images, rows, dim, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]
    before = pair_measures("image", online, target, 1.0)
    after = pair_measures("image", 7 * online @ turn, target @ turn, 1.0)
    for name, value in before.items():
        if not name.endswith("_std"):  # a mean over the axes, which the rotation moves
            assert float(after[name]) == pytest.approx(float(value), abs=1e-9)
    assert 1 - 1e-9 <= float(before["health/image_online_rank"]) <= min(dim, images * rows - 1) + 1e-9


def test_what_has_collapsed_measures_as_collapsed() -> None:
    rows = torch.ones(8, 2, 4) + 1e-9 * torch.randn(8, 2, 4)
    found = pair_measures("image", rows, rows, 1.0)
    assert float(found["health/image_target_std"]) < 1e-6
    assert float(found["health/image_positive"]) == pytest.approx(float(found["health/image_negative"]), abs=1e-6)
    line = torch.linspace(-1, 1, 8)[:, None, None] * torch.tensor([1.0, 0, 0]) + torch.tensor([0, 0, 5.0])
    assert float(pair_measures("image", line, line, 1.0)["health/image_target_rank"]) == pytest.approx(1, abs=0.05)


def test_without_any_row_the_measures_are_zero() -> None:
    nothing = torch.zeros(0, 3, 8)
    none_valid = pair_measures("boxes", torch.randn(4, 3, 8), torch.randn(4, 3, 8), 1.0, torch.zeros(4, 3))
    for found in (pair_measures("boxes", nothing, nothing, 1.0), none_valid):
        assert {float(value) for value in found.values()} == {0.0}


def test_the_entropy_of_assignments() -> None:
    assert float(assignment_entropy(torch.ones(3, 7))) == pytest.approx(1)
    assert float(assignment_entropy(torch.eye(7))) == 0
    halves = torch.tensor([3.0, 3, 0, 0])
    assert float(assignment_entropy(halves)) == pytest.approx(0.5)
    assert float(assignment_entropy(torch.stack([halves, torch.ones(4)]))) == pytest.approx(0.75)
    assert float(assignment_entropy(torch.zeros(4))) == 0


def watched(variant: str, images: ImageList, part: int) -> tuple[Any, dict[str, Tensor]]:
    """A method, and the sum of its terms over parts of a batch."""
    method = method_of(variant)
    method.watched = True
    batch = batch_of(variant, images)
    targets, terms = method.targets(batch), {}
    for piece in batch.split(part):
        for name, value in method(piece, targets).items():
            terms[name] = terms.get(name, 0) + value.detach()
    return method, terms


@pytest.mark.parametrize("variant", VARIANTS)
def test_watching_adds_measures_and_changes_no_term(variant: str, images: ImageList) -> None:
    method, terms = watched(variant, images, 8)
    blind = copy.deepcopy(method_of(variant))
    batch = batch_of(variant, images)
    plain = blind(batch, blind.targets(batch))
    assert {name for name in terms if not name.startswith("health/")} == set(plain)
    for name, value in plain.items():
        assert torch.equal(terms[name], value), name
    measures = {name: float(value) for name, value in terms.items() if name.startswith("health/")}
    assert all(math.isfinite(value) for value in measures.values())
    assert any(name.endswith("_target_std") for name in measures)
    levels = [name for name in measures if name.endswith(("_chance", "_orthogonal"))]
    for name in levels:
        term = name.removeprefix("health/").removesuffix("_chance").removesuffix("_orthogonal")
        assert 0 < float(plain[term].detach()) < 1.6 * measures[name], name
    assert levels
    assert method.slow_pairs()


@pytest.mark.parametrize("variant", ["moco", "resim_fpn", "plrc_R", "plrc_P"])
def test_measures_of_parts_add_up(variant: str, images: ImageList) -> None:
    """Means and chance levels are those of the whole batch; spreads are means of the parts'."""
    _, whole = watched(variant, images, 8)
    _, parts = watched(variant, images, 4)
    assert set(whole) == set(parts)
    for name, value in whole.items():
        if name.endswith(("_chance", "_orthogonal")):
            assert float(parts[name]) == pytest.approx(float(value), rel=1e-5), name
    assert float(parts["health/image_positive"]) == pytest.approx(float(whole["health/image_positive"]), rel=1e-5)


def test_the_chance_of_points_is_that_of_alike_points(images: ImageList) -> None:
    """With the same feature at every point, the loss of points is the stated chance level, whatever the setting."""
    for variant in ("plrc_R", "plrc_P"):
        method: Any = method_of(variant)
        method.watched = True
        batch = batch_of(variant, images)
        with torch.no_grad():
            for branch in (method.query, method.key):
                branch.head[-1].weight.zero_()
                branch.head[-1].bias.fill_(1.0)
        terms = method(batch, method.targets(batch))
        assert float(terms["points"]) == pytest.approx(float(terms["health/points_chance"]), rel=1e-4)


def test_a_process_without_boxes_names_the_same_measures(images: ImageList) -> None:
    method: Any = method_of("scrl")
    method.watched = True
    batch = batch_of("scrl", images)
    targets = method.targets(batch)
    boxes = targets.boxes
    none = BoxPairs(boxes.first, boxes.second, torch.zeros_like(boxes.valid))
    empty = BoxTargets(none, targets.rows[:0], targets.count)
    with_boxes, without = method(batch, targets), method(batch, empty)
    assert with_boxes.keys() == without.keys()
    assert float(without["health/boxes_valid"]) == 0


def test_unit_rows_of_half_precision_are_measured_in_full() -> None:
    rows = torch.randn(64, 1, 32)
    full = pair_measures("image", rows, rows, 1.0)
    half = pair_measures("image", rows.bfloat16(), rows.bfloat16(), 1.0)
    assert half["health/image_target_rank"].dtype == torch.float32
    assert float(half["health/image_target_rank"]) == pytest.approx(float(full["health/image_target_rank"]), rel=0.01)
    assert unit(rows.bfloat16()).dtype == torch.float32
