"""What a run would need of the machine, and what a method needs of the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from regionssl.data.loader import PREFETCH
from regionssl.doctor.finding import Finding
from regionssl.doctor.looking import Look
from regionssl.engine.choices import QUEUE_FRACTION, choose_queue

FEW = 20_000
"""Images below which the papers' methods have not been shown to learn from random weights; theirs begin at 118,000."""


@dataclass(frozen=True)
class Needs:
    """A run's settings that the machine must meet.

    Attributes:
        batch_size: images per step over all processes.
        devices: processes on this machine, all of the run.
        workers: loader processes of each.
        view_sizes: sides of the views of an image, pixels.
        together: images that share batch statistics; 1 where any number may.
        queue: of negatives, as in the recipe; None for none.
        checkpoint: bytes.
        keep: checkpoints that stay.
    """

    batch_size: int
    devices: int
    workers: int
    view_sizes: tuple[int, ...]
    together: int
    queue: int | None
    checkpoint: int
    keep: int

    @property
    def share(self) -> int:
        """Images of one process per step."""
        return max(1, self.batch_size // self.devices)

    @property
    def at_once(self) -> int:
        """Images loaded at the same time on this machine: by loader processes, or by threads of the training."""
        return self.devices * (self.workers or torch.get_num_threads())

    @property
    def in_flight(self) -> int:
        """Bytes of views that all loader processes of this machine hold ready, and one batch that is being used."""
        batch = self.share * sum(3 * size**2 for size in self.view_sizes)
        return self.devices * (self.workers * PREFETCH + 1) * batch if self.workers else 0


def check_amount(images: int, needs: Needs) -> list[Finding]:
    """Whether there are enough images for the batch, the queue and a start from random weights."""
    findings = []
    if images < needs.batch_size:
        found = f"{images:,} images are fewer than a batch of {needs.batch_size}"
        line = f"regionssl pretrain ... --batch-size {max(1, images // 4)}"
        return [Finding("fault", "amount", found, line)]
    if needs.queue is not None:
        choice = choose_queue(needs.queue, images, needs.batch_size)
        if choice.value < needs.queue // needs.batch_size * needs.batch_size:
            found = (
                f"the recipe's queue of {needs.queue:,} is more than {QUEUE_FRACTION:.0%} of the {images:,} images, "
                f"which would meet their own old keys as negatives; a run takes {choice.value:,}"
            )
            line = f"nothing need be done; --set method.queue={choice.value} says so in the recipe"
            findings.append(Finding("note", "amount", found, line))
    if images < FEW:
        found = f"{images:,} images are few to learn from random weights (the papers' sets begin at 118,000)"
        line = "regionssl pretrain ... --init imagenet, then regionssl prove RUN --against random imagenet"
        findings.append(Finding("warning" if images < FEW // 10 else "note", "amount", found, line))
    return findings or [Finding("ok", "amount", f"{images:,} images for batches of {needs.batch_size}")]


def check_sizes(looks: Sequence[Look], needs: Needs) -> list[Finding]:
    """Whether images are as large as the views that are cut from them."""
    headers = [look.seen.details.header for look in looks if look.seen is not None]
    sides = sorted(min(header.width, header.height) for header in headers)
    if not sides:
        return []
    view, median = max(needs.view_sizes), sides[len(sides) // 2]
    if median >= view:
        return [Finding("ok", "size", f"the median shortest side, {median} pixels, is no less than the views' {view}")]
    found = (
        f"shortest sides are below the views' {view} pixels for most of {len(sides):,} looked at (median {median}); "
        "crops are enlarged, and show no more than smaller ones would"
    )
    return [Finding("warning", "size", found, f"regionssl pretrain ... --size {max(32, median // 32 * 32)}")]
