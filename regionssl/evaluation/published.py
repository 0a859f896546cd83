"""The papers' result rows, as data: what a published protocol gave the authors."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from regionssl.config import Config, parse, read_yaml

_FILE = Path(__file__).with_name("published.yaml")


class Published(Config):
    """One row of a table.

    Attributes:
        method: as its paper calls it; "random" and "supervised" are the usual references.
        data: what it was pre-trained on.
        epochs: of the pre-training, None where there was none or it is not known.
        metrics: by the evaluators' names, in 0..100.
        verified: whether the number was read in the paper, its repository, or a paper that quotes it. Numbers that were
            recalled, come from a third party, or belong to another protocol are not verified.
        source: where the number is from.
        note: what else must be known.
    """

    method: str
    data: str
    epochs: int | None
    metrics: dict[str, float]
    verified: bool
    source: str
    note: str = ""


@lru_cache(maxsize=1)
def published() -> dict[str, tuple[Published, ...]]:
    """All rows by the name of their protocol."""
    tables = read_yaml(_FILE)
    return {
        protocol: tuple(parse(Published, row, f"{_FILE.name}, {protocol}") for row in rows)
        for protocol, rows in tables.items()
    }


def published_rows(protocol: str) -> tuple[Published, ...]:
    """The rows of one protocol; none for a protocol that no paper reports."""
    return published().get(protocol, ())
