"""Feature maps as colours."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from regionssl.report.features import feature_maps_figure, pca_colours


def independent_directions() -> torch.Tensor:
    """Maps (4, 8, 4, 4): row 0, column 0 and image 0 are raised, each along its own direction, ever less strongly."""
    rng = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(8, 8, generator=rng, dtype=torch.float64)).Q[:3]
    raised = torch.zeros(4, 4, 4, 3, dtype=torch.float64)
    raised[:, 0, :, 0], raised[:, :, 0, 1], raised[0, :, :, 2] = 10, 3, 1
    return (raised @ directions + 5).permute(0, 3, 1, 2)


def test_directions_become_colours_by_their_variance() -> None:
    colours = pca_colours(independent_directions())
    assert colours.dtype == torch.uint8
    expected = torch.zeros(4, 3, 4, 4, dtype=torch.uint8)
    expected[:, 0, 0], expected[:, 1, :, 0], expected[0, 2] = 255, 255, 255
    assert torch.equal(colours, expected)


@given(st.integers(0, 2**32 - 1), st.integers(3, 12))
def test_colours_do_not_depend_on_signs_or_mixing_of_channels(seed: int, channels: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, -2, channels, dtype=torch.float64).view(-1, 1, 1)
    features = torch.randn(2, channels, 5, 6, generator=rng, dtype=torch.float64).exp() * scale
    rotation = torch.linalg.qr(torch.randn(channels, channels, generator=rng, dtype=torch.float64)).Q
    before = features.clone()
    colours = pca_colours(features).int()
    assert torch.equal(features, before)
    assert torch.equal(pca_colours(features).int(), colours)
    assert (pca_colours(-features).int() - colours).abs().max() <= 1
    mixed = torch.einsum("dc,nchw->ndhw", rotation, features) * 7 + 3
    assert (pca_colours(mixed).int() - colours).abs().max() <= 1


def test_what_does_not_vary_is_grey() -> None:
    assert set(pca_colours(torch.full((2, 8, 3, 3), 4.0)).flatten().tolist()) == {128}
    one = pca_colours(torch.arange(18.0, dtype=torch.bfloat16).view(2, 1, 3, 3))
    assert set(one[:, 1:].flatten().tolist()) == {128}
    red = one[:, 0].flatten().tolist()
    assert {red[0], red[-1]} == {0, 255}
    assert red in (sorted(red), sorted(red, reverse=True))
    line = torch.linspace(0, 1, 18).pow(2).view(2, 1, 3, 3) * torch.ones(1, 5, 1, 1)
    assert set(pca_colours(line)[:, 1:].flatten().tolist()) == {128}


def test_the_figure_has_a_column_per_image_and_a_row_per_network() -> None:
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    images = [Image.new("RGB", (64, 32), colour) for colour in colours]
    left = torch.tensor([[0.0, 0.0, 0.0, 9.0]]).expand(4, 4).repeat(3, 2, 1, 1)
    one = np.asarray(feature_maps_figure(images, {"random start": left}))
    two = np.asarray(feature_maps_figure(images, {"random start": left, "pre-trained": left.flip(-1)}))
    assert one.shape[1] == two.shape[1]
    assert two.shape[0] - one.shape[0] == 116 + 10
    assert (two[: one.shape[0] - 28] == one[:-28]).all()
    for colour in colours:
        rows, columns = (two == colour).all(-1).nonzero()
        assert (rows.max() - rows.min() + 3, columns.max() - columns.min() + 3) == (116, 232)
        red = two[..., 0].astype(int) - two[..., 1]
        below, above_next = rows.max() + 12, rows.max() + 12 + 126
        ends = (columns.min() + 10, columns.max() - 10)
        assert [red[below + 50, x] > 100 for x in ends] == [False, True]
        assert [red[above_next + 50, x] > 100 for x in ends] == [True, False]
