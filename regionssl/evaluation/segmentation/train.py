"""Training a segmentation network for a fixed number of iterations."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from regionssl.backbones.norm import sync_batch_norm
from regionssl.counted import Stream, generator, integer, permutation
from regionssl.engine.distributed import current_world
from regionssl.engine.memory import keep_freed_memory
from regionssl.errors import InputError
from regionssl.evaluation.inputs import standardise, worker_count
from regionssl.evaluation.saved import SavedTraining
from regionssl.evaluation.segmentation.config import SegmentationConfig
from regionssl.evaluation.segmentation.crops import CropConfig, training_crop
from regionssl.evaluation.segmentation.network import SegmentationNetwork
from regionssl.evaluation.start import Start, take_statistics
from regionssl.labels.maps import IGNORED
from regionssl.labels.sets import MapSet

Examples = tuple[Tensor, Tensor]  # images (B, 3, S, S) uint8 and labels (B, S, S) int16

_BETWEEN_CHECKS = 50  # iterations
_STATISTICS = 32  # crops


class _Crops(Dataset[Examples | InputError]):
    """Batches of crops by iteration; a mistake of the user is handed over, for workers would bury it."""

    def __init__(self, data: MapSet, config: CropConfig, rows: range, batch: int, seed: int, start: Start) -> None:
        self.data, self.config, self.rows, self.batch, self.seed = data, config, rows, batch, seed
        red, green, blue = (round(255 * value) for value in start.mean)
        self.fill = (red, green, blue)

    def __getitem__(self, step: int) -> Examples | InputError:
        try:
            crops = [self._crop(step * self.batch + row) for row in self.rows]
        except InputError as error:
            return error
        images, labels = zip(*crops, strict=True)
        return torch.stack(images), torch.stack(labels)

    def _crop(self, slot: int) -> Examples:
        epoch, place = divmod(slot, len(self.data))
        i = int(permutation(len(self.data), self.seed, Stream.ORDER, epoch)[place])
        return training_crop(self.data, i, self.config, self.fill, generator(self.seed, Stream.VIEWS, epoch, i))


def train(
    network: SegmentationNetwork,
    config: SegmentationConfig,
    data: MapSet,
    start: Start,
    seed: int,
    device: str,
    saved: SavedTraining | None = None,
) -> None:
    """Train in place; ends in evaluation mode. Every process of a distributed launch takes its share of each batch.

    Crops and their order are functions of (seed, epoch, image), dropout of (seed, iteration).

    Args:
        saved: where its state is kept, and taken up if it was stopped before.

    Raises:
        InputError: an image that cannot be read, a batch that processes cannot share, crops of a size that the backbone
            does not take, or a loss that is not finite.
    """
    world = current_world()
    _check(network, config, world.size)
    share = config.batch_size // world.size
    rows = range(world.rank * share, (world.rank + 1) * share)
    crops = _Crops(data, config.crop, rows, config.batch_size, seed, start)
    keep_freed_memory(device)
    network.to(device).to(memory_format=torch.channels_last)
    if network.frozen and not start.pretrained:
        _take_statistics(network, crops, start, device)
    model: nn.Module = sync_batch_norm(network.train(), world, device)
    if world.size > 1:
        model = DistributedDataParallel(model, broadcast_buffers=False)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(trained, config.lr, config.momentum, weight_decay=config.weight_decay)
    with torch.random.fork_rng(devices=[device] if torch.device(device).type == "cuda" else []):
        done, _ = saved.go_on(network, optimiser) if saved else (0, [])
        for step, (images, labels) in enumerate(_batches(crops, range(done, config.iterations), device), done):
            torch.manual_seed(integer(seed, Stream.STEP, step, world.rank))
            for group in optimiser.param_groups:
                group["lr"] = config.rate(step)
            loss = _loss(model, config, standardise(images, start.mean, start.std), labels, world.mean)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if (step % _BETWEEN_CHECKS == 0 or step == config.iterations - 1) and not bool(loss.isfinite()):
                raise InputError(
                    f"the loss is {float(loss.detach())} at iteration {step} with lr {config.lr}; lower lr"
                )
            if saved:
                saved.keep(network, optimiser, step + 1, [], step + 1 == config.iterations)
    network.eval()


def _check(network: SegmentationNetwork, config: SegmentationConfig, processes: int) -> None:
    if config.batch_size % processes:
        raise InputError(f"a batch of {config.batch_size} cannot be shared by {processes} processes; change batch_size")
    if config.crop.size % network.multiple:
        raise InputError(
            f"{network.encoder.name} takes sides that are multiples of {network.multiple} px, and crop.size is "
            f"{config.crop.size}; set crop.size to {round(config.crop.size / network.multiple) * network.multiple}"
        )


def _take_statistics(network: SegmentationNetwork, crops: _Crops, start: Start, device: str) -> None:
    """Give a random backbone the statistics of the first crops, so that it is frozen in a fair state."""
    first = _Crops(crops.data, crops.config, range(_STATISTICS), _STATISTICS, crops.seed, start)[0]
    if isinstance(first, InputError):
        raise first
    take_statistics(network.encoder, standardise(first[0].to(device), start.mean, start.std))


def _batches(crops: _Crops, iterations: range, device: str) -> Iterator[Examples]:
    """The batches on the device; with a GPU they are made by other processes meanwhile."""
    place = torch.device(device)
    workers, pinned = worker_count(place), place.type == "cuda"
    loader = DataLoader(crops, batch_size=None, sampler=iterations, num_workers=workers, pin_memory=pinned)
    terminal = sys.stderr.isatty()
    for batch in track(loader, "training", len(iterations), console=Console(stderr=True), disable=not terminal):
        if isinstance(batch, InputError):
            raise batch
        images, labels = batch
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True).long()


def _loss(
    model: nn.Module, config: SegmentationConfig, images: Tensor, labels: Tensor, mean: Callable[[Tensor], Tensor]
) -> Tensor:
    """Cross entropy, the mean over all processes' labelled pixels; processes' losses average to it.

    Args:
        mean: over processes.
    """
    with torch.autocast(images.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        outputs = model(images)
    labelled = mean((labels != IGNORED).sum().float()).clamp(min=1)
    loss = images.new_zeros(())
    for weight, scores in zip((1.0, config.auxiliary), outputs, strict=False):
        pixels = F.interpolate(scores.float(), labels.shape[1:], mode="bilinear", align_corners=config.align_corners)
        loss = loss + weight * F.cross_entropy(pixels, labels, ignore_index=IGNORED, reduction="sum") / labelled
    return loss
