"""The seam between a method and the engine that trains it.

The engine asks a method for three things, in this order, every step::

    targets = method.targets(batch)             # no gradient: keys, teacher features, boxes, for the whole local batch
    for part, of_part in method.parts(batch, targets, micro_batch):
        terms = method(part, of_part)           # with gradient; the parts' losses add up to the batch's loss
        backward(terms["loss"])
    optimiser.step()
    method.after_step(progress)                 # moving averages, queues, curricula

A method knows no optimiser, rank, device, logger or file. It gathers across processes through the :class:`World` that
it is given, and draws random numbers from the counters in the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from regionssl.backbones.encoder import Encoder
from regionssl.config import Config
from regionssl.data.batch import Batch
from regionssl.data.views import ViewPlan

Terms = dict[str, Tensor]

# Makes a freshly initialised encoder that yields the named feature maps.
EncoderFactory = Callable[[tuple[str, ...]], Encoder]


class World:
    """The processes that train together; this base class is the single process.

    The engine passes one that speaks to the others. ``rank`` counts from 0 to ``size - 1``.
    """

    rank: int = 0
    size: int = 1

    def gather(self, tensor: Tensor) -> Tensor:
        """Tensors (n, ...) of all processes, equal in shape, concatenated in rank order; no gradient."""
        return tensor

    def exchange(self, tensor: Tensor, order: Tensor) -> Tensor:
        """This process's share of the rows of all processes in a new order; no gradient.

        A process is sent the rows that it gets and no others, where :meth:`gather` would send all rows to all.

        Args:
            tensor: (n, ...), equal in shape on all processes.
            order: (n * size,) int64 on the CPU, the same permutation on all processes: row ``i`` of the result's
                concatenation in rank order is row ``order[i]`` of the tensors' concatenation.
        """
        return tensor[order.to(tensor.device, non_blocking=True)]

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over processes; no gradient."""
        return tensor


@dataclass(frozen=True)
class Progress:
    """How far the run is, counted after the optimiser's step: ``step`` of ``total_steps`` is done, counting from 0."""

    step: int
    total_steps: int


@dataclass(frozen=True)
class Matches:
    """Regions of one view and their counterparts in another, for pictures.

    Attributes:
        views: positions of the two views.
        first, second: (N, K, 4), boxes x0, y0, x1, y1 in pixels of the two views; row k of both is the same place.
        valid: (N, K) bool, rows that take part in the loss.
    """

    views: tuple[int, int]
    first: Tensor
    second: Tensor
    valid: Tensor


class MethodConfig(Config):
    """What every method's config has: its name and the views it asks for."""

    name: str
    plan: ViewPlan


class Method(nn.Module, ABC):
    """A pre-training method.

    Attributes:
        Config: the config class of the method (class attribute).
        backbone: the network that is trained and handed on.
        started_from: what was taken from which file to start from, for the log.
        watched: set by the engine for a step whose terms are logged: then :meth:`loss` adds what the run's health is
            judged by, as terms named ``health/...`` (see :func:`regionssl.methods.losses.pair_measures`).
    """

    started_from: tuple[str, ...] = ()
    Config: ClassVar[type[MethodConfig]]
    backbone: Encoder
    watched: bool = False

    def targets(self, batch: Batch) -> Any:
        """What the loss needs of the whole local batch and no gradient flows through; None if nothing."""
        return None

    def parts(self, batch: Batch, targets: Any, images: int) -> Iterator[tuple[Batch, Any]]:
        """What :meth:`loss` is asked for in turn, so that one part's maps live at once: at most so many images each."""
        return ((part, targets) for part in batch.split(images))

    @abstractmethod
    def loss(self, batch: Batch, targets: Any) -> Terms:
        """This part's share of the local batch's loss, as ``{"loss": ..., named scalars}``.

        The shares of all parts of a batch add up to its loss, and so do the named scalars.
        """

    def forward(self, batch: Batch, targets: Any) -> Terms:
        """:meth:`loss`, so that wrappers which hook ``forward`` (DDP, compilation) see it."""
        return self.loss(batch, targets)

    def after_step(self, progress: Progress) -> None:
        """Called once after every optimiser step."""

    def lr_factor(self, epoch: int) -> float:
        """What the schedule's learning rate is multiplied by during an epoch, counted from 0."""
        return 1.0

    def slow_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """The slow networks and the trained ones that they follow, as (slow, trained); none by default.

        The trained one may have parameters that the slow one lacks.
        """
        return []

    @property
    def past_negatives(self) -> int:
        """How many images of earlier steps serve as negatives."""
        return 0

    @property
    def synchronised(self) -> bool:
        """Whether batch statistics are those of all processes; otherwise they are those of groups of images."""
        return False

    @abstractmethod
    def matches(self, batch: Batch) -> Matches:
        """The regions that this method holds together in two views, for pictures."""

    def found_regions(self, batch: Batch) -> Tensor | None:
        """The regions that this method finds in whole images by its own features, for pictures.

        Returns:
            (N, h, w) int64 over the whole images, -1 for no region; None if regions are taken as they come.
        """
        return None

    @property
    def branches(self) -> tuple[nn.Module, ...]:
        """The trained network with its heads, then its slow copies, whose modules have the same names."""
        return ()

    def extras(self) -> dict[str, nn.Module]:
        """Further trained modules worth handing on, such as ``{"fpn": ...}``."""
        return {}


def no_share(module: nn.Module) -> Tensor:
    """Zero, with a gradient of zero for all parameters of a module: DDP waits for each of them in every pass."""
    return 0 * torch.stack([parameter.sum() for parameter in module.parameters()]).sum()
