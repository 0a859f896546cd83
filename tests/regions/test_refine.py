"""Refinement against the authors' run of it (``golden/r2o_refine.npz``; R2O, section 9)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from regionssl.regions.clusters import draws_shape
from regionssl.regions.refine import RefineConfig, compact_labels, mask_cells, refine, region_rows

with np.load(Path(__file__).parents[1] / "golden" / "r2o_refine.npz") as file:
    GOLDEN = {name: torch.from_numpy(file[name]) for name in file.files if name != "versions"}
RELEASE = RefineConfig(empty="nan", border="blend")
REGIONS = GOLDEN["slic"].long()
FEATURES = GOLDEN["feats_c4_f16"].float()
SLOTS, CLUSTERS = GOLDEN["labels"].shape[1], int(GOLDEN["K"])


def recorded_draws(slots: int) -> torch.Tensor:
    """The recorded first row, 47, and numbers; with more slots the rows behind the padding have other numbers."""
    first = (int(GOLDEN["first"]) + 0.5) / (3 * SLOTS)
    return torch.cat([torch.tensor([first]), GOLDEN["uniforms"].flatten()])[None]


def random_draws(groups: int, clusters: int) -> torch.Tensor:
    return torch.rand(groups, *draws_shape(clusters), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("extra", [0, 7], ids=["own slots", "more slots than labels"])
def test_the_release(extra: int) -> None:
    """Slots that other processes need take no part."""
    found = refine(RELEASE, FEATURES, REGIONS, SLOTS + extra, CLUSTERS, recorded_draws(SLOTS))
    assert torch.equal(found.labels[:, :SLOTS], GOLDEN["labels"])
    assert (found.labels[:, SLOTS:] == -1).all()
    assert torch.equal(found.masks, GOLDEN["onehot56_u8"].float())
    assert torch.equal(found.masks.argmax(1), GOLDEN["label_map56"].long())
    assert found.filled.tolist() == [len(GOLDEN["labels"].unique())]


def test_rows_are_unit_or_zero() -> None:
    rows, present = region_rows(FEATURES, REGIONS, SLOTS)
    norms = rows.norm(dim=-1)
    torch.testing.assert_close(norms[present], torch.ones(int(present.sum())))
    assert not rows[~present].any()
    assert 0 < int((~present).sum()) < 3 * SLOTS / 2


def test_empty_rows_take_a_cluster_unless_they_are_left_out() -> None:
    """Quirk Q4: they are alike, so one cluster is theirs."""
    _, present = region_rows(FEATURES, REGIONS, SLOTS)
    draws = random_draws(1, CLUSTERS)
    kept = refine(RefineConfig(), FEATURES, REGIONS, SLOTS, CLUSTERS, draws)
    dropped = refine(RefineConfig(zero_rows=False), FEATURES, REGIONS, SLOTS, CLUSTERS, draws)
    of_empty_rows = kept.labels[~present].unique()
    assert len(of_empty_rows) == 1
    assert (dropped.labels[~present] == -1).all()
    assert (dropped.labels[present] >= 0).all()
    assert dropped.filled.tolist() == [CLUSTERS]


@pytest.mark.parametrize("size", [1, 2])
def test_groups_are_clustered_on_their_own(size: int) -> None:
    """Also their padding: it reaches to the largest label of the group, not of all groups."""
    order = torch.tensor([0, 1, 2, 0])
    features, regions = FEATURES[order], REGIONS[order]
    draws = random_draws(4 // size, CLUSTERS)
    together = refine(RefineConfig(), features, regions, SLOTS, CLUSTERS, draws)
    for group in range(4 // size):
        part = slice(size * group, size * (group + 1))
        slots = int(regions[part].max()) + 1
        own = draws[group : group + 1]
        alone = refine(RefineConfig(), features[part], regions[part], slots, CLUSTERS, own)
        assert torch.equal(alone.labels, together.labels[part, :slots])
        assert (together.labels[part, slots:] == -1).all()
        assert torch.equal(alone.masks, together.masks[part])
        assert alone.filled[0] == together.filled[group]


def test_masks_cover_each_cell_once() -> None:
    masks = refine(RefineConfig(), FEATURES, REGIONS, SLOTS, CLUSTERS, random_draws(1, CLUSTERS)).masks
    assert torch.equal(masks.sum(1), torch.ones(3, 56, 56))


def test_compact_labels() -> None:
    regions = torch.tensor([[[70_000, 5], [5, 9]], [[3, 3], [3, 3]]])
    assert compact_labels(regions).tolist() == [[[2, 0], [0, 1]], [[0, 0], [0, 0]]]
    assert torch.equal(compact_labels(REGIONS), REGIONS), "SLIC's labels have no gaps"


@pytest.mark.parametrize(("side", "cells"), [(224, 56), (64, 16), (2, 1)])
def test_mask_cells(side: int, cells: int) -> None:
    assert mask_cells(torch.zeros(1, side, side)) == cells
