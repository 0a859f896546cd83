"""Where the images of a list lie, kept as a few arrays: a million images take tens of megabytes, shared by forks."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, Protocol, overload

import numpy as np

from regionssl.data.decode import UnreadableImage

MISSING = -1  # the size of a file that is not there
_STAT_CHUNK = 4096


class Names(Sequence[str]):
    """A read-only sequence of strings in one block of bytes; equal to any sequence of the same strings.

    A list of a million strings would be copied page by page into every loader process that looks at it.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        encoded = [name.encode("utf-8", "surrogatepass") for name in names]
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._text = np.frombuffer(b"".join(encoded), np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        start = self._ends[place - 1] if place else 0
        return self._text[start : self._ends[place]].tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return np.array_equal(self._ends, other._ends) and np.array_equal(self._text, other._text)
        if isinstance(other, Sequence) and not isinstance(other, str):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    def __hash__(self) -> int:
        return hash((len(self), self._text.tobytes()))

    def __repr__(self) -> str:
        return f"Names({self[:3]}{', ...' if len(self) > 3 else ''} {len(self)} in all)"

    def take(self, rows: np.ndarray) -> Names:
        """The names at ``rows`` (K,), in that order."""
        return Names(self[int(row)] for row in rows)

    def update(self, digest: _Digest) -> None:
        """Feed the names to a hash."""
        digest.update(self._ends.astype("<i8").tobytes())
        digest.update(self._text.tobytes())


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


class Store(Protocol):
    """Images by position: in files (:class:`Files`) or in an archive (:class:`regionssl.data.archives.Members`)."""

    @property
    def names(self) -> Names: ...

    def open(self, row: int) -> BinaryIO:
        """A seekable file of one image. Raises OSError, or UnreadableImage for a member that cannot be unpacked."""

    def stat(self) -> tuple[np.ndarray, np.ndarray]:
        """Sizes in bytes (N,) int64, ``MISSING`` where there is no file, and times of change in ns (N,) or (1,)."""

    def take(self, rows: np.ndarray) -> Store:
        """The images at ``rows`` (K,), in that order."""


class Files:
    """Images in files: names relative to the folder ``base``, or absolute."""

    def __init__(self, base: str, names: Names) -> None:
        self.base, self.names = base, names

    def open(self, row: int) -> BinaryIO:
        return open(os.path.join(self.base, self.names[row]), "rb")

    def stat(self) -> tuple[np.ndarray, np.ndarray]:
        chunks = range(0, len(self.names), _STAT_CHUNK)
        with ThreadPoolExecutor(8) as pool:  # file servers answer many at once
            found = list(pool.map(self._stat_chunk, chunks))
        sizes, times = np.array([pair for chunk in found for pair in chunk], np.int64).reshape(-1, 2).T.copy()
        return sizes, times

    def _stat_chunk(self, start: int) -> list[tuple[int, int]]:
        pairs = []
        for name in self.names[start : start + _STAT_CHUNK]:
            try:
                status = os.stat(os.path.join(self.base, name))
                pairs.append((status.st_size, status.st_mtime_ns))
            except (OSError, ValueError):
                pairs.append((MISSING, 0))
        return pairs

    def take(self, rows: np.ndarray) -> Files:
        return Files(self.base, self.names.take(rows))


class Section(io.RawIOBase):
    """A stretch of a file as a file of its own. Reads name their place, so processes and threads may share ``fd``."""

    def __init__(self, fd: int, start: int, length: int) -> None:
        self._fd, self._start, self._length, self._position = fd, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = max(0, offset + (0, self._position, self._length)[whence])
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._length - self._position))
        content = os.pread(self._fd, wanted, self._start + self._position)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def readall(self) -> bytes:
        content = os.pread(self._fd, max(0, self._length - self._position), self._start + self._position)
        self._position += len(content)
        return content


def pread_exactly(fd: int, length: int, offset: int) -> bytes:
    """``length`` bytes at ``offset``.

    Raises:
        UnreadableImage: the file ends before.
    """
    check_within(fd, length, offset)
    return os.pread(fd, length, offset)


def check_within(fd: int, length: int, offset: int) -> None:
    """See that ``length`` bytes at ``offset`` are there, before room for them is made.

    Raises:
        UnreadableImage: the file ends before.
    """
    if offset < 0 or length < 0 or offset + length > os.fstat(fd).st_size:
        raise UnreadableImage("lies beyond the end of the archive; was the archive cut short or replaced?")
