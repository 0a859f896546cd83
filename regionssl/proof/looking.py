"""The look for leakage of one comparison: which images there are, done once, and kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from regionssl.data.hashes import SHARE, small_pictures
from regionssl.data.image_list import ImageList
from regionssl.data.images import find_images, scan
from regionssl.engine.checkpoint import write_json
from regionssl.errors import InputError
from regionssl.evaluation.start import Start, weights_digest
from regionssl.labels.sets import Split
from regionssl.proof.leakage import TESTS, Leakage, find_leaks
from regionssl.proof.likeness import COSINE, LEAST, MOST_ON_CPU, pooled_features, standardised_features
from regionssl.proof.store import write_csv

KEPT, LISTED = "leakage.json", "leakage.csv"
FACTS = "run.json"


def look_for_leaks(
    out: Path,
    data: Split[Any],
    starts: Sequence[Start],
    unlabelled: Path | None,
    device: str,
    say: Callable[[str], None],
) -> tuple[Leakage, float]:
    """What is near what, and the seconds that it took; read from ``out`` if the images are the same.

    Args:
        unlabelled: images of pre-training; None takes those that the runs' own records name, where they still are.

    Raises:
        InputError: ``unlabelled`` holds no images.
    """
    images, remarks = images_to_compare(data, starts, unlabelled)
    judge = next((start for start in starts if start.pretrained), None)
    total = sum(len(one) for one in images.values())
    featured = judge is not None and total >= LEAST and (device != "cpu" or total <= MOST_ON_CPU)
    stamp = {
        "images": {split: one.fingerprint for split, one in images.items()},
        "tests": {"hash": SHARE, "features": [COSINE, weights_digest(judge)] if featured and judge else None},
    }
    kept = _recall(out / KEPT, stamp)
    if kept is not None:
        return kept
    began = time.perf_counter()
    say(f"looking for near-copies among {total:,} images")
    pictures = {split: small_pictures(one) for split, one in images.items()}
    features = None
    if featured and judge is not None:
        features = standardised_features({split: pooled_features(judge, one, device) for split, one in images.items()})
    found = find_leaks(images, pictures, features, COSINE)
    if not featured:
        remarks.append("near-copies were looked for by hash alone: " + _why_no_features(judge, total))
    leakage = Leakage(found.rows, found.excluded, found.looked_at, (*found.remarks, *remarks))
    seconds = time.perf_counter() - began
    _keep(out, leakage, stamp, seconds)
    return leakage, seconds


def images_to_compare(
    data: Split[Any], starts: Sequence[Start], unlabelled: Path | None
) -> tuple[dict[str, ImageList], list[str]]:
    """Images by split, "val" last, and sentences on what is missing."""
    images: dict[str, ImageList] = {}
    remarks: list[str] = []
    if unlabelled is not None:
        images["unlabelled"] = scan(find_images(unlabelled))[0]
    else:
        for start in starts:
            found = images_of_run(start)
            if isinstance(found, str):
                remarks.append(found)
            elif found is not None and found.fingerprint not in {one.fingerprint for one in images.values()}:
                images["unlabelled" if not images else f"unlabelled, {start.name}"] = found
    if data.train is not data.val:
        images["train"] = data.train.images
    return {**images, "val": data.val.images}, remarks


def images_of_run(start: Start) -> ImageList | str | None:
    """The images that a start was pre-trained on; a sentence if they are not at hand, None for random weights."""
    if not start.pretrained:
        return None
    path = Path(start.source) / FACTS
    lost = f"the images that {start.name} was pre-trained on are not at hand, so they were not compared"
    if not path.is_file():
        return f"{lost}; name them with --unlabelled" if start.source != "imagenet" else lost
    try:
        recorded: Mapping[str, Any] = json.loads(path.read_text())["data"]
        root = Path(recorded["image_root"]) if recorded["image_root"] else None
        images = scan(find_images(Path(recorded["source"]), root))[0]
        if images.fingerprint == recorded["fingerprint"]:
            return images
    except (InputError, OSError, ValueError, KeyError, TypeError):
        pass
    return f"{lost}: they are gone or have changed; name them with --unlabelled"


def _why_no_features(judge: Start | None, total: int) -> str:
    if judge is None:
        return "no start is pre-trained"
    if total < LEAST:
        return f"{total} images are too few to tell by features"
    return f"features of {total:,} images take long on a CPU"


def _recall(path: Path, stamp: Mapping[str, Any]) -> tuple[Leakage, float] | None:
    if not path.is_file():
        return None
    try:
        kept = json.loads(path.read_text())
        if kept["stamp"] != stamp:
            return None
        rows = tuple(tuple(row) for row in kept["rows"])
        return Leakage(rows, tuple(kept["excluded"]), kept["looked_at"], tuple(kept["remarks"])), kept["seconds"]
    except (ValueError, KeyError, TypeError):
        return None  # damaged


def _keep(out: Path, leakage: Leakage, stamp: Mapping[str, Any], seconds: float) -> None:
    header = ["split", "image", "near_split", "near_image", "test", "measure", "unit"]
    write_csv(out / LISTED, header, [[*row, TESTS[row[4]]] for row in leakage.rows])
    content = {
        "stamp": stamp,
        "excluded": leakage.excluded,
        "looked_at": leakage.looked_at,
        "remarks": leakage.remarks,
        "rows": leakage.rows,
        "seconds": round(seconds, 2),
    }
    write_json(out / KEPT, content)
