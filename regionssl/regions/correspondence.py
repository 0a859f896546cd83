"""Matched boxes of similar images: what ORL's second stage leaves for its third (ORL, section 3.6).

Every image is named by its position in the image list. Boxes are left, top, width and height in whole pixels of the
upright image.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from pydantic import Field

from regionssl.config import Config
from regionssl.errors import InputError
from regionssl.regions.neighbours import SelfRule
from regionssl.regions.proposals import ProposalFilter

_FORMAT = "regionssl correspondences 1"


class CorrespondenceConfig(Config):
    """How correspondences are found (ORL, section 3); the release's values are the defaults.

    Attributes:
        neighbours: nearest images per image, K.
        self_rule: what stands for the image itself among its nearest images (:class:`NearestImages`).
        proposals: which proposals are kept.
        pair_ratio: pairs per neighbour, as a share of the image's own boxes.
        resize, crop: the view for the nearest images: shorter side resized, then the centre cut, pixels.
        patch: side of the square that a box is warped to, pixels.
    """

    neighbours: int = Field(10, ge=1)
    self_rule: SelfRule = "drop_first"
    proposals: ProposalFilter = ProposalFilter()
    pair_ratio: float = Field(0.1, gt=0, le=1)
    resize: int = Field(256, ge=8)
    crop: int = Field(224, ge=8)
    patch: int = Field(224, ge=8)


class Ragged(Sequence[np.ndarray]):
    """Arrays of different lengths in one block: item i is rows ``ends[i - 1]`` to ``ends[i]`` of ``values``.

    Attributes:
        values: (T, C) int32.
        ends: (n,) int64, not falling; where each item ends.
    """

    def __init__(self, values: np.ndarray, ends: np.ndarray, start: int = 0) -> None:
        self.values, self.ends, self._start = values, ends, start

    @classmethod
    def of(cls, items: Iterable[np.ndarray], columns: int) -> Ragged:
        """The items (n_i, columns), one after the other; no items are none."""
        arrays = [np.asarray(item, np.int32).reshape(-1, columns) for item in items]
        ends = np.cumsum([len(array) for array in arrays], dtype=np.int64)
        return cls(np.concatenate([np.zeros((0, columns), np.int32), *arrays]), ends)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self.values[self.ends[index - 1] if index else self._start : self.ends[index]]

    def part(self, first: int, last: int) -> Ragged:
        """Items ``first`` to ``last``, which share this one's values."""
        return Ragged(self.values, self.ends[first:last], int(self.ends[first - 1]) if first else self._start)


class RankedPairs(Sequence[Ragged]):
    """The pairs of each image, per neighbour: item i is a :class:`Ragged` of K arrays (n, 8)."""

    def __init__(self, rows: Ragged, neighbours: int) -> None:
        self.rows, self.neighbours = rows, neighbours

    def __len__(self) -> int:
        return len(self.rows) // self.neighbours

    @overload
    def __getitem__(self, index: int) -> Ragged: ...
    @overload
    def __getitem__(self, index: slice) -> list[Ragged]: ...
    def __getitem__(self, index: int | slice) -> Ragged | list[Ragged]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self.rows.part(index * self.neighbours, (index + 1) * self.neighbours)


@dataclass(frozen=True)
class Correspondences:
    """Boxes, nearest images and matched boxes of N images with K neighbours each.

    Attributes:
        images_fingerprint: of the image list that positions refer to (:attr:`ImageList.fingerprint`).
        boxes: per image (B_i, 4) int32, B_i >= 1.
        neighbours: (N, K) int64, positions of each image's nearest images, nearest first.
        pairs: per image and neighbour (n, 8) int32, n >= 1, best first: a box of the image, then its match in the
            neighbour.
    """

    images_fingerprint: str
    boxes: Ragged
    neighbours: np.ndarray
    pairs: RankedPairs

    def save(self, path: Path) -> None:
        """Write one ``.npz`` file, whole or not at all; equal contents give equal bytes."""
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.savez_compressed(
                file,
                format=np.array(_FORMAT),
                images_fingerprint=np.array(self.images_fingerprint),
                boxes=self.boxes.values,
                box_ends=self.boxes.ends,
                neighbours=self.neighbours,
                pairs=self.pairs.rows.values,
                pair_ends=self.pairs.rows.ends,
            )
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path, images_fingerprint: str | None = None) -> Correspondences:
        """Read a file that :meth:`save` wrote.

        Args:
            images_fingerprint: of the images it must belong to; None accepts any.

        Raises:
            InputError: it is missing, broken, or belongs to other images.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                content = {name: stored[name] for name in stored.files}
        except Exception as error:  # NumPy and zipfile raise many kinds for broken archives
            raise InputError(f"{path} cannot be read as correspondences: {error}; make them again") from error
        if str(content.get("format")) != _FORMAT:
            raise InputError(f"{path} is not a file of correspondences ({_FORMAT})")
        absent = {"images_fingerprint", "neighbours", "pairs", "pair_ends", "boxes", "box_ends"} - content.keys()
        if absent or content["neighbours"].ndim != 2:
            raise InputError(f"{path} lacks {', '.join(sorted(absent)) or 'neighbours by image'}; make it again")
        found = str(content["images_fingerprint"])
        if images_fingerprint is not None and found != images_fingerprint:
            raise InputError(
                f"{path} belongs to other images: theirs have the fingerprint {found}, these {images_fingerprint}; "
                "give the images it was made from, or make correspondences of these"
            )
        neighbours = content["neighbours"]
        pairs = RankedPairs(Ragged(content["pairs"], content["pair_ends"]), neighbours.shape[1])
        made = cls(found, Ragged(content["boxes"], content["box_ends"]), neighbours, pairs)
        made.check(str(path))
        return made

    def check(self, where: str) -> None:
        """See that everything fits together.

        Args:
            where: what they came from, for the message.

        Raises:
            InputError: counts differ, a neighbour is no image, or an image lacks a box or a pair.
        """
        count, ends = len(self.boxes), (self.boxes.ends, self.pairs.rows.ends)
        problems = {
            f"{count} lists of boxes, {len(self.neighbours)} of neighbours, {len(self.pairs)} of pairs": (
                count != len(self.neighbours) or len(self.pairs.rows) != self.neighbours.size
            ),
            f"neighbours outside 0 to {count - 1}": bool(((self.neighbours < 0) | (self.neighbours >= count)).any()),
            "an image without a box": bool((np.diff(ends[0], prepend=0) < 1).any()),
            "an image and neighbour without a pair": bool((np.diff(ends[1], prepend=0) < 1).any()),
        }
        wrong = [problem for problem, present in problems.items() if present]
        if wrong:
            raise InputError(f"{where}: {'; '.join(wrong)}; use a complete file, all parts merged")
