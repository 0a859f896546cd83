"""The list of images that everything else works on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property
from typing import BinaryIO

import numpy as np
from PIL import Image

from regionssl.data.bitmaps import Picture
from regionssl.data.decode import UnreadableImage, decode, read_picture
from regionssl.data.store import Names, Store


class ImageList:
    """Images by position, wherever they lie. Small, picklable, and safe to read from many processes and threads.

    Attributes:
        root: what the user gave.
        ignored: number of files found there that are not images.
    """

    def __init__(self, root: str, store: Store, ignored: int = 0) -> None:
        self.root, self.store, self.ignored = root, store, ignored

    def __len__(self) -> int:
        return len(self.store.names)

    def __repr__(self) -> str:
        return f"ImageList({self.root!r}, {len(self)} images)"

    @property
    def names(self) -> Names:
        """Unique names, sorted; relative to the root where the images lie below it."""
        return self.store.names

    def open(self, i: int) -> BinaryIO:
        """A seekable file with the content of image ``i``.

        Raises:
            UnreadableImage: it is missing or cannot be read; an I/O error is the exception's cause.
        """
        try:
            return self.store.open(i)
        except FileNotFoundError as error:
            raise UnreadableImage("is missing") from error
        except OSError as error:
            raise UnreadableImage(f"cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            raise UnreadableImage("has a name that no file can have") from error

    def read(self, i: int) -> bytes:
        """The content of image ``i``.

        Raises:
            UnreadableImage: as :meth:`open`.
        """
        with self.open(i) as file:
            try:
                return file.read()
            except OSError as error:
                raise UnreadableImage(f"cannot be read: {error.strerror or error}") from error

    def load(self, i: int) -> Image.Image:
        """Image ``i``, upright 8-bit RGB.

        Raises:
            UnreadableImage: it cannot be read or decoded (:func:`regionssl.data.decode.decode`).
        """
        return decode(self.read(i))

    def picture(self, i: int, as_array: bool = False) -> Picture:
        """Image ``i`` to cut crops from: :meth:`load`, or a bitmap of a pack as it lies there.

        Args:
            as_array: as in :func:`regionssl.data.decode.read_picture`.

        Raises:
            UnreadableImage: as :meth:`load`.
        """
        return read_picture(self.read(i), as_array)

    @cached_property
    def stat(self) -> tuple[np.ndarray, np.ndarray]:
        """Sizes (N,) and times of change (N,) or (1,), as :meth:`Store.stat` gives them, looked up once."""
        return self.store.stat()

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the SHA-256 of names and sizes: the same wherever and whenever the images lie."""
        digest = hashlib.sha256()
        self.names.update(digest)
        digest.update(self.stat[0].astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    def subset(self, indices: Iterable[int]) -> ImageList:
        """The images at ``indices``, in that order."""
        rows = np.fromiter(indices, np.int64)
        chosen = ImageList(self.root, self.store.take(rows), self.ignored)
        if "stat" in self.__dict__:
            sizes, times = self.stat
            chosen.stat = (sizes[rows], times[rows] if len(times) == len(sizes) else times)
        return chosen
