"""Nearest regions against a search one pair at a time."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from regionssl.report.nearest import most_unlike, nearest_regions, nearest_strips, spread_regions


def brute_force(features: np.ndarray, query: tuple[int, int], count: int) -> list[tuple[float, int, int]]:
    centred = features - features.mean((0, 1))
    own = centred[query]
    best = []
    for image in range(len(features)):
        if image == query[0]:
            continue
        cosines = [row @ own / max(np.linalg.norm(row) * np.linalg.norm(own), 1e-300) for row in centred[image]]
        best.append((float(max(cosines)), image, int(np.argmax(cosines))))
    return sorted(best, reverse=True)[:count]


@given(seed=st.integers(0, 10**6), images=st.integers(2, 6), regions=st.integers(1, 5), count=st.integers(1, 7))
def test_nearest_regions_are_those_of_brute_force(seed: int, images: int, regions: int, count: int) -> None:
    features = torch.randn(images, regions, 4, generator=torch.Generator().manual_seed(seed))
    queries = [(0, 0), (images - 1, regions - 1)]
    found = nearest_regions(features, queries, count)
    assert found.image.shape == (2, min(count, images - 1))
    for number, query in enumerate(queries):
        expected = brute_force(features.double().numpy(), query, count)
        np.testing.assert_allclose(found.similarity[number], [one[0] for one in expected], atol=1e-9)
        assert list(zip(found.image[number].tolist(), found.region[number].tolist(), strict=True)) == [
            one[1:] for one in expected
        ]


def test_the_region_most_unlike_the_mean_is_asked_for() -> None:
    features = torch.zeros(3, 4, 2)
    features[1, 2] = 9
    features[2, 3] = -5
    assert most_unlike(features, [2, 1]) == [(2, 3), (1, 2)]


def test_regions_cover_the_picture() -> None:
    boxes = spread_regions(5, 90)
    assert boxes.shape == (25, 4)
    assert boxes[0].tolist() == [0, 0, 30, 30]
    assert boxes[4].tolist() == [60, 0, 90, 30]
    assert boxes[-1].tolist() == [60, 60, 90, 90]
    assert (boxes[:, 2:] - boxes[:, :2] == 30).all()


def test_strips_show_the_patches_that_were_found() -> None:
    colours = ["red", "green", "blue"]
    pictures = [Image.new("RGB", (30, 30), colour) for colour in colours]
    features = torch.tensor([[[1.0, 0.0]], [[0.9, 0.1]], [[-1.0, 0.2]]])
    found = nearest_regions(features, [(0, 0)], 2)
    strips = nearest_strips(pictures, ["a", "b", "c"], torch.tensor([[0.0, 0, 10, 10]]), [(0, 0)], {"net": found})
    (strip,) = strips
    assert strip.title == "a, nearest by net"
    assert [tile.image.getpixel((5, 5)) for tile in strip.tiles] == [(255, 0, 0), (0, 128, 0), (0, 0, 255)]
    assert strip.tiles[0].image.size == (10, 10)
    assert strip.tiles[1].caption == f"{float(found.similarity[0, 0]):.2f}"
