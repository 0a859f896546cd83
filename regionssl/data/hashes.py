"""Perceptual hashes: near-copies of an image differ in few bits.

The image is reduced to 17 x 16 grey values; each of 256 bits says whether one is brighter than its right neighbour.
Where neighbours differ by no more than one grey level the bit would be noise and is left open. Two images are near if
at most a twentieth of the bits differ that both have, if these are at least 64, and if their small pictures correlate.
Copies that were scaled, compressed anew, or changed in brightness or contrast stay near, and mirrored ones are looked
at too; crops do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from regionssl.data.decode import UnreadableImage
from regionssl.data.image_list import ImageList

WIDTH, HEIGHT = 17, 16
BITS = (WIDTH - 1) * HEIGHT
SHARE = 0.05
LEAST_BITS = 64
CORRELATION = 0.9
_OPEN = 1  # grey levels
_FLAT = 2.0  # standard deviation of grey levels below which an image is like none
_ROWS = 2048


def small_picture(image: Image.Image) -> np.ndarray:
    """(16, 17) uint8 grey means."""
    return np.asarray(image.convert("L").resize((WIDTH, HEIGHT), Image.Resampling.BOX))


def small_pictures(images: ImageList) -> np.ndarray:
    """(N, 16, 17) uint8; an image that cannot be read is black, and like none."""

    def one(i: int) -> np.ndarray:
        try:
            return small_picture(images.load(i))
        except UnreadableImage:
            return np.zeros((HEIGHT, WIDTH), np.uint8)

    with ThreadPoolExecutor(4) as pool:  # Pillow decodes and scales outside the interpreter's lock
        return np.array(list(pool.map(one, range(len(images)))), np.uint8).reshape(-1, HEIGHT, WIDTH)


def signs(pictures: np.ndarray) -> np.ndarray:
    """(N, 256) float32 of the pictures' bits as 1 and -1, and 0 where they are open."""
    steps = pictures[:, :, :-1].astype(np.int16) - pictures[:, :, 1:]
    return (np.sign(steps) * (np.abs(steps) > _OPEN)).reshape(len(pictures), BITS).astype(np.float32)


@dataclass(frozen=True)
class Pairs:
    """Near pairs: positions in two lists, and the measure by which they are near."""

    left: np.ndarray
    right: np.ndarray
    measure: np.ndarray


def near_by_hash(left: np.ndarray, right: np.ndarray, share: float = SHARE) -> Pairs:
    """Pairs of small pictures (N, 16, 17) and (M, 16, 17) of which at most this share of bits differs, or mirrored.

    ``measure`` is that share.
    """
    both = [found for other in (right, right[:, :, ::-1]) for found in _near(left, other, share)]
    rows, columns, shares = (np.concatenate(parts) for parts in zip(*both, strict=True))
    order = np.lexsort((shares, columns, rows))
    rows, columns, shares = rows[order], columns[order], shares[order]
    _, first = np.unique(np.stack([rows, columns]), axis=1, return_index=True)  # of both ways to be near, the nearer
    return Pairs(rows[first], columns[first], shares[first])


def _near(left: np.ndarray, right: np.ndarray, share: float) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Positions in both lists and shares of differing bits, of each stretch of the first; one stretch at least."""
    bits, outlines = signs(right), _standardised(right).T
    for start in range(0, max(1, len(left)), _ROWS):
        part = left[start : start + _ROWS]
        own = signs(part)
        common = np.abs(own) @ np.abs(bits).T
        shares = (common - own @ bits.T) / (2 * np.maximum(common, 1))
        rows, columns = np.nonzero((shares <= share) & (common >= LEAST_BITS))
        like = np.einsum("pk,kp->p", _standardised(part)[rows], outlines[:, columns]) >= CORRELATION
        rows, columns = rows[like], columns[like]
        yield rows + start, columns, shares[rows, columns].astype(np.float64)


def _standardised(pictures: np.ndarray) -> np.ndarray:
    """(N, 272) float32 whose products are correlations; 0 for flat pictures."""
    flat = pictures.reshape(len(pictures), WIDTH * HEIGHT).astype(np.float32)
    spread = flat.std(1, keepdims=True)
    centred = flat - flat.mean(1, keepdims=True)
    return np.where(spread < _FLAT, 0, centred / np.maximum(spread, _FLAT) / np.sqrt(flat.shape[1]))
