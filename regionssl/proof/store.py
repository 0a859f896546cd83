"""Finished trainings on disk: a folder each, there whole or not at all, and a lock while one is in the making."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regionssl.engine.checkpoint import write_text
from regionssl.errors import InputError
from regionssl.evaluation.outcome import Outcome
from regionssl.evaluation.saved import forget
from regionssl.proof.plan import Training
from regionssl.proof.statistics import drawn_metrics, image_metrics

RESULT, DRAWN, PER_IMAGE, EVIDENCE, ARTEFACTS = "result.json", "drawn.npy", "per_image.npy", "evidence.npz", "artefacts"


@dataclass(frozen=True)
class Result:
    """What a training left.

    Attributes:
        folder: where all of it lies.
        primary, metrics, per_class: as in :class:`regionssl.evaluation.outcome.Outcome`.
        seconds: wall time of training and scoring.
        drawn: (R,) float64, the primary metric on drawn sets of validation images.
        per_image: (N,) float64, the primary metric of each validation image alone; nan where it has none.
    """

    folder: Path
    primary: str
    metrics: dict[str, float]
    per_class: dict[str, float]
    artefacts: dict[str, Path]
    seconds: float
    drawn: np.ndarray
    per_image: np.ndarray

    @property
    def value(self) -> float:
        return self.metrics[self.primary]


class Store:
    """The finished trainings below a folder.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error

    def find(self, training: Training) -> Result | None:
        """What a training left, or None if it has not finished, or what it left is damaged."""
        folder = self.folder / training.key
        try:
            kept = json.loads((folder / RESULT).read_text())
            return Result(
                folder,
                kept["primary"],
                kept["metrics"],
                {name: np.nan if value is None else value for name, value in kept["per_class"].items()},
                {name: folder / place for name, place in kept["artefacts"].items()},
                kept["seconds"],
                np.load(folder / DRAWN),
                np.load(folder / PER_IMAGE),
            )
        except (FileNotFoundError, NotADirectoryError, EOFError, ValueError, KeyError, TypeError, AttributeError):
            return None
        except OSError as error:
            raise InputError(f"cannot read the training in {folder}: {error.strerror}") from error

    @contextmanager
    def claim(self, training: Training) -> Iterator[bool]:
        """Whether this process may do the training; no other may meanwhile. A lock dies with its process."""
        path = self.folder / f"{training.key}.lock"
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def run(self, training: Training, device: str) -> Result:
        """Do a training that this process has claimed, and keep it."""
        partial = self.folder / f".{training.key}.partial"
        artefacts = partial / ARTEFACTS
        artefacts.mkdir(parents=True, exist_ok=True)
        outcome = training.evaluator.run(training.start, training.data, artefacts, training.seed, device)
        write_outcome(outcome, partial, training)
        forget(artefacts)
        keep_on_disk(partial)
        place, aside = self.folder / training.key, self.folder / f".{training.key}.damaged"
        if place.exists():
            print(f"{training.name}: what lay in {place} was damaged, so it was trained again", file=sys.stderr)
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(place, aside)
        os.replace(partial, place)
        shutil.rmtree(aside, ignore_errors=True)
        found = self.find(training)
        assert found is not None
        return found


def write_outcome(outcome: Outcome, folder: Path, training: Training) -> None:
    """Write the numbers of an outcome and what its intervals need."""
    evidence = outcome.evidence
    evidence.save(folder / EVIDENCE)
    np.save(folder / DRAWN, drawn_metrics(evidence, training.draws, training.draw_seed))
    np.save(folder / PER_IMAGE, image_metrics(evidence))
    content = {
        "training": training.name,
        "primary": outcome.primary,
        "metrics": dict(outcome.metrics),
        "per_class": {name: _number(value) for name, value in outcome.per_class.items()},
        "artefacts": {name: _inside(path, folder) for name, path in outcome.artefacts.items()},
        "seconds": round(outcome.seconds, 3),
    }
    (folder / RESULT).write_text(json.dumps(content, indent=2))


def keep_on_disk(folder: Path) -> None:
    """See that the files of a folder outlast a loss of power, before the folder gets its name."""
    for path in (*folder.rglob("*"), folder):
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.close(file)


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    """Write a table atomically; floats with all their digits, nothing for nan."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([["" if value is None or value != value else value for value in row] for row in rows])
    write_text(path, file.getvalue())


def _number(value: float) -> float | None:
    return None if value != value else float(value)


def _inside(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
