"""The batched colours against torchvision one image at a time, PIL, and the releases' own arrays.

``golden/scrl_aug.npz`` and ``golden/orl_transforms.npz`` hold the blurs and the solarisation of the authors' pipelines
on PIL images (SCRL, section 8; ORL, section 9).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as V
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from regionssl.data import colour_operators as ops
from regionssl.data import photometric
from regionssl.data.photometric import (
    BYOL_FIRST,
    BYOL_SECOND,
    IMAGENET_MEAN,
    IMAGENET_STD,
    MOCO_V2,
    REDUCTIONS,
    RESIM,
    SCRL_FIRST,
    SCRL_SECOND,
    ColourDraws,
    ColourPolicy,
    apply,
    draw,
    normalise,
    stack,
)
from regionssl.errors import InputError

GOLDEN = Path(__file__).parents[1] / "golden"
POLICIES = {
    "moco_v2": MOCO_V2,
    "resim": RESIM,
    "byol_first": BYOL_FIRST,
    "byol_second": BYOL_SECOND,
    "scrl_first": SCRL_FIRST,
    "scrl_second": SCRL_SECOND,
    "all, reversed": ColourPolicy(
        solarise=0.5,
        order=("solarise", "blur", "grey", "jitter"),
        jitter=1,
        hue=0.5,
        brightness=1,
        contrast=1,
        saturation=1,
        sigma=(1, 5),
    ),
    "nothing listed": ColourPolicy(order=()),
}
NOTHING = ColourPolicy(jitter=0, grey=0, blur=0, solarise=0)
JITTERS = (V.adjust_brightness, V.adjust_contrast, V.adjust_saturation, V.adjust_hue)


def random_levels(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, height, width), generator=generator, dtype=torch.uint8)


def awkward_levels() -> Tensor:
    """All combinations of five levels, so flat, pure and tied colours: (1, 3, 10, 15)."""
    levels = torch.tensor([0, 1, 128, 254, 255], dtype=torch.uint8)
    colours = torch.cartesian_prod(levels, levels, levels)
    return torch.cat([colours, colours[:25]]).T.reshape(1, 3, 10, 15)


def drawn(policy: ColourPolicy, n: int, seed: int = 0) -> ColourDraws:
    rng = np.random.default_rng(seed)
    return stack([draw(policy, rng) for _ in range(n)])


# Oracles: one image and one parameter at a time.


def bicubic_matrix(source: int, target: int) -> np.ndarray:
    """PIL's antialiased bicubic resampling of one axis (a = -0.5), from its definition: (target, source)."""
    scale = source / target
    stretch = max(scale, 1.0)

    def kernel(x: float) -> float:
        x = abs(x)
        if x < 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    weights = np.array(
        [[kernel((s + 0.5 - (t + 0.5) * scale) / stretch) for s in range(source)] for t in range(target)], dtype=float
    )
    return weights / weights.sum(1, keepdims=True)


def resize_blur_oracle(image: Tensor, reduction: float) -> Tensor:
    """(3, H, W) -> (3, H, W), columns of each pass clamped as PIL does."""
    pixels = image.double().numpy()
    height, width = image.shape[1:]
    low, narrow = math.floor(height / reduction), math.floor(width / reduction)
    for source, target, axis in ((width, narrow, 2), (height, low, 1), (narrow, width, 2), (low, height, 1)):
        matrix = bicubic_matrix(source, target)
        pixels = np.moveaxis(np.tensordot(matrix, pixels, (1, axis)), 0, axis).clip(0, 1)
    return torch.from_numpy(pixels).float()


def colour_oracle(image: Tensor, draws: ColourDraws, n: int, policy: ColourPolicy) -> Tensor:
    """Image ``n`` of a batch, by torchvision."""
    pixels = image.float() / 255
    radius = math.ceil(4 * policy.sigma[1])
    size = [2 * min(radius, side - 1) + 1 for side in (image.shape[2], image.shape[1])]
    for operation in policy.order:
        if operation == "jitter" and draws.jitter[n]:
            for k in draws.order[n].tolist():
                pixels = JITTERS[k](pixels, draws.factors[n, k].item())
        elif operation == "grey" and draws.grey[n]:
            pixels = V.rgb_to_grayscale(pixels, num_output_channels=3)
        elif operation == "blur" and draws.blur[n]:
            strength = draws.blur[n].item()
            if policy.blur_kind == "gaussian":
                pixels = V.gaussian_blur(pixels, size, [strength] * 2)
            else:
                pixels = resize_blur_oracle(pixels, min(REDUCTIONS, key=lambda reduction: abs(reduction - strength)))
        elif operation == "solarise" and draws.solarise[n]:
            pixels = V.solarize(pixels, 0.5)
    return V.normalize(pixels, list(IMAGENET_MEAN), list(IMAGENET_STD))


# Operator by operator.

FACTORS = [0.0, 0.6, 0.93, 1.0, 1.4, 2.0]
SHIFTS = [-0.5, -0.1, 0.0, 1 / 6, 0.1, 0.5]


@pytest.mark.parametrize(
    ("operator", "torchvisions", "parameters"),
    [
        (ops.brightness, V.adjust_brightness, FACTORS),
        (ops.contrast, V.adjust_contrast, FACTORS),
        (ops.saturation, V.adjust_saturation, FACTORS),
        (ops.hue, V.adjust_hue, SHIFTS),
    ],
)
@pytest.mark.parametrize("awkward", [False, True])
def test_jitters_equal_torchvision(
    operator: Callable[[Tensor, Tensor], Tensor],
    torchvisions: Callable[[Tensor, float], Tensor],
    parameters: list[float],
    awkward: bool,
) -> None:
    n = len(parameters)
    images = (awkward_levels().repeat(n, 1, 1, 1) if awkward else random_levels(n, 17, 33)) / 255
    before = images.clone()
    expected = torch.stack([torchvisions(image, x) for image, x in zip(images, parameters, strict=True)])
    torch.testing.assert_close(operator(images, torch.tensor(parameters)), expected, rtol=0, atol=1e-5)
    assert torch.equal(images, before)


@pytest.mark.parametrize("levels", [random_levels(3, 17, 33), awkward_levels()])
def test_grey_and_solarise_equal_torchvision(levels: Tensor) -> None:
    images = levels / 255
    torch.testing.assert_close(ops.grey(images), V.rgb_to_grayscale(images, 3), rtol=0, atol=1e-6)
    assert torch.equal(ops.solarise(images), V.solarize(images, 0.5))


def test_solarise_turns_between_levels_127_and_128() -> None:
    levels = torch.tensor([0, 127, 128, 255]).view(1, 1, 1, 4).expand(1, 3, 1, 4)
    assert (ops.solarise(levels / 255) * 255).round()[0, 0, 0].tolist() == [0, 127, 127, 0]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 41), (23, 9)])
def test_gaussian_blur_equals_torchvision(height: int, width: int) -> None:
    sigma = [0.1, 0.5, 1.0, 1.7, 2.0]
    images = random_levels(5, height, width) / 255
    for radius in (3, 8):
        size = [2 * min(radius, side - 1) + 1 for side in (width, height)]
        expected = torch.stack([V.gaussian_blur(image, size, [s, s]) for image, s in zip(images, sigma, strict=True)])
        torch.testing.assert_close(ops.gaussian_blur(images, torch.tensor(sigma), radius), expected, rtol=0, atol=1e-5)


def test_gaussian_blur_radius_is_cut_to_the_image() -> None:
    images = random_levels(1, 8, 12) / 255
    blurred = ops.gaussian_blur(images, torch.tensor([30.0]), 120)
    expected = V.gaussian_blur(images, [23, 15], [30.0, 30.0])
    torch.testing.assert_close(blurred, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 45), (66, 12)])
def test_resize_blur_equals_its_definition(height: int, width: int, reduction: float) -> None:
    images = random_levels(2, height, width) / 255
    expected = torch.stack([resize_blur_oracle(image, reduction) for image in images])
    torch.testing.assert_close(ops.resize_blur(images, reduction), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("contrasty", [False, True])
def test_resize_blur_is_pils_up_to_its_rounding(reduction: float, contrasty: bool) -> None:
    """Saturated noise overshoots most, so the clamps between the passes matter."""
    levels = random_levels(1, 60, 75)
    levels = (levels > 127).to(torch.uint8) * 255 if contrasty else levels
    image = Image.fromarray(levels[0].permute(1, 2, 0).numpy())
    small = image.resize((math.floor(75 / reduction), math.floor(60 / reduction)), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(small.resize((75, 60), Image.Resampling.BICUBIC))).permute(2, 0, 1)
    difference = (ops.resize_blur(levels / 255, reduction)[0] * 255 - expected).abs()
    assert difference.max() < 2
    assert difference.mean() < 0.45


# The releases' arrays.


def golden_levels(archive: np.lib.npyio.NpzFile, name: str) -> Tensor:
    return torch.from_numpy(archive[name]).permute(2, 0, 1)[None]


@pytest.mark.parametrize("level", [0, 1, 2])
def test_scrl_release_blur(level: int) -> None:
    with np.load(GOLDEN / "scrl_aug.npz") as archive:
        assert archive["factors"][:3].tolist() == list(REDUCTIONS)
        image, expected = golden_levels(archive, "image"), golden_levels(archive, f"level{level}")
    difference = (ops.resize_blur(image / 255, REDUCTIONS[level]) * 255 - expected).abs()
    assert difference.max() < 2
    assert difference.mean() < 0.45


@pytest.mark.parametrize("name", ["scrl_aug", "orl_transforms"])
def test_release_solarise_is_exact(name: str) -> None:
    with np.load(GOLDEN / f"{name}.npz") as archive:
        image, expected = golden_levels(archive, "image"), golden_levels(archive, "solarized")
    assert torch.equal((ops.solarise(image / 255) * 255).round().to(torch.uint8), expected)


def test_orl_release_blur() -> None:
    """The release's blur is PIL's: boxes instead of a Gaussian, and the border pixels repeated instead of reflected."""
    radius = math.ceil(4 * BYOL_FIRST.sigma[1])
    with np.load(GOLDEN / "orl_transforms.npz") as archive:
        image = golden_levels(archive, "image")
        blurs = {float(archive[f"blur_sigma{k}"]): golden_levels(archive, f"blur_seed{k}") for k in range(4)}
        fixed = [name for name in archive.files if name.startswith("blur_fixed_")]
        blurs |= {float(name.removeprefix("blur_fixed_")): golden_levels(archive, name) for name in fixed}
    assert len(blurs) == 8
    sigma = torch.tensor(list(blurs))
    blurred = ops.gaussian_blur(image.repeat(8, 1, 1, 1) / 255, sigma, radius) * 255
    difference = (blurred - torch.cat(list(blurs.values()))).abs()
    assert difference.mean((1, 2, 3)).max() < 0.7
    assert difference[:, :, radius:-radius, radius:-radius].amax() < 5


# Whole chains.


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(("height", "width"), [(24, 24), (9, 22)])
def test_chain_equals_torchvision_image_by_image(name: str, height: int, width: int) -> None:
    policy, n = POLICIES[name], 24
    images = torch.cat([random_levels(n - 4, height, width), random_levels(4, height, width) // 128 * 255])
    draws = drawn(policy, n)
    coloured = apply(images, draws, policy)
    expected = torch.stack([colour_oracle(image, draws, k, policy) for k, image in enumerate(images)])
    assert coloured.dtype == torch.float32
    # Solarising is not continuous: a value that rounding puts on the other side of one half may differ there.
    different = ((coloured - expected).abs() > 5e-5).float().mean()
    assert different <= (1e-3 if "solarise" in policy.order and policy.solarise else 0)


def test_images_without_a_flag_are_untouched() -> None:
    images = random_levels(6, 16, 16)
    policy = ColourPolicy(blur=1, grey=1, jitter=1, solarise=1)
    some = drawn(policy, 6)
    chosen = torch.tensor([False, True, False, False, True, False])
    draws = ColourDraws(chosen, some.factors, some.order, chosen, some.blur * chosen, chosen)
    coloured, plain = apply(images, draws, policy), normalise(images / 255)
    assert torch.equal(coloured[~chosen], plain[~chosen])
    assert (coloured[chosen] - plain[chosen]).abs().amax((1, 2, 3)).min() > 0.1


def test_each_image_meets_each_jitter_once_in_its_own_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each operator appends its digit to a number written in the image."""

    def append(digit: int) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda images, _: images * 10 + digit + 1

    monkeypatch.setattr(photometric, "_JITTERS", tuple(append(digit) for digit in range(4)))
    policy = ColourPolicy(order=("jitter",), jitter=0.5)
    draws = drawn(policy, 64)
    numbers = apply(torch.zeros(64, 3, 8, 8, dtype=torch.uint8), draws, policy)[:, 0, 0, 0] * IMAGENET_STD[0]
    written = (numbers + IMAGENET_MEAN[0]).round().long()
    expected = (draws.order + 1) @ torch.tensor([1000, 100, 10, 1])
    assert torch.equal(written, expected * draws.jitter)
    assert 10 < int(draws.jitter.sum()) < 54


@pytest.mark.parametrize("name", ["byol_second", "scrl_second"])
def test_batches_can_be_split_anywhere(name: str) -> None:
    policy, images = POLICIES[name], random_levels(11, 20, 20)
    draws = drawn(policy, 11)
    parts = [apply(images[rows], draws[rows], policy) for rows in (slice(0, 1), slice(1, 8), slice(8, 11))]
    torch.testing.assert_close(torch.cat(parts), apply(images, draws, policy), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", POLICIES)
def test_memory_format_is_kept(name: str) -> None:
    policy, images = POLICIES[name], random_levels(9, 16, 16)
    draws = drawn(policy, 9)
    coloured = apply(images.contiguous(memory_format=torch.channels_last), draws, policy)
    assert coloured.is_contiguous(memory_format=torch.channels_last)
    plain = apply(images, draws, policy)
    assert plain.is_contiguous()
    torch.testing.assert_close(coloured, plain, rtol=0, atol=1e-5)


def test_normalise_is_torchvisions() -> None:
    images = random_levels(3, 8, 8) / 255
    expected = V.normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(normalise(images), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 3, 8, 8), random_levels(3, 8, 8), random_levels(2, 8, 8)[:, :1], random_levels(2, 8, 8)[0]],
)
def test_wrong_images_are_refused(images: Tensor) -> None:
    with pytest.raises(InputError, match=r"uint8 images of shape \(2, 3, H, W\)"):
        apply(images, drawn(MOCO_V2, 2), MOCO_V2)


# Properties of the operators.

unit = st.floats(0, 1, width=32)
pixels = st.lists(st.tuples(unit, unit, unit), min_size=1, max_size=20).map(
    lambda colours: torch.tensor(colours).T.reshape(1, 3, 1, -1)
)


@given(pixels, st.floats(-0.5, 0.5, width=32))
@settings(max_examples=200)
def test_hue_turns_back_and_keeps_value_and_chroma(image: Tensor, shift: float) -> None:
    turned = ops.hue(image, torch.tensor([shift]))
    torch.testing.assert_close(turned.amax(1), image.amax(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(turned.amin(1), image.amin(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(ops.hue(turned, torch.tensor([-shift])), image, rtol=0, atol=5e-6)


@given(pixels, st.floats(0, 2, width=32))
@settings(max_examples=100)
def test_saturation_and_hue_leave_grey_alone(image: Tensor, factor: float) -> None:
    grey = ops.grey(image)
    torch.testing.assert_close(ops.saturation(grey, torch.tensor([factor])), grey, rtol=0, atol=1.1e-4)
    torch.testing.assert_close(ops.hue(grey, torch.tensor([factor - 1])), grey, rtol=0, atol=1e-6)


@given(st.integers(8, 30), st.integers(8, 30), st.floats(0.05, 6), unit)
@settings(max_examples=50)
def test_blurs_keep_a_flat_image(height: int, width: int, sigma: float, value: float) -> None:
    image = torch.full((1, 3, height, width), value)
    torch.testing.assert_close(ops.gaussian_blur(image, torch.tensor([sigma]), 24), image, rtol=0, atol=1e-5)
    for reduction in REDUCTIONS:
        torch.testing.assert_close(ops.resize_blur(image, reduction), image, rtol=0, atol=1e-5)


# The draws.


@pytest.mark.parametrize("policy", [*POLICIES.values(), NOTHING])
def test_draws_take_the_same_numbers_whatever_the_policy(policy: ColourPolicy) -> None:
    """A policy with the same ranges gets the same factors, and the generator is left where it is left by any other."""
    rng, other = np.random.default_rng(5), np.random.default_rng(5)
    first, second = draw(policy, rng), draw(MOCO_V2, other)
    assert torch.equal(first.order, second.order)
    assert rng.bit_generator.state == other.bit_generator.state
    assert {
        field.name: (getattr(first, field.name).dtype, getattr(first, field.name).shape) for field in fields(first)
    } == {
        "jitter": (torch.bool, (1,)),
        "factors": (torch.float32, (1, 4)),
        "order": (torch.int64, (1, 4)),
        "grey": (torch.bool, (1,)),
        "blur": (torch.float32, (1,)),
        "solarise": (torch.bool, (1,)),
    }


def test_draws_follow_the_policy() -> None:
    policy = ColourPolicy(
        jitter=0.8,
        brightness=0.4,
        contrast=0.3,
        saturation=0.2,
        hue=0.1,
        grey=0.2,
        blur=0.5,
        sigma=(0.1, 2),
        solarise=0.1,
    )
    n = 4000
    draws = drawn(policy, n)
    flags = {"jitter": draws.jitter, "grey": draws.grey, "blur": draws.blur > 0, "solarise": draws.solarise}
    for name, flag in flags.items():
        p = getattr(policy, name)
        assert abs(flag.float().mean() - p) < 4 * math.sqrt(p * (1 - p) / n), name
    sigma = draws.blur[draws.blur > 0]
    ranges = [(1, 0.4), (1, 0.3), (1, 0.2), (0, 0.1)]
    for values, (centre, x) in [*zip(draws.factors.T, ranges, strict=True), (sigma, (1.05, 0.95))]:
        # Uniform: the largest gap between the empirical and the uniform distribution (Kolmogorov-Smirnov, p < 1e-5).
        ranks = ((values - centre) / (2 * x) + 0.5).sort().values
        assert ranks[0] >= 0
        assert ranks[-1] <= 1
        assert (ranks - torch.linspace(0, 1, len(ranks))).abs().max() < 2.5 / math.sqrt(len(ranks))
    assert torch.equal(draws.order.sort(1).values, torch.arange(4).expand(n, 4))
    counts = torch.unique(draws.order, dim=0, return_counts=True)[1]
    assert len(counts) == 24
    assert ((counts - n / 24) ** 2 / (n / 24)).sum() < 66  # chi-square, 23 degrees of freedom, p < 1e-5
    together = torch.stack([*flags.values(), *draws.factors.T, *draws.order.T]).double()
    off_diagonal = torch.corrcoef(together).triu(1)
    assert off_diagonal[:8].abs().max() < 5 / math.sqrt(n)


def test_resize_blur_draws_each_reduction_equally_often() -> None:
    values, counts = drawn(SCRL_FIRST, 1500).blur.unique(return_counts=True)
    assert torch.equal(values, torch.tensor(REDUCTIONS))
    assert (counts - 500).abs().max() < 80


def test_certain_and_impossible() -> None:
    always = drawn(ColourPolicy(jitter=1, grey=1, blur=1, solarise=1), 200)
    assert bool((always.jitter & always.grey & (always.blur > 0) & always.solarise).all())
    never = drawn(NOTHING, 200)
    assert not bool((never.jitter | never.grey | (never.blur > 0) | never.solarise).any())


def test_stack_and_slice_are_inverse() -> None:
    rng = np.random.default_rng(3)
    ones = [draw(MOCO_V2, rng) for _ in range(5)]
    batch = stack(ones)
    assert len(batch) == 5
    for k, one in enumerate(ones):
        row = batch[k : k + 1]
        assert all(torch.equal(getattr(row, field.name), getattr(one, field.name)) for field in fields(one))


# The policies.


@pytest.mark.parametrize(
    ("policy", "departures"),
    [
        (MOCO_V2, {}),
        (RESIM, {"order": ("blur", "jitter", "grey")}),
        (BYOL_FIRST, {"saturation": 0.2, "blur": 1.0}),
        (BYOL_SECOND, {"saturation": 0.2, "blur": 0.1, "solarise": 0.2}),
        (SCRL_FIRST, {"saturation": 0.2, "blur": 1.0, "blur_kind": "resize"}),
        (SCRL_SECOND, {"saturation": 0.2, "blur": 0.1, "blur_kind": "resize", "solarise": 0.2}),
    ],
)
def test_named_policies_hold_the_papers_values(policy: ColourPolicy, departures: dict[str, object]) -> None:
    moco_v2 = {
        "order": ("jitter", "grey", "blur", "solarise"),
        **{"jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
        **{"grey": 0.2, "blur": 0.5, "blur_kind": "gaussian", "sigma": (0.1, 2.0), "solarise": 0.0},
    }
    assert policy.model_dump() == moco_v2 | departures


@pytest.mark.parametrize(
    "values",
    [{"order": ("blur", "grey", "blur")}, {"sigma": (2.0, 0.1)}, {"sigma": (0.0, 1.0)}, {"sigma": (1.0, math.inf)}],
)
def test_senseless_policies_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"at most once|range of positive pixels"):
        ColourPolicy.model_validate(values)
