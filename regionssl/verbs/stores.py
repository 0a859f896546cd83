"""Making a store from a verb: progress, several processes, several launched commands, and what is said at the end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from regionssl.data.contents import stamp
from regionssl.data.images import ImageList
from regionssl.data.scan import usable_cores
from regionssl.stores.build import Share, Work, complete, fill, prepare, unfinished
from regionssl.stores.store import Manifest, Store, note_checked
from regionssl.verbs.claim import claimed
from regionssl.verbs.progress import Bar


def share_of(devices: int | None, network: bool = False) -> Share:
    """This command's share of the work: all of it, or one of those that torchrun started.

    Args:
        devices: processes on this machine; None for one per core, or a single one for a network, which has threads.
    """
    commands = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    processes = devices or (1 if network else max(1, usable_cores() // commands))
    return Share(processes, launched_rank(), int(os.environ.get("WORLD_SIZE", 1)))


def launched_rank() -> int:
    """This command's place among those that torchrun started."""
    return int(os.environ.get("RANK", 0))


def make_store(
    folder: Path,
    manifest: Manifest,
    images: ImageList,
    work: Work,
    share: Share,
    console: Console,
    name: str,
    summarise: Callable[[Store], dict[str, Any]] = lambda store: {},
) -> Store:
    """Begin a store or go on with it, and declare it complete once every shard is there.

    Args:
        name: of the work, for the console.

    Raises:
        InputError: the folder holds something else, a store of other images or settings, or another command's work.
    """
    store, before = prepare(folder, manifest), stamp(images)
    with claimed(folder):
        with Bar(console, name, -(-len(images) // share.count)) as bar:
            fill(store, work, share, bar.add)
        console.print(bar.summary(), highlight=False, soft_wrap=True)
        left = unfinished(store)
        if left:
            console.print(f"{left} shards are still to come from the other processes", highlight=False)
            return store
        complete(store, images.fingerprint, summarise(store))
        note_checked(store, before)
    return store


def size_on_disk(store: Store) -> str:
    """How much a store takes."""
    total = sum(store.shard(number).stat().st_size for number in range(store.manifest.shards))
    return f"{store.manifest.shards} shards, {total / 2**20:,.1f} MiB, {total / len(store) / 1024:,.2f} KiB an image"
