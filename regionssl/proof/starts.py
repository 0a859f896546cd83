"""The starts that are compared: opened, named apart, and checked before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm

from regionssl.errors import InputError
from regionssl.evaluation.start import Start, open_start
from regionssl.export.run_weights import CARD, read_card


def open_starts(runs: Sequence[str], against: Sequence[str], backbone: str | None) -> list[Start]:
    """The runs to be judged, then what they are compared with; all of one architecture, that of the first run.

    Random weights are the architecture's own, not those that a method begins with: PLRC's, whose residual branches
    start at zero, make a weaker opponent.

    Raises:
        InputError: one cannot be opened, comes twice, has another backbone, or takes other inputs than RGB.
    """
    sources = [*runs, *against]
    twice = sorted({source for source in sources if sources.count(source) > 1})
    if twice:
        raise InputError(f"{twice[0]} is named twice; each start is compared once")
    first = open_start(runs[0], backbone)
    starts = [first]
    for source in sources[1:]:
        given = first.config.name if backbone is None and not _knows_its_backbone(source) else backbone
        start = open_start(source, given)
        if start.config.name != first.config.name:
            raise InputError(
                f"{source} holds a {start.config.name} and {runs[0]} a {first.config.name}; starts are compared at one "
                "architecture"
            )
        starts.append(start)
    return [checked_inputs(start) for start in _named_apart(starts)]


def checked_inputs(start: Start) -> Start:
    """The start with the mean and standard deviation that its weights were made for.

    Raises:
        InputError: the weights take colours in another order than RGB, or values of another range than 0 to 1.
    """
    if start.source == "imagenet":
        made_for = timm.get_pretrained_cfg(start.config.name)
        if made_for is not None:
            return replace(start, mean=tuple(made_for.mean), std=tuple(made_for.std))
    run = Path(start.source)
    card = read_card(run) if (run / CARD).is_file() else {}
    order, values = card.get("colour_order", "RGB"), list(card.get("value_range", [0, 1]))
    if order != "RGB" or values != [0, 1]:
        raise InputError(
            f"{run / CARD} says that the weights take colours in the order {order} and values in {values}; evaluations "
            "feed RGB in 0 to 1: convert the weights, and say so in the card"
        )
    if not all(0 <= value <= 1 for value in start.mean) or not all(0 < value <= 1 for value in start.std):
        raise InputError(
            f"{start.name} was normalised by mean {start.mean} and std {start.std}; they are expected for values in "
            "0 to 1, so divide them by 255"
        )
    return start


def try_out(start: Start, maps: tuple[str, ...]) -> None:
    """Build the start's backbone once.

    Raises:
        InputError: its weights cannot be had or do not fit, or it lacks one of the maps.
    """
    start.encoder(maps)


def maps_of(settings: dict[str, Any]) -> tuple[str, ...]:
    """Which feature maps an evaluator of these settings reads, as far as they say; c5 where they do not."""
    maps = settings.get("maps") or ["c5"]
    found = tuple(name for name in maps if name in ("c2", "c3", "c4", "c5"))
    return found or ("c5",)


def _knows_its_backbone(source: str) -> bool:
    return (Path(source) / CARD).is_file()


def _named_apart(starts: Sequence[Start]) -> list[Start]:
    """Starts whose names differ: with as many of their parent folders as that takes."""
    names = [start.name for start in starts]
    depth = 2
    while len(set(names)) < len(names) and depth < 10:
        doubled = {name for name in names if names.count(name) > 1}
        for i, start in enumerate(starts):
            if names[i] in doubled and start.source not in ("random", "imagenet"):
                names[i] = "/".join(Path(start.source).absolute().with_suffix("").parts[-depth:])
        depth += 1
    return [replace(start, name=name) for start, name in zip(starts, names, strict=True)]
