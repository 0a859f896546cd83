"""Nearest images by their features, and the best pairs of their boxes (ORL, sections 3.1 and 3.5). Exact."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from regionssl.errors import InputError

Engine = Literal["auto", "torch", "faiss"]

_WORTH_FAISS = 256  # for fewer images at a time, faiss is several times slower than torch


SelfRule = Literal["drop_first", "mask"]


class NearestImages:
    """Exact search for the images that are most similar to an image, nearest first (ORL, section 3.1).

    Similarities are computed in blocks, so memory does not grow with the square of the images. Of equally similar
    images the earlier counts as nearer.

    Args:
        bank: (N, D) float32 rows of unit length, on any device.
        engine: "faiss" searches with faiss, "torch" without, "auto" with faiss for many images at a time if it is
            installed and the bank is on the CPU. They differ by rounding alone.
        block, columns: images and candidates per block.

    Raises:
        InputError: faiss is asked for and not installed.
    """

    def __init__(self, bank: Tensor, engine: Engine = "auto", block: int = 1024, columns: int = 16384) -> None:
        self.bank, self.engine, self.block, self.columns = bank, engine, block, columns
        self.faiss = _faiss(engine) if engine == "faiss" or bank.device.type == "cpu" else None
        self.index: Any = None

    def of(self, rows: Tensor, k: int, self_rule: SelfRule = "drop_first") -> Tensor:
        """The ``k`` nearest images of each of some images.

        Args:
            rows: (R,) int64, positions of the images.
            self_rule: "drop_first" takes the nearest image for the image itself, as the release does, so that among
                exact duplicates an image can become its own neighbour (quirk Q3); "mask" leaves out the image itself.

        Returns:
            (R, k) int64, on the device of the bank.

        Raises:
            InputError: there are not more than ``k`` images.
        """
        if len(self.bank) <= k:
            raise InputError(
                f"{k} neighbours of each image need at least {k + 1} images, and there are {len(self.bank)}; "
                "give more images or ask for fewer neighbours"
            )
        parts = [torch.empty(0, k, dtype=torch.int64, device=self.bank.device)]
        for own in rows.to(self.bank.device).split(self.block):
            parts.append(_without_self(self._nearest(own, k + 1), own, self_rule))
        return torch.cat(parts)

    def _nearest(self, own: Tensor, k: int) -> Tensor:
        if self.faiss is None or (self.engine == "auto" and len(own) < _WORTH_FAISS):
            return _search(self.bank[own], self.bank, k, self.columns)
        if self.index is None:
            self.index = self.faiss.IndexFlatIP(self.bank.shape[1])
            self.index.add(self.bank.numpy())
        similar, places = self.index.search(self.bank[own].numpy(), k)
        order = np.lexsort((places, -similar), axis=1)
        return torch.from_numpy(np.take_along_axis(places, order, 1))


def _without_self(found: Tensor, own: Tensor, rule: str) -> Tensor:
    """(R, k) of (R, k + 1) positions, less the one that stands for the image itself."""
    place = torch.zeros_like(own)
    if rule == "mask":
        is_own = found == own[:, None]
        place = torch.where(is_own.any(1), is_own.byte().argmax(1), found.shape[1] - 1)
    kept = torch.arange(found.shape[1], device=found.device) != place[:, None]
    return found[kept].unflatten(0, (len(found), -1))


def _search(queries: Tensor, bank: Tensor, k: int, columns: int) -> Tensor:
    """(R, k) positions of the most similar rows, descending, without TF32."""
    precise = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    best = queries.new_empty(len(queries), 0)
    places = torch.empty(len(queries), 0, dtype=torch.int64, device=bank.device)
    for start in range(0, len(bank), columns):
        similar = queries @ bank[start : start + columns].T
        here = top(similar, min(k, similar.shape[1]))
        best = torch.cat([best, similar.gather(1, here)], 1)  # earlier positions first, so ties keep their order
        places = torch.cat([places, here + start], 1)
        chosen = top(best, min(k, best.shape[1]))
        best, places = best.gather(1, chosen), places.gather(1, chosen)
    torch.set_float32_matmul_precision(precise)
    return places


def _faiss(engine: Engine) -> Any:
    if engine == "torch":
        return None
    try:
        import faiss
    except ImportError as error:
        if engine == "faiss":
            raise InputError(
                "faiss is not installed; install it with: pip install faiss-cpu, or leave it out"
            ) from error
        return None
    return faiss


def top(values: Tensor, k: int) -> Tensor:
    """Positions (R, k) of the largest of ``values`` (R, C), descending; of equal ones the earlier comes first.

    ``torch.topk`` says nothing of the order of equal values, and it may differ by device and size.
    """
    chosen = values.topk(k, 1)
    threshold = chosen.values[:, -1:]
    tied = (values >= threshold).sum(1) > k
    places = chosen.indices.sort(1).values
    places = places.gather(1, values.gather(1, places).argsort(dim=1, descending=True, stable=True))
    if tied.any():
        places[tied] = values[tied].argsort(dim=1, descending=True, stable=True)[:, :k]
    return places


def best_pairs(
    features: Tensor, boxes: np.ndarray, other_features: Tensor, other_boxes: np.ndarray, ratio: float = 0.1
) -> np.ndarray:
    """The most similar pairs of a box of an image and a box of its neighbour, best first (ORL, section 3.5).

    Their number is ``max(1, floor(ratio * B))``: it depends on the image's own boxes only, and a box may be in several.

    Args:
        features: (B, D) float32 rows of unit length, of the image's boxes.
        boxes: (B, 4). other_features, other_boxes: (B', D) and (B', 4), of the neighbour.

    Returns:
        (n, 8) int32, box of the image and box of the neighbour.
    """
    similar = features @ other_features.T
    count = min(max(1, int(ratio * len(features))), similar.numel())
    places = top(similar.reshape(1, -1), count)[0].cpu().numpy()
    row, column = np.divmod(places, len(other_boxes))
    return np.concatenate([boxes[row], other_boxes[column]], 1).astype(np.int32)
