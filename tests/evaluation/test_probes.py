"""The linear pixel probe: exact metric, exact sampling, perfect and useless features, determinism."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regionssl.data.photometric import normalise
from regionssl.errors import InputError
from regionssl.evaluation import probes
from regionssl.evaluation.probes import confusion, fit, pixel_probe, score

CLASSES = ("background", "a", "b", "c")


def _pictures(count: int, seed: int, cells: int = 8, stride: int = 4) -> list[tuple[Tensor, Tensor]]:
    """Pictures whose red value tells the class of each block of ``stride`` x ``stride`` pixels."""
    rng = torch.Generator().manual_seed(seed)
    pictures = []
    for _ in range(count):
        classes = torch.randint(0, 4, (cells, cells), generator=rng)
        labels = classes.repeat_interleave(stride, 0).repeat_interleave(stride, 1)
        pictures.append((torch.stack([labels * 60, labels * 0, labels * 0]).to(torch.uint8), labels))
    return pictures


def _one_hot(images: Tensor) -> Tensor:
    """Perfect features at full resolution."""
    steps = torch.arange(4).view(1, 4, 1, 1) * 60 / 255
    reds = normalise(torch.stack([steps[:, k].expand(3, 1, 1) for k in range(4)]))[:, 0].view(1, 4, 1, 1)
    return ((images[:, :1] - reds).abs() < 1e-3).float()


def _noise(images: Tensor) -> Tensor:
    """Features that have nothing to do with the labels but repeat for the same picture."""
    rng = torch.Generator().manual_seed(int(images.double().square().sum() * 1000) % 2**40)
    return torch.randn(len(images), 6, 8, 8, generator=rng)


def test_perfect_features_score_one() -> None:
    result = pixel_probe(_one_hot, _pictures(6, 0), _pictures(4, 1), CLASSES)
    assert result.miou == pytest.approx(1.0)
    assert result.accuracy == pytest.approx(1.0)
    assert list(result.per_class) == list(CLASSES)


def test_a_strided_map_is_read_where_its_cells_lie() -> None:
    # One cell per block: bilinear reading is pure at the block's centre and blurs at its border, so a map shifted by
    # half a cell (the align_corners=True convention, or a missing half pixel) does clearly worse.
    def strided(images: Tensor) -> Tensor:
        return F.avg_pool2d(_one_hot(images), 4)

    def shifted(images: Tensor) -> Tensor:
        return F.avg_pool2d(torch.roll(_one_hot(images), (2, 2), (2, 3)), 4)

    train, val = _pictures(20, 0), _pictures(10, 1)
    good, bad = pixel_probe(strided, train, val, CLASSES), pixel_probe(shifted, train, val, CLASSES)
    assert good.miou > 0.75
    assert bad.miou < good.miou - 0.2


def test_noise_scores_chance() -> None:
    result = pixel_probe(_noise, _pictures(30, 0), _pictures(30, 1), CLASSES)
    assert result.accuracy == pytest.approx(0.25, abs=0.04)
    assert result.miou == pytest.approx(0.14, abs=0.05)  # 1 / 7 for independent uniform guesses of four classes


def test_the_scale_and_offset_of_features_do_not_matter() -> None:
    train, val = _pictures(6, 0), _pictures(4, 1)
    plain = pixel_probe(lambda x: F.avg_pool2d(_one_hot(x), 4), train, val, CLASSES)
    scaled = pixel_probe(lambda x: 3000 * F.avg_pool2d(_one_hot(x), 4) + 500, train, val, CLASSES)
    assert scaled.miou == pytest.approx(plain.miou, abs=0.01)


def test_a_constant_feature_is_harmless() -> None:
    def with_constant(images: Tensor) -> Tensor:
        features = _one_hot(images)
        return torch.cat([features, torch.full_like(features, 7.3)], 1)

    assert pixel_probe(with_constant, _pictures(6, 0), _pictures(4, 1), CLASSES).miou == pytest.approx(1.0)


def test_the_same_arguments_give_the_same_result_and_the_global_generator_is_left_alone() -> None:
    train, val = _pictures(10, 0), _pictures(5, 1)
    results = []
    for state in (1, 2):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        results.append(pixel_probe(_noise, train, val, CLASSES, seed=3, pixels=500))
        assert torch.equal(before, torch.get_rng_state())
    assert results[0] == results[1]
    assert pixel_probe(_noise, train, val, CLASSES, seed=4, pixels=500) != results[0]


def test_training_pixels_are_as_many_as_asked_and_carry_their_own_features() -> None:
    train = _pictures(5, 0)

    def extract(images: Tensor) -> Tensor:
        return _one_hot(normalise(images.float() / 255))

    features, targets = probes.read_samples(extract, train, None, 100, seed=0)
    assert features.shape == (500, 4)
    assert torch.equal(features.argmax(1), targets)
    features, targets = probes.read_samples(extract, train, None, 10**6, seed=0)
    assert torch.equal(targets.bincount(), torch.stack([labels for _, labels in train]).flatten().bincount())


def test_reading_at_pixels_equals_interpolating_the_whole_map() -> None:
    maps = torch.randn(1, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(maps, (24, 40), mode="bilinear", align_corners=False)[0].flatten(1).T
    torch.testing.assert_close(probes._read(maps[0], torch.arange(24 * 40), 24, 40), whole, atol=1e-5, rtol=0)


def test_pictures_of_different_sizes() -> None:
    train = _pictures(3, 0) + _pictures(3, 1, cells=5) + _pictures(2, 2)
    val = [(image[:, :20], labels[:20]) for image, labels in _pictures(3, 3)]
    assert pixel_probe(_one_hot, train, val, CLASSES).miou == pytest.approx(1.0)


def test_ignored_pixels_neither_train_nor_count() -> None:
    train, val = _pictures(6, 0), _pictures(4, 1)

    def spoil(pictures: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """The upper half is black and ignored."""
        half = torch.zeros(32, 32, dtype=torch.bool)
        half[:16] = True
        return [(image.masked_fill(half, 0), labels.masked_fill(half, 255)) for image, labels in pictures]

    assert pixel_probe(_one_hot, spoil(train), spoil(val), CLASSES, ignore=255).miou == pytest.approx(1.0)
    with pytest.raises(InputError, match=r"labels must be 0 to 3, found 0 to 255"):
        pixel_probe(_one_hot, spoil(train), spoil(val), CLASSES)


def test_the_classifier_is_the_optimum_of_its_objective() -> None:
    rng = torch.Generator().manual_seed(0)
    features, targets = torch.randn(400, 3, generator=rng), torch.randint(0, 3, (400,), generator=rng)
    features[:, 0] += targets
    classifier = fit(features, targets, 3, l2=1e-2, balance=0.0)
    spread, centre = torch.std_mean(features, 0, correction=0)
    inputs = (features - centre) / spread
    weight = (classifier.weight * spread).requires_grad_()
    bias = (classifier.bias + classifier.weight @ centre).requires_grad_()
    loss = F.cross_entropy(inputs @ weight.T + bias, targets) + 0.005 * weight.square().sum()
    assert max(g.abs().max() for g in torch.autograd.grad(loss, (weight, bias))) < 2e-4


def test_balance_favours_the_rare_class() -> None:
    rng = torch.Generator().manual_seed(0)
    targets = (torch.rand(4000, generator=rng) < 0.05).long()
    features = torch.randn(4000, 1, generator=rng) + targets[:, None]
    named = [
        int(fit(features, targets, 2, 1e-3, balance).on_map(features.T[None, :, None]).argmax(1).sum())
        for balance in (0.0, 0.5, 1.0)
    ]
    assert named[0] < named[1] < named[2]


def test_iou_by_hand() -> None:
    labels = torch.tensor([[0, 0, 1], [1, 1, 9]])
    predictions = torch.tensor([[0, 1, 1], [1, 0, 2]])
    counts = confusion(predictions, labels, 4, ignore=9)
    assert counts.tolist() == [[1, 1, 0, 0], [1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    result = score(counts, CLASSES)
    assert result.per_class["background"] == pytest.approx(1 / 3)
    assert result.per_class["a"] == pytest.approx(2 / 4)
    assert math.isnan(result.per_class["b"])
    assert result.miou == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert result.accuracy == pytest.approx(3 / 5)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_iou_equals_sets_of_pixels(pairs: list[tuple[int, int]]) -> None:
    labels, predictions = torch.tensor(pairs).T
    result = score(confusion(predictions, labels, 4), CLASSES)
    ious = []
    for number, name in enumerate(CLASSES):
        true = {i for i, pair in enumerate(pairs) if pair[0] == number}
        named = {i for i, pair in enumerate(pairs) if pair[1] == number}
        if true | named:
            ious.append(len(true & named) / len(true | named))
            assert result.per_class[name] == pytest.approx(ious[-1])
        else:
            assert math.isnan(result.per_class[name])
    assert result.miou == pytest.approx(np.mean(ious))
    assert result.accuracy == pytest.approx(np.mean([a == b for a, b in pairs]))


def test_summed_counts_are_scored_not_averaged_pictures() -> None:
    # One picture is right and full of class 1; the other has a single pixel of it, missed. The mean over pictures of
    # class 1's IoU would be 1/2.
    big, small = torch.ones(10, 10, dtype=torch.int64), torch.zeros(10, 10, dtype=torch.int64)
    small[0, 0] = 1
    counts = confusion(big, big, 2) + confusion(torch.zeros_like(small), small, 2)
    assert score(counts, ("0", "1")).per_class["1"] == pytest.approx(100 / 101)


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        ([], _pictures(1, 0), "at least one training picture"),
        (_pictures(1, 0), [], "at least one validation picture"),
        ([(torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(8, 9, dtype=torch.int64))], _pictures(1, 0), "size"),
        ([(torch.zeros(3, 8, 8, dtype=torch.uint8), torch.full((8, 8), 7))], _pictures(1, 0), "no labelled pixel"),
    ],
)
def test_mistakes_are_explained(
    train: list[tuple[Tensor, Tensor]], val: list[tuple[Tensor, Tensor]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        pixel_probe(_one_hot, train, val, CLASSES, ignore=7)


def test_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="not finite"):
        pixel_probe(lambda x: x / 0, _pictures(1, 0), _pictures(1, 1), CLASSES)
