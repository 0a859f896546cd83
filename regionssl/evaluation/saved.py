"""Trainings that take hours go on where they were stopped: their state lies in a file until the outcome is written."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from regionssl.config import Config, to_plain
from regionssl.engine.checkpoint import load_checkpoint, write_state
from regionssl.engine.distributed import current_world
from regionssl.errors import InputError
from regionssl.evaluation.start import Start, weights_digest
from regionssl.labels.digest import Labelled, labels_digest

FILE = "training.ckpt"
EVERY = 300.0
"""Seconds between two writes; shorter trainings leave no file."""


def forget(folder: Path) -> None:
    """Remove the state in a folder, for the outcome is written."""
    (folder / FILE).unlink(missing_ok=True)


class SavedTraining:
    """The state of a training of an evaluator, in ``training.ckpt`` of a folder.

    A training is the same if all that decides it is: settings, start, labels, seed, kind of device and number of
    processes. What another one left is written over. Of several processes the first reads and writes, for all.

    Args:
        folder: of the evaluation's artefacts; made when something is written.

    Attributes:
        earlier: seconds that the training took before it was stopped.
    """

    def __init__(self, folder: Path, settings: Config, start: Start, train: Labelled, seed: int, device: str) -> None:
        self.path = folder / FILE
        self.settings, self.start, self.train, self.seed, self.device = settings, start, train, seed, device
        self.began = self.written = time.monotonic()
        self.earlier = 0.0

    @cached_property
    def identity(self) -> dict[str, Any]:
        return {
            "settings": to_plain(self.settings),
            "weights": weights_digest(self.start),
            "inputs": [*self.start.mean, *self.start.std, self.start.size],
            "labels": labels_digest(self.train),
            "seed": self.seed,
            "device": torch.device(self.device).type,
            "processes": current_world().size,
        }

    def go_on(self, model: nn.Module, optimiser: Optimizer) -> tuple[int, list[float]]:
        """Take up the state of this training, if there is one.

        Returns:
            How many iterations are done, and the losses that were kept.
        """
        world = current_world()
        state = self._found() if world.rank == 0 else None
        if world.size > 1:
            told = [state]
            dist.broadcast_object_list(told)
            state = told[0]
        if state is None:
            return 0, []
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        self.earlier = state.get("seconds", 0.0)
        if world.rank == 0:
            print(f"training goes on after iteration {state['iterations']:,}", file=sys.stderr, flush=True)
        return state["iterations"], state["losses"]

    def keep(
        self, model: nn.Module, optimiser: Optimizer, iterations: int, losses: list[float], last: bool = False
    ) -> None:
        """Write the state, if the last time is long enough ago.

        Args:
            last: whether training has ended; the state of one that was written before is written again.

        Raises:
            InputError: it cannot be written.
        """
        due = time.monotonic() - self.written >= EVERY
        if current_world().rank > 0 or not (due or (last and self.path.is_file())):
            return
        state = {
            "identity": self.identity,
            "iterations": iterations,
            "losses": losses,
            "seconds": self.earlier + time.monotonic() - self.began,
            "model": model.state_dict(),
            "optimiser": optimiser.state_dict(),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_state(self.path, state)
        self.written = time.monotonic()

    def _found(self) -> Mapping[str, Any] | None:
        if not self.path.is_file():
            return None
        try:
            state = load_checkpoint(self.path)
        except InputError:
            return None
        return state if state.get("identity") == self.identity else None
