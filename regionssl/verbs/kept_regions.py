"""Regions that a run computes from its images: found once and kept in the run folder, not anew in every epoch."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from rich.console import Console

from regionssl.build import make_regions
from regionssl.data.images import ImageList
from regionssl.data.scan import usable_cores
from regionssl.methods.base import MethodConfig
from regionssl.regions.kinds import library_of, settings_of
from regionssl.regions.sources import SourceConfig
from regionssl.stores.build import Share
from regionssl.stores.store import COMPLETE, Manifest, hash_names
from regionssl.verbs.regions import RegionWork
from regionssl.verbs.stores import make_store

FOLDER = "regions"
_COMPUTED = ("slic", "felzenszwalb")


def keep_regions(
    method: MethodConfig, images: ImageList, epochs: float, out: Path, rank: int, console: Console
) -> MethodConfig:
    """The method with its regions in a store, if they are computed and would be more than once.

    Args:
        epochs: passes over the images.
        out: the run folder.
        rank: of this process among those that share ``out``; the first makes the store, the others wait for it.

    Raises:
        InputError: a library is missing, or the store is of other images or settings.
    """
    source: SourceConfig | None = getattr(method, "source", None)
    computed = source is not None and source.kind in _COMPUTED and source.store is None and method.plan.wants_regions
    if source is None or not computed or epochs <= 1:
        return method
    folder = out / FOLDER
    stored = method.model_copy(update={"source": source.model_copy(update={"store": folder})})
    if rank > 0:
        wait_for(folder / COMPLETE)
        return stored
    maker = make_regions(method, images.names, images)
    assert maker is not None
    manifest = Manifest("labels", settings_of(source), hash_names(images.names), len(images), library_of(source.kind))
    make_store(
        folder, manifest, images, RegionWork(images, maker), Share(usable_cores()), console, f"{source.kind} regions"
    )
    return stored


def wait_for(file: Path) -> None:
    """Wait until the first process has made a file; end with it if it is gone."""
    parent = os.getppid()
    while not file.is_file():
        if os.getppid() != parent:
            sys.exit(1)  # the first process, which started this one, is gone
        time.sleep(1)
