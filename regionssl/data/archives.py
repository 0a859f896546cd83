"""Images inside a zip or tar, read in place. Nothing is ever extracted, so a member's name is only a name."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from regionssl.data.cache import default_cache, keep
from regionssl.data.decode import UnreadableImage
from regionssl.data.store import Names, Section, check_within, pread_exactly
from regionssl.errors import InputError

Kind = Literal["zip", "tar"]

_PLAIN, _ZIP_STORED, _ZIP_DEFLATED, _ENCRYPTED = -1, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, -2
_ROW = np.dtype([("offset", "<i8"), ("length", "<i8"), ("size", "<i8"), ("method", "<i4"), ("crc", "<u4")])
_OPENING = threading.Lock()
"""Held by the thread that opens an archive, so that no other opens it too."""
LARGEST = 2**30
"""Bytes of a member that are read; no image needs more."""
_VERSION = 2
_COMPRESSED = {  # where in the file, and what is there
    "gzip": (0, b"\x1f\x8b"),
    "bzip2": (4, b"1AY&SY"),
    "xz": (0, b"\xfd7zXZ\0"),
    "zstandard": (0, b"\x28\xb5\x2f\xfd"),
}

# What zipfile and tarfile raise for damaged headers beside their own errors.
_BROKEN = (EOFError, ValueError, LookupError, NotImplementedError, OverflowError, RecursionError, MemoryError)

_Member = tuple[str, tuple[int, int, int, int, int]]  # name, then a row of the index


class Members:
    """Images in an archive, by an index of where each begins.

    The archive is opened on first use and stays open; a pickled copy opens it anew.
    """

    def __init__(self, path: str, names: Names, index: np.ndarray) -> None:
        self.path, self.names, self.index = path, names, index
        self._fd: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fd": None}

    def __del__(self) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def open(self, row: int) -> BinaryIO:
        with _OPENING:
            if self._fd is None:
                self._fd = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        offset, length, size, method, crc = self.index[row].tolist()
        if method == _ENCRYPTED:
            raise UnreadableImage("is encrypted")
        if max(length, size) > LARGEST:
            raise UnreadableImage(f"has more than {LARGEST // 2**30} GiB")
        if method in (_ZIP_STORED, _ZIP_DEFLATED):
            header = pread_exactly(self._fd, 30, offset)
            if not header.startswith(b"PK\3\4"):
                raise UnreadableImage("is not where the zip says; the archive is damaged")
            offset += 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        if method == _ZIP_DEFLATED:
            return io.BytesIO(_inflate(pread_exactly(self._fd, length, offset), size, crc))
        if method in (_PLAIN, _ZIP_STORED):
            check_within(self._fd, length, offset)
            return io.BufferedReader(Section(self._fd, offset, length))
        raise UnreadableImage(f"is compressed by method {method} of zip; stored and deflated members can be read")

    def stat(self) -> tuple[np.ndarray, np.ndarray]:
        return self.index["size"].copy(), np.array([os.stat(self.path).st_mtime_ns])

    def take(self, rows: np.ndarray) -> Members:
        return Members(self.path, self.names.take(rows), self.index[rows])


def _inflate(content: bytes, size: int, crc: int) -> bytes:
    try:
        plain = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
    except zlib.error as error:
        raise UnreadableImage(f"cannot be unpacked: {error}") from error
    if len(plain) != size or zlib.crc32(plain) != crc:
        raise UnreadableImage("cannot be unpacked: its length or checksum is wrong")
    return plain


def archive_kind(path: Path) -> Kind | None:
    """Which archive a file is, by its content; by its name where the content says nothing.

    Raises:
        InputError: a compressed archive, which cannot be read at random.
    """
    with path.open("rb") as file:
        head = file.read(512)
    for name, (place, mark) in _COMPRESSED.items():
        if head.startswith(mark, place):
            raise InputError(
                f"{path} is compressed ({name}), so its images cannot be read in random order; unpack it and give the "
                "folder, or make a tar without compression"
            )
    if head.startswith((b"PK\3\4", b"PK\5\6")) or path.suffix.lower() == ".zip":
        return "zip"
    if head[257:262] == b"ustar" or path.suffix.lower() == ".tar":
        return "tar"
    return None


def read_index(path: Path, kind: Kind) -> tuple[list[str], np.ndarray]:
    """Names and index rows of all files in an archive, in its order; from the cache when the archive is unchanged.

    Raises:
        InputError: the archive is broken.
    """
    status = path.stat()
    where = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]
    cached = default_cache() / f"index-{where}.npz"
    stamp = np.array([_VERSION, status.st_size, status.st_mtime_ns])
    try:
        with np.load(cached, allow_pickle=False) as kept:
            if np.array_equal(kept["stamp"], stamp) and kept["index"].dtype == _ROW:
                return _split(kept["names"].tobytes()), kept["index"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        pass
    members = list(_zip_members(path) if kind == "zip" else _tar_members(path))
    names = [name.replace("\0", "\ufffd") for name, _ in members]  # the index is kept with names joined by it
    try:
        index = np.array([row for _, row in members], _ROW)
    except OverflowError as error:
        raise InputError(f"{path} is not a whole {kind} file: it has members beyond any size; copy it again") from error
    content = io.BytesIO()
    text = np.frombuffer("\0".join(names).encode("utf-8", "surrogatepass"), np.uint8)
    np.savez(content, stamp=stamp, names=text, index=index)
    keep(cached, content.getvalue())
    return names, index


def _split(text: bytes) -> list[str]:
    return text.decode("utf-8", "surrogatepass").split("\0") if text else []


def _zip_members(path: Path) -> Iterator[_Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.is_dir():
                    method = _ENCRYPTED if member.flag_bits & 1 else member.compress_type
                    yield (
                        member.filename,
                        (member.header_offset, member.compress_size, member.file_size, method, member.CRC),
                    )
    except (zipfile.BadZipFile, struct.error, *_BROKEN) as error:
        raise InputError(f"{path} is not a whole zip file ({error}); copy it again") from error


def _tar_members(path: Path) -> Iterator[_Member]:
    """Regular files. Links are left out: what they point to is a member of its own."""
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # tarfile would keep a kilobyte for each
                if member.size < 0:
                    raise tarfile.ReadError(f"{member.name!r} has {member.size} bytes")
                if member.isreg() and not member.issparse():
                    yield member.name, (member.offset_data, member.size, member.size, _PLAIN, 0)
            end = archive.offset
        with path.open("rb") as file:
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"no header at byte {end}")
    except (tarfile.TarError, *_BROKEN) as error:
        raise InputError(f"{path} is not a whole tar file ({error}); copy it again or make it anew") from error
