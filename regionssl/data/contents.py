"""What the files of images hold, as hashes: how results that were kept know whether an image has changed."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

from regionssl.data.decode import UnreadableImage
from regionssl.data.image_list import ImageList

UNREADABLE = bytes(16)
_CHUNK = 256


def content_digest(images: ImageList, i: int) -> bytes:
    """16 bytes of BLAKE2b over the file of image ``i``; zeros if it cannot be read."""
    try:
        return hashlib.blake2b(images.read(i), digest_size=16).digest()
    except UnreadableImage:
        return UNREADABLE


def content_digests(images: ImageList) -> list[bytes]:
    """:func:`content_digest` of all images."""
    chunks = (range(start, min(start + _CHUNK, len(images))) for start in range(0, len(images), _CHUNK))
    with ThreadPoolExecutor(8) as pool:  # hashing and reading leave the interpreter's lock
        return [
            digest
            for chunk in pool.map(lambda rows: [content_digest(images, i) for i in rows], chunks)
            for digest in chunk
        ]


def stamp(images: ImageList) -> str:
    """What changes when an image does, as far as names, sizes and times of change tell; cheap."""
    digest = hashlib.blake2b(images.fingerprint.encode(), digest_size=16)
    digest.update(images.stat[1].astype("<i8").tobytes())
    return digest.hexdigest()
