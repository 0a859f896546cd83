"""The largest part that fits, on a pretended GPU, and whose freed memory is kept."""

import pytest
import torch

from regionssl.engine import memory
from regionssl.engine.memory import keep_freed_memory, largest_part


def card(room: int) -> tuple[list[int], object]:
    """A GPU on which ``room`` images take all the memory, and what was tried on it."""
    tried = []

    def attempt(size: int) -> float:
        tried.append(size)
        if size > room:
            raise torch.OutOfMemoryError("pretended")
        return size / room

    return tried, attempt


@pytest.mark.parametrize(
    ("room", "share", "multiple", "tries"),
    [
        (300, 256, 1, [256]),
        (270, 256, 1, [256, 128]),  # fits, but leaves less than a twelfth
        (100, 256, 32, [256, 128, 64]),
        (20, 48, 16, [48, 16]),
        (10, 96, 10, [96, 40, 20, 10]),  # not a power of two, and the smallest may fill the card
        (8, 8, 8, [8]),
    ],
)
def test_halves_until_it_fits(room: int, share: int, multiple: int, tries: list[int]) -> None:
    tried, attempt = card(room)
    assert largest_part(attempt, share, multiple) == tries[-1]  # type: ignore[arg-type]
    assert tried == tries


def test_what_cannot_be_halved_is_refused() -> None:
    tried, attempt = card(7)
    with pytest.raises(torch.OutOfMemoryError):
        largest_part(attempt, 32, 8)  # type: ignore[arg-type]
    assert tried == [32, 16, 8]


def test_a_gpu_leaves_the_allocator_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(name: str | None) -> None:
        raise AssertionError

    monkeypatch.setattr(memory.ctypes, "CDLL", never)
    assert not keep_freed_memory("cuda")
    with pytest.raises(AssertionError):
        keep_freed_memory("cpu")
