"""What is kept of images on disk: label maps, boxes, features or smaller copies, by their content and the settings.

A store is a folder: ``store.json`` says what it holds, ``shards/`` holds it (:mod:`regionssl.stores.shards`),
``complete.json`` appears when all of it is there. :mod:`regionssl.stores.build` fills it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from regionssl.config import differences
from regionssl.errors import InputError
from regionssl.stores.shards import DamagedShard, read_digests, read_row

FORMAT = "regionssl store 1"
MANIFEST, COMPLETE, CHECKED = "store.json", "complete.json", "checked.json"
LARGEST_SHARD, FEWEST_SHARDS = 64, 16

Content = Literal["labels", "boxes", "features", "neighbours", "pairs", "images"]


@dataclass(frozen=True)
class Manifest:
    """What a store holds.

    Attributes:
        content: "labels" are (h, w) integer maps that cover the image; "boxes" are (B, 4), left, top, width and height
            in whole image pixels; "features" are float arrays; "neighbours" (K,) are positions of other images;
            "pairs" (K, n, 8) are boxes of the image and of each of its neighbours; "images" are image files
            (:mod:`regionssl.data.packs`).
        settings: plain values that decide the arrays, beside the images.
        names: hash of the names of the images, in order.
        images: their number.
        libraries: versions of the libraries that made the arrays; a store is not continued with others.
    """

    content: Content
    settings: dict[str, Any]
    names: str
    images: int
    libraries: dict[str, str] = field(default_factory=dict)

    @property
    def shard_size(self) -> int:
        """Images per shard: few enough to lose little when work is interrupted, and to share it out evenly."""
        return max(1, min(LARGEST_SHARD, self.images // FEWEST_SHARDS))

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.images // self.shard_size)

    def rows(self, shard: int) -> range:
        """Positions of the images in a shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.images))

    def to_plain(self) -> dict[str, Any]:
        """The manifest as JSON values."""
        return {"format": FORMAT, **self.__dict__}


def hash_names(names: Sequence[str]) -> str:
    """16 hexadecimal digits that stand for a list of names."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:16]


class Store:
    """A store that may be read; small, picklable, and safe to read from many processes and threads."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest

    def __len__(self) -> int:
        return self.manifest.images

    def shard(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / "shards" / f"{number:06d}.bin"

    def read(self, i: int) -> np.ndarray | None:
        """The array of image ``i``; None if the image could not be read when the store was made.

        Raises:
            InputError: the shard is missing or damaged.
        """
        number, row = divmod(range(len(self))[i], self.manifest.shard_size)
        try:
            return read_row(self.shard(number), row)
        except DamagedShard as error:
            raise InputError(f"{error}; run the command that made the store again: it makes this shard anew") from error

    def digests(self) -> Iterator[bytes]:
        """The digest of each image's file when its array was made.

        Raises:
            InputError: a shard is missing or damaged.
        """
        for number in range(self.manifest.shards):
            try:
                yield from read_digests(self.shard(number))
            except DamagedShard as error:
                raise InputError(f"{error}; run the command that made the store again") from error

    def contents(self) -> str:
        """A hash over the digests of all images."""
        digest = hashlib.sha256()
        for one in self.digests():
            digest.update(one)
        return digest.hexdigest()[:16]

    def completed(self) -> dict[str, Any] | None:
        """The images' fingerprint and the summary, from ``complete.json``; None for an unfinished store."""
        path = self.folder / COMPLETE
        if not path.is_file():
            return None
        done = read_json(path)
        if not isinstance(done.get("images_fingerprint"), str) or not isinstance(done.get("summary"), dict):
            raise InputError(f"{path} is broken; remove it and run the command that made it again")
        return done


def open_store(
    folder: Path, fingerprint: str | None, content: Content | None = None, settings: Mapping[str, Any] | None = None
) -> Store:
    """Open a complete store for reading.

    Args:
        fingerprint: of the images it must have been made from; None accepts any.
        content: what it must hold.
        settings: what it must have been made with.

    Raises:
        InputError: there is none, it is unfinished or broken, or it is of other images, settings or content.
    """
    store = Store(folder, read_manifest(folder))
    manifest = store.manifest
    if content is not None and manifest.content != content:
        raise InputError(f"{folder} holds {manifest.content}, and {content} are needed; give another store")
    changed = differences(manifest.settings, settings) if settings is not None else []
    if changed:
        raise InputError(f"the store {folder} was made with other settings:\n  " + "\n  ".join(changed))
    done = store.completed()
    if done is None:
        raise InputError(f"the store {folder} is unfinished; run the command that began it again: it goes on")
    made_of = done["images_fingerprint"]
    if fingerprint is not None and made_of != fingerprint:
        raise InputError(
            f"the store {folder} was made from other images: theirs have the fingerprint {made_of}, these "
            f"{fingerprint}. If images changed, run the command that made the store again: it makes theirs anew; "
            "if some were added or removed, make a new store"
        )
    return store


def check_contents(store: Store, names: Sequence[str], stamp: str, digests: Callable[[], Sequence[bytes]]) -> None:
    """See that no image has changed since its array was made. Hashes all files, unless no name, size or time changed.

    Args:
        names: of the images.
        stamp: changes when one of them does.
        digests: gives the digest of each image's file.

    Raises:
        InputError: some have changed; the first few are named.
    """
    path = store.folder / CHECKED
    if path.is_file() and read_json(path).get("stamp") == stamp:
        return
    pairs = zip(store.digests(), digests(), strict=True)
    changed = [name for name, (before, now) in zip(names, pairs, strict=True) if before != now]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise InputError(
            f"images have changed since the store {store.folder} was made: {', '.join(changed[:3])}{more}; run the "
            "command that made it again: it makes theirs anew"
        )
    note_checked(store, stamp)


def note_checked(store: Store, stamp: str) -> None:
    """Note that the store fits the images as they are; a folder that cannot be written is left alone."""
    try:
        write_json(store.folder / CHECKED, {"stamp": stamp})
    except OSError:
        return


def read_manifest(folder: Path) -> Manifest:
    """What a store holds.

    Raises:
        InputError: ``folder`` is not a store.
    """
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} is not a store: it has no {MANIFEST}; make one with: regionssl regions")
    plain = read_json(folder / MANIFEST)
    if plain.pop("format", None) != FORMAT:
        raise InputError(f"{folder / MANIFEST} is not of the format {FORMAT!r}; make a new store")
    try:
        manifest = Manifest(**plain)
    except TypeError as error:
        raise InputError(f"{folder / MANIFEST} is broken: {error}; make a new store") from error
    kinds = {"content": str, "settings": dict, "names": str, "images": int, "libraries": dict}
    wrong = [name for name, kind in kinds.items() if type(getattr(manifest, name)) is not kind]
    if wrong or manifest.images < 1:
        raise InputError(f"{folder / MANIFEST} is broken ({', '.join(wrong) or 'no images'}); make a new store")
    return manifest


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}; remove it and run the command that made it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no object; remove it and run the command that made it again")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)


@dataclass(frozen=True)
class StoredLabels:
    """A region source that reads label maps from a store."""

    store: Store

    def __call__(self, image: Image.Image, position: int) -> np.ndarray:
        labels = self.store.read(position)
        if labels is None:
            raise InputError(
                f"the store {self.store.folder} has no regions of image {position}, which could not be read when it "
                "was made; run the command that made it again"
            )
        return labels
