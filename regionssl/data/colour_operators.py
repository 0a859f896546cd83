"""What can happen to the colours of a batch of images, with one parameter per image.

Images are (N, 3, H, W) float32 with values in 0..1, on any device, and so are the results; nothing is changed in place.
The parameters are (N,) on the same device. All but :func:`resize_blur` equal torchvision's functions on float images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """The images times their ``factor``, clamped."""
    return (images * _per_image(factor)).clamp_(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Away from the mean luma of the image (``factor`` > 1) or towards it, clamped."""
    return _blend(images, luma(images).mean((1, 2, 3), keepdim=True), factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Away from the luma of the pixel (``factor`` > 1) or towards it, clamped."""
    return _blend(images, luma(images), factor)


def hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by ``shift`` (a whole turn is 1) in HSV; value and saturation stay."""
    r, g, b = images.unbind(1)
    high = torch.maximum(torch.maximum(r, g), b)
    low = torch.minimum(torch.minimum(r, g), b)
    chroma = high - low
    # Sixths of a turn from red, positive towards green. With the channels brought to 0..1 by (x - low) / chroma, its
    # size is 1 + g + b - r in all six sectors; without chroma it may be any finite number. Masks would be far slower.
    angle = (high + g).add_(b).sub_(r).sub_(low, alpha=2).div_(chroma.clamp(min=1e-12))
    angle = torch.copysign(angle, g - b)
    angle += 6 * shift[:, None, None]
    angle -= angle.div(6).floor_().mul_(6)
    shares = (
        (angle - 3).abs_().sub_(1).clamp_(0, 1),
        (angle - 2).abs_().neg_().add_(2).clamp_(0, 1),
        angle.sub_(4).abs_().neg_().add_(2).clamp_(0, 1),
    )
    return torch.stack([share.mul_(chroma).add_(low) for share in shares], 1)


def luma(images: Tensor) -> Tensor:
    """(N, 1, H, W), the luma of ITU-R 601."""
    r, g, b = images.unbind(1)
    return (r * 0.2989).add_(g, alpha=0.587).add_(b, alpha=0.114).unsqueeze(1)


def grey(images: Tensor) -> Tensor:
    """The luma in all three channels."""
    return luma(images).expand_as(images)


def solarise(images: Tensor) -> Tensor:
    """Values at or above one half inverted; in levels: 128 and above (ORL, SCRL, R2O)."""
    return torch.minimum(images, 1 - images)


def gaussian_blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Gaussian blur with reflected borders.

    The releases blur with PIL (ReSim, ORL: an approximation by boxes, with the border pixels repeated) or with OpenCV
    (R2O: reflected, radius 11). Away from the borders PIL differs by up to 5 levels, 0.7 on average.

    Args:
        sigma: standard deviations, pixels, above 0.
        radius: where the kernels are cut off before they are normalised, pixels; at most the side less one is used.
    """
    for axis in (2, 3):
        images = _convolve(images, sigma, min(radius, images.shape[axis] - 1), axis)
    return images


def _convolve(images: Tensor, sigma: Tensor, radius: int, axis: int) -> Tensor:
    """One pass of :func:`gaussian_blur`, along the rows (``axis`` 3) or the columns (2)."""
    n, channels, height, width = images.shape
    steps = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernels = torch.softmax(-0.5 * (steps / sigma[:, None]).square(), 1).repeat_interleave(channels, 0)
    along_rows = axis == 3
    padded = F.pad(images, (radius, radius, 0, 0) if along_rows else (0, 0, radius, radius), mode="reflect")
    # Every channel of every image is a group, so that each image has its own kernel.
    flat = padded.reshape(1, n * channels, *padded.shape[2:])
    weights = kernels[:, None, None, :] if along_rows else kernels[:, None, :, None]
    return F.conv2d(flat, weights, groups=n * channels).view(n, channels, height, width)


def resize_blur(images: Tensor, reduction: float) -> Tensor:
    """SCRL's blur (section 2.1): bicubic, antialiased, to ``floor(side / reduction)`` and back up; one for all images.

    One axis at a time and clamped each time, as PIL does; PIL also rounds to whole levels each time, so its result
    differs by up to 2 levels, 0.4 on average.
    """
    height, width = images.shape[2:]
    low, narrow = int(height / reduction), int(width / reduction)
    for size in ((height, narrow), (low, narrow), (low, width), (height, width)):
        images = F.interpolate(images, size, mode="bicubic", antialias=True).clamp_(0, 1)
    return images


def _blend(images: Tensor, reference: Tensor, factor: Tensor) -> Tensor:
    """``factor * images + (1 - factor) * reference``, clamped."""
    weight = _per_image(factor)
    return (images * weight).add_((1 - weight) * reference).clamp_(0, 1)


def _per_image(parameter: Tensor) -> Tensor:
    return parameter[:, None, None, None]
