"""Noticing that a process of the run has gone, while the others wait for it inside a collective.

A process that is killed closes its connections, and the waiting ones fail at once. A host that loses power or network
does not: gloo and NCCL would wait for it for ten to thirty minutes. So every process tells every few seconds that it is
there, by a store that the first process keeps, and watches the next one of the ring.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

import torch.distributed as dist

from regionssl.methods.base import World

EVERY = 5.0  # seconds between two signs of life
LIMIT = 40.0  # seconds without one, after which a process counts as lost

_GONE, _DONE = "gone", "done"


class Store(Protocol):
    """What is used of torch's stores."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def check(self, keys: list[str]) -> bool: ...


class Pulse:
    """The signs of life of one process, and its watch over the next of the ring.

    Args:
        store: shared by the processes; used by this object alone.
        give_up: called once, in a thread, with the sentence that says who is missing.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        give_up: Callable[[str], None],
        every: float = EVERY,
        limit: float = LIMIT,
    ) -> None:
        self.store, self.rank, self.size = store, rank, size
        self.give_up, self.every, self.limit = give_up, every, limit
        self.next = (rank + 1) % size
        self.stopped = threading.Event()
        self.answered = self.moved = time.monotonic()
        self.seen = ""
        store.set(str(rank), self._sign(0))
        self.threads = [threading.Thread(target=part, daemon=True) for part in (self._beat, self._judge)]

    def start(self) -> None:
        """Begin, once all processes have made their objects."""
        self.answered = self.moved = time.monotonic()
        for thread in self.threads:
            thread.start()

    def leave(self) -> None:
        """End in good order; the one that watches this process watches no longer."""
        self.stopped.set()
        try:
            self.store.set(str(self.rank), _DONE)
        except RuntimeError:
            return  # the first process has ended, and the store with it

    def fall_silent(self) -> None:
        """End because something failed; the others notice it."""
        self.stopped.set()

    def _sign(self, number: int) -> str:
        return f"{number} {socket.gethostname()}"

    def _beat(self) -> None:
        """Signs of life out and in; hangs when the store cannot be reached, which the other thread notices."""
        number = 0
        while not self.stopped.wait(self.every):
            number += 1
            try:
                self.store.set(str(self.rank), self._sign(number))
                seen = self.store.get(str(self.next)).decode()
                gone = self.store.get(_GONE).decode() if self.store.check([_GONE]) else None
            except RuntimeError:
                continue  # judged by the time since the last answer
            if gone is not None:
                self._end(gone)
                return
            self.answered = time.monotonic()
            if seen != self.seen or seen == _DONE:
                self.seen, self.moved = seen, self.answered
            if self.answered - self.moved > self.limit:
                host = self.seen.partition(" ")[2]
                sentence = (
                    f"the process of rank {self.next} on {host} has given no sign of life for {self.limit:g} seconds"
                )
                self.store.set(_GONE, sentence)
                self._end(sentence)

    def _judge(self) -> None:
        """The store itself must answer."""
        while not self.stopped.wait(self.every):
            if time.monotonic() - self.answered > self.limit:
                first = "the process of rank 0, which holds the others together,"
                self._end(f"{first} has not answered for {self.limit:g} seconds")

    def _end(self, sentence: str) -> None:
        if not self.stopped.is_set():
            self.stopped.set()
            self.give_up(sentence)


@contextmanager
def watched(world: World, give_up: Callable[[str], None]) -> Iterator[None]:
    """Within this, the loss of a process or host is noticed within a minute.

    Args:
        give_up: what to do then; called in a thread, since the main one waits in a collective that nothing wakes.
    """
    if world.size == 1:
        yield
        return
    pulse = Pulse(_shared_store(world), world.rank, world.size, give_up)
    dist.barrier()
    pulse.start()
    try:
        yield
        dist.barrier()  # the store lives as long as the first process
    except BaseException:
        pulse.fall_silent()
        raise
    pulse.leave()


def _shared_store(world: World) -> Store:
    """A store kept by the first process at a free port, beside the one that torch keeps for itself."""

    def store(port: int) -> Store:
        made: Store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"],
            port,
            world.size,
            is_master=world.rank == 0,
            timeout=timedelta(seconds=60),
            wait_for_workers=False,
        )
        return made

    first = store(0) if world.rank == 0 else None
    port = [first.port] if first is not None else [0]  # type: ignore[attr-defined]
    dist.broadcast_object_list(port)
    return first if first is not None else store(port[0])
