"""One file with the arrays or files of some hundred images: checked, and readable at random.

Layout, little endian: magic (8 bytes), number of rows (4), CRC-32 of the index (4), the index, the contents. A row of
the index is the digest of the image (16), offset and length of its content (8 and 8), CRC-32 of the content (4) and its
coding (4): 0 nothing, 1 a ``.npy`` file as it is, 2 the same deflated, 3 the bytes of an image file. Equal rows give
equal bytes.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_MAGIC = b"RGNSSL01"
_HEAD = struct.Struct("<8sII")
_LARGEST_ARRAY = 2**30  # bytes, deflated
_ROW = np.dtype([("digest", "S16"), ("offset", "<u8"), ("length", "<u8"), ("crc", "<u4"), ("coding", "<u4")])
NOTHING, _PLAIN, _DEFLATED, _FILE = range(4)

Coded = tuple[int, bytes]
"""The coding of a row, and its bytes."""


class DamagedShard(Exception):
    """A shard that is missing, cut short, or whose bytes are not those that were written; the message says which."""


def code(item: np.ndarray | bytes | None) -> Coded:
    """An array, a file or None as it is written. Integers are deflated in the narrowest type that holds them."""
    if item is None:
        return NOTHING, b""
    if isinstance(item, bytes):
        return _FILE, item
    narrow = _narrow(item)
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(narrow), allow_pickle=False)
    if narrow.dtype.kind == "f":
        return _PLAIN, file.getvalue()
    return _DEFLATED, zlib.compress(file.getvalue(), 6)


def decode(coded: Coded) -> np.ndarray | None:
    """The array that :func:`code` was given, integers perhaps in a narrower type."""
    coding, content = coded
    if coding == NOTHING:
        return None
    plain = content if coding == _PLAIN else zlib.decompressobj().decompress(content, _LARGEST_ARRAY)
    array: np.ndarray = np.load(io.BytesIO(plain), allow_pickle=False)
    return array


def _narrow(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "iu" or not array.size:
        return array
    low, high = array.min(), array.max()
    return array.astype(np.promote_types(np.min_scalar_type(low), np.min_scalar_type(high)))


def write_shard(path: Path, rows: Sequence[tuple[bytes, Coded]]) -> None:
    """Write a shard whole or not at all.

    Args:
        rows: digest (16 bytes) and coded content of each image.
    """
    index = np.zeros(len(rows), _ROW)
    offset = _HEAD.size + index.nbytes
    for row, (digest, (coding, content)) in zip(index, rows, strict=True):
        row["digest"], row["offset"], row["length"] = digest, offset, len(content)
        row["crc"], row["coding"] = zlib.crc32(content), coding
        offset += len(content)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(_HEAD.pack(_MAGIC, len(rows), zlib.crc32(index.tobytes())))
        file.write(index.tobytes())
        file.writelines(content for _, (_, content) in rows)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_row(path: Path, row: int) -> np.ndarray | None:
    """One array of a shard, without reading the others.

    Raises:
        DamagedShard: the shard is missing, or this row is damaged.
    """
    try:
        with path.open("rb") as file:
            magic, count, _ = _HEAD.unpack(file.read(_HEAD.size))
            if magic != _MAGIC or row >= count:
                raise DamagedShard(f"{path} is not a shard with {row + 1} rows")
            file.seek(row * _ROW.itemsize, os.SEEK_CUR)
            entry = np.frombuffer(file.read(_ROW.itemsize), _ROW)[0]
            start, length = int(entry["offset"]), int(entry["length"])
            if start + length > os.fstat(file.fileno()).st_size:
                raise DamagedShard(f"{path} is cut short, or its index is damaged")
            file.seek(start)
            return decode(_checked(path, entry, file.read(length)))
    except (OSError, ValueError, IndexError, EOFError, MemoryError, struct.error, zlib.error) as error:
        raise DamagedShard(f"{path} cannot be read: {error}") from error


def read_shard(path: Path) -> list[tuple[bytes, Coded]]:
    """All rows of a shard as :func:`write_shard` took them, every byte checked.

    Raises:
        DamagedShard: it is missing, or a byte is not as it was written.
    """
    try:
        content = path.read_bytes()
        return [
            (_digest(entry), _checked(path, entry, content[entry["offset"] : entry["offset"] + entry["length"]]))
            for entry in _index(path, content)
        ]
    except (OSError, ValueError, struct.error) as error:
        raise DamagedShard(f"{path} cannot be read: {error}") from error


def read_digests(path: Path) -> list[bytes]:
    """The digests of a shard's rows.

    Raises:
        DamagedShard: as :func:`read_index`.
    """
    return [_digest(entry) for entry in read_index(path)]


def read_index(path: Path) -> np.ndarray:
    """The index of a shard, (rows,) with the fields of the layout above; the contents are not looked at.

    Raises:
        DamagedShard: it is missing, cut short, or its index is damaged.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD.size)
            length = min(_HEAD.unpack(head)[1] * _ROW.itemsize, os.fstat(file.fileno()).st_size)
            index = _index(path, head + file.read(length))
            ends = index["offset"] + index["length"]
            if len(index) and file.seek(0, os.SEEK_END) < ends.max():
                raise DamagedShard(f"{path} is cut short")
            return index
    except (OSError, ValueError, struct.error) as error:
        raise DamagedShard(f"{path} cannot be read: {error}") from error


def _index(path: Path, content: bytes) -> np.ndarray:
    magic, count, crc = _HEAD.unpack(content[: _HEAD.size])
    index = content[_HEAD.size :][: count * _ROW.itemsize]
    if magic != _MAGIC or zlib.crc32(index) != crc:
        raise DamagedShard(f"{path} is not a shard, or its index is damaged")
    return np.frombuffer(index, _ROW)


def _digest(entry: np.void) -> bytes:
    return bytes(entry["digest"]).ljust(16, b"\0")  # NumPy drops zeros at the end


def check_content(path: Path, entry: np.void, content: bytes) -> None:
    """See that the content of a row is what its row of the index says.

    Raises:
        DamagedShard: it is not.
    """
    if len(content) != entry["length"] or zlib.crc32(content) != entry["crc"]:
        raise DamagedShard(f"{path} is damaged: the bytes of a row are not those that were written")


def _checked(path: Path, entry: np.void, content: bytes) -> Coded:
    check_content(path, entry, content)
    return int(entry["coding"]), content


def digest_file(path: Path) -> str:
    """16 hexadecimal digits that stand for the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
