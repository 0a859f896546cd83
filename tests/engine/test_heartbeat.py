"""Processes that fall silent are noticed, those that end in good order are not."""

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch.distributed as dist

from regionssl.engine.heartbeat import Pulse, watched
from regionssl.methods.base import World

SIZE, EVERY, LIMIT = 3, 0.05, 0.6


class Ring:
    """Pulses of three processes in one, and what each of them was told."""

    def __init__(self) -> None:
        patience = timedelta(seconds=5)
        first = dist.TCPStore("127.0.0.1", 0, SIZE, True, timeout=patience, wait_for_workers=False)
        others = [
            dist.TCPStore("127.0.0.1", first.port, SIZE, False, timeout=patience, wait_for_workers=False)
            for _ in range(SIZE - 1)
        ]
        self.told: dict[int, str] = {}
        self.heard = [threading.Event() for _ in range(SIZE)]
        self.pulses = [Pulse(store, i, SIZE, self.hears(i), EVERY, LIMIT) for i, store in enumerate((first, *others))]
        for pulse in self.pulses:
            pulse.start()

    def hears(self, rank: int):  # type: ignore[no-untyped-def]
        def give_up(sentence: str) -> None:
            self.told[rank] = sentence
            self.heard[rank].set()

        return give_up


@pytest.fixture
def ring() -> Iterator[Ring]:
    made = Ring()
    yield made
    for pulse in made.pulses:
        pulse.fall_silent()


def test_all_others_hear_of_the_one_that_falls_silent(ring: Ring) -> None:
    ring.pulses[2].fall_silent()
    assert all(ring.heard[rank].wait(20) for rank in (0, 1))
    assert ring.told[0] == ring.told[1]
    assert "rank 2 on " in ring.told[0]
    assert "0.6 seconds" in ring.told[0]


def test_leaving_in_good_order_alarms_nobody(ring: Ring) -> None:
    ring.pulses[2].leave()
    assert not ring.heard[1].wait(5 * LIMIT)
    assert not ring.told


class Unreachable:
    """A store on the other side of a cut cable: calls hang."""

    def __init__(self) -> None:
        self.mended = threading.Event()

    def set(self, key: str, value: str) -> None:
        self.mended.wait()
        raise RuntimeError("the connection was lost")


def test_a_store_that_does_not_answer_is_the_loss_of_its_keeper(ring: Ring) -> None:
    cut = Unreachable()
    ring.pulses[1].store = cut
    assert ring.heard[1].wait(20)
    assert "rank 0" in ring.told[1]
    cut.mended.set()


def test_one_process_watches_nobody() -> None:
    before = threading.active_count()
    with watched(World(), lambda sentence: None):
        assert threading.active_count() == before
