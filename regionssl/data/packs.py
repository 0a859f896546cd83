"""Packs: copies of images in a store, to be given wherever images are. ``regionssl pack`` makes them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np

from regionssl.data.decode import UnreadableImage
from regionssl.data.store import Names, pread_exactly
from regionssl.errors import InputError
from regionssl.stores.shards import NOTHING, DamagedShard, check_content, read_index
from regionssl.stores.store import FORMAT, MANIFEST, Store, open_store, read_json

NAMES = "names.json"


class Pack:
    """Images in the shards of a store, by an index of where each begins.

    The bytes of an image are checked the first time that a process reads them. They are copied out of the file rather
    than mapped: to read a map whose file was cut short ends the process.
    """

    def __init__(self, store: Store, names: Names, shards: np.ndarray, index: np.ndarray) -> None:
        """``shards`` (N,) are the numbers of the shards, ``index`` (N,) their rows of the images."""
        self.store, self.names, self.shards, self.index = store, names, shards, index
        self._sound = bytearray(len(names))

    @property
    def resized(self) -> bool:
        """Whether images may be smaller than the originals."""
        return bool(self.store.manifest.settings["short_side"])

    def open(self, row: int) -> BinaryIO:
        path, entry = self.store.shard(int(self.shards[row])), self.index[row]
        with path.open("rb") as file:
            content = pread_exactly(file.fileno(), int(entry["length"]), int(entry["offset"]))
        if not self._sound[row]:
            try:
                check_content(path, entry, content)
            except DamagedShard as error:
                raise UnreadableImage(f"lies in a damaged shard: {error}; {_mend(self.store.folder)}") from error
            self._sound[row] = True
        return io.BytesIO(content)

    def stat(self) -> tuple[np.ndarray, np.ndarray]:
        numbers, rows = np.unique(self.shards, return_inverse=True)
        times = np.array([self.store.shard(int(number)).stat().st_mtime_ns for number in numbers], np.int64)
        return self.index["length"].astype(np.int64), times[rows]

    def take(self, rows: np.ndarray) -> Pack:
        return Pack(self.store, self.names.take(rows), self.shards[rows], self.index[rows])


def is_pack(folder: Path) -> bool:
    """Whether a folder is a store; that it holds images is looked at when it is opened."""
    path = folder / MANIFEST
    return path.is_file() and FORMAT.encode() in path.read_bytes()[:100]


def open_pack(folder: Path) -> Pack:
    """The images of a pack that could be decoded when it was made.

    Raises:
        InputError: the store holds something else, is unfinished, or a shard is missing or damaged.
    """
    store = open_store(folder.absolute(), None, "images")
    if not isinstance(store.manifest.settings.get("short_side"), int):
        raise InputError(f"{folder / MANIFEST} is broken: it has no short_side; make a new pack")
    names = read_names(folder)
    if len(names) != len(store):
        raise InputError(f"{folder / NAMES} has {len(names)} names for {len(store)} images; {_mend(folder)}")
    try:
        parts = [read_index(store.shard(number)) for number in range(store.manifest.shards)]
    except DamagedShard as error:
        raise InputError(f"{error}; {_mend(folder)}") from error
    shards = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
    index = np.concatenate(parts)
    if len(index) != len(names):
        raise InputError(f"the shards of {folder} hold {len(index)} images for {len(names)} names; {_mend(folder)}")
    there = np.flatnonzero(index["coding"] != NOTHING)
    return Pack(store, Names(names[row] for row in there), shards[there], index[there])


def read_names(folder: Path) -> list[str]:
    """The names of all images of a pack, those that could not be decoded too.

    Raises:
        InputError: the file is missing or broken.
    """
    names = read_json(folder / NAMES).get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{folder / NAMES} is broken; {_mend(folder)}")
    return names


def _mend(folder: Path) -> str:
    return f"run the regionssl pack that made {folder} again: it makes anew what is damaged, and nothing else"
