"""MoCo's dictionary of past keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regionssl.methods.losses import unit


class KeyQueue(nn.Module):
    """A ring of the latest unit keys.

    Attributes:
        keys: (K, D) float32 buffer, random unit rows at first.
        pointer: () int64 buffer, where the next key goes.
    """

    keys: Tensor
    pointer: Tensor

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", unit(torch.randn(length, dim)))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Replace the oldest rows by ``keys`` (n, D), in their order, wrapping around the end."""
        places = (self.pointer + torch.arange(len(keys), device=keys.device)) % len(self.keys)
        self.keys[places] = keys.to(self.keys.dtype)
        self.pointer.copy_((self.pointer + len(keys)) % len(self.keys))
