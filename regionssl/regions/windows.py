"""ReSim's windows: a regular grid over the query view and its counterpart in the key view (ReSim, sections 2.3-2.5)."""

from __future__ import annotations

import torch
from torch import Tensor

from regionssl import geometry
from regionssl.errors import InputError
from regionssl.geometry import Crops


def window_grid(size: int, window: int, stride: int) -> Tensor:
    """Square windows on a grid anchored at the top left corner of a view (ReSim, section 2.3).

    Only windows that end strictly before ``size`` belong to the grid. At size 224, windows of 48 every 32 pixels give
    6 x 6, windows of 32 every 24 pixels give 8 x 8.

    Args:
        size: side of the view, pixels.
        window: side of a window, pixels.
        stride: distance between the starts of neighbouring windows, pixels.

    Returns:
        (K, 4) float64, x0, y0, x1, y1 in view pixels, row by row (y outer, x inner).

    Raises:
        InputError: not even one window fits.
    """
    starts = torch.arange(0, size - window, stride, dtype=torch.float64) if window < size else torch.empty(0)
    if len(starts) == 0:
        raise InputError(
            f"a window of {window} pixels does not fit into a view of {size}; use views wider than {window} pixels"
        )
    y, x = torch.meshgrid(starts, starts, indexing="ij")
    corner = torch.stack([x.flatten(), y.flatten()], -1)
    return torch.cat([corner, corner + window], -1)


def matched_windows(grid: Tensor, query: Crops, key: Crops) -> tuple[Tensor, Tensor]:
    """Where the windows of the query view lie in the key view of the same image (ReSim, sections 2.4 and 2.5).

    Args:
        grid: (K, 4) float64, query view pixels.

    Returns:
        (N, K, 4) float64 windows in key view pixels, and (N, K) bool, whether each lies wholly in the key view. One
        that does not is replaced by the dummy (0, 0, 1, 1).
    """
    windows = geometry.between(grid.to(query.box.device).expand(len(query), -1, -1), query, key)
    valid = geometry.inside(windows, key.size)
    dummy = windows.new_tensor([0.0, 0.0, 1.0, 1.0])
    return torch.where(valid[..., None], windows, dummy), valid
