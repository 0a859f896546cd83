"""``regionssl pack``: copies of all images in a few large files, quicker to read and to decode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from regionssl.config import parse
from regionssl.data.contents import content_digest
from regionssl.data.decode import UnreadableImage
from regionssl.data.images import ImageList, find_images, scan
from regionssl.data.packing import PackConfig, packed
from regionssl.data.packs import NAMES
from regionssl.data.scan import MOST_BAD
from regionssl.data.scan_report import listed, printable
from regionssl.errors import InputError
from regionssl.stores.shards import NOTHING, read_index
from regionssl.stores.store import Manifest, Store, hash_names, write_json
from regionssl.verbs.stores import launched_rank, make_store, share_of, size_on_disk


def pack(
    data: Annotated[Path, typer.Argument(help="folder, list, COCO json, zip or tar of images")],
    out: Annotated[Path, typer.Option(help="folder of the pack; an unfinished one is gone on with")],
    format: Annotated[str, typer.Option(help="jpeg, or raw: larger, and needs no decoding")] = "jpeg",
    short_side: Annotated[int, typer.Option(help="pixels that longer sides are reduced to; 0: none")] = 448,
    quality: Annotated[int, typer.Option(help="of JPEGs that are written")] = 95,
    workers: Annotated[int | None, typer.Option(help="processes; torchrun works too [default: cores]")] = None,
    image_root: Annotated[Path | None, typer.Option(help="where the images of a COCO json lie")] = None,
) -> Path:
    """Copy images into a pack, which is then given in their place: smaller, in few files, quicker to decode.

    Interrupted, it goes on where it stopped; run again, it makes anew what changed or was damaged.

    Returns:
        The folder of the pack.

    Raises:
        InputError: something given cannot be used, more than 5 % of the images cannot be decoded, or OUT holds
            something else or was made from other images or settings.
    """
    data, out, console = Path(data), Path(out), Console(quiet=launched_rank() != 0)
    if workers is not None and workers < 1:
        raise InputError(f"--workers counts from 1, got {workers}")
    config = parse(PackConfig, {"format": format, "short_side": short_side, "quality": quality}, "pack")
    images, scanned = scan(find_images(data, image_root))
    console.print("\n".join(scanned.lines()), highlight=False, markup=False)
    manifest = Manifest("images", config.settings, hash_names(images.names), len(images), config.libraries)
    share = share_of(workers)
    store = make_store(
        out, manifest, images, PackWork(images, config), share, console, "pack", lambda store: finish(store, images)
    )
    if (found := store.completed()) is not None:
        aside = tuple((name, reason) for name, reason in found["summary"]["set_aside"])
        if aside:
            console.print(f"set aside: {len(aside):,}", *listed(aside, "  "), sep="\n", highlight=False, markup=False)
        console.print(f"{out}: {size_on_disk(store)}", highlight=False, soft_wrap=True)
    return out


@dataclass
class PackWork:
    """Copies of images, one at a time."""

    images: ImageList
    config: PackConfig
    forks: bool = True

    def start(self, worker: int) -> None:
        """Nothing to prepare."""

    def digest(self, i: int) -> bytes:
        return content_digest(self.images, i)

    def make(self, positions: Sequence[int]) -> Iterator[bytes | None]:
        for i in positions:
            try:
                yield packed(self.images.read(i), self.config)
            except UnreadableImage:
                yield None


def finish(store: Store, images: ImageList) -> dict[str, Any]:
    """Write the names of the images, and say which could not be decoded, and why.

    Raises:
        InputError: too many of them.
    """
    aside = [(printable(images.names[i]), _reason(images, i)) for i in _left_out(store)]
    if len(aside) > MOST_BAD * len(images) or len(aside) == len(images):
        listing = "\n".join(listed(tuple(aside), "  "))
        raise InputError(
            f"{len(aside)} of the {len(images)} images in {images.root} cannot be decoded, and at most {MOST_BAD:.0%} "
            f"may be set aside; repair them or take them out:\n{listing}"
        )
    write_json(store.folder / NAMES, {"names": list(images.names)})
    return {"set_aside": aside}


def _left_out(store: Store) -> Iterator[int]:
    """Positions of the images without a copy."""
    for number in range(store.manifest.shards):
        codings = read_index(store.shard(number))["coding"].tolist()
        yield from (i for i, coding in zip(store.manifest.rows(number), codings, strict=True) if coding == NOTHING)


def _reason(images: ImageList, i: int) -> str:
    try:
        images.load(i)
    except UnreadableImage as error:
        return str(error)
    return "could not be read when the pack was made, and can be now; run the command again"
