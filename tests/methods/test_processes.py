"""Two gloo processes equal one, for every method: losses, weights, averages, queue and running statistics."""

import os
import socket
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from regionssl.backbones.norm import sync_batch_norm
from regionssl.build import trainable
from regionssl.data.batch import Batch
from regionssl.data.images import ImageList, find_images
from regionssl.engine.distributed import Processes, average_running_statistics
from regionssl.methods.base import Method, Progress, World

from method_variants import VARIANTS, batch_of, method_of

STEPS, IMAGES = 2, 8


def share(batch: Batch, rank: int, size: int) -> Batch:
    """One process's images of a global batch, as its loader would give them."""
    part = list(batch.split(len(batch) // size))[rank]
    return Batch(**{**part.__dict__, "first": 0, "total": len(part)})


def train(method: Method, world: World, images: ImageList, variant: str) -> list[float]:
    """A few steps of plain SGD; returns the losses, averaged over processes."""
    if method.synchronised and world.size > 1:
        sync_batch_norm(method, world, torch.device("cpu"))
    method.double()  # so that equal means equal, not alike
    module = DistributedDataParallel(method, broadcast_buffers=False) if world.size > 1 else method
    optimiser = torch.optim.SGD([p for _, p in trainable(method)], lr=0.05, momentum=0.9)
    losses = []
    for step in range(STEPS):
        batch = batch_of(variant, images, first=step * IMAGES, count=IMAGES, step=step)
        batch = share(replace(batch, views=[view.double() for view in batch.views]), world.rank, world.size)
        optimiser.zero_grad()
        parts, loss = list(method.parts(batch, method.targets(batch), len(batch))), torch.zeros(())
        for number, part in enumerate(parts, 1):
            with module.no_sync() if world.size > 1 and number < len(parts) else nullcontext():
                share_of_loss = module(*part)["loss"]
                share_of_loss.backward()
            loss = loss + share_of_loss.detach()
        optimiser.step()
        method.after_step(Progress(step, 10))
        if not method.synchronised:
            average_running_statistics(method, world)
        losses.append(float(world.mean(loss)))
    return losses


def worker(rank: int, port: int, scenes: str, out: str, variants: list[str]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for variant in variants:
        world = Processes()
        method = method_of(variant, world)
        losses = train(method, world, find_images(Path(scenes)), variant)
        if rank == 0:
            torch.save({"losses": losses, "state": method.state_dict()}, f"{out}/{variant}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of all variants, trained by two processes."""
    out = tmp_path_factory.mktemp("two")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # the official SCRL averages over the boxes of each process: by intent not the same for one and two
    variants = [variant for variant in VARIANTS if variant != "scrl_official"]
    mp.spawn(worker, args=(port, str(scenes), str(out), variants), nprocs=2)
    return out


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant != "scrl_official"])
def test_two_processes_equal_one(variant: str, two_processes: Path, images: ImageList) -> None:
    method = method_of(variant)
    losses = train(method, World(), images, variant)
    result = torch.load(two_processes / f"{variant}.pt", weights_only=True)
    assert result["losses"] == pytest.approx(losses, rel=1e-9)
    state = method.state_dict()
    assert state.keys() == result["state"].keys()
    for name, tensor in state.items():
        if "num_batches_tracked" not in name:
            torch.testing.assert_close(
                result["state"][name], tensor, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
            )
