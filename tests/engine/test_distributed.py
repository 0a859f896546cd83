"""What processes tell each other, in three of them on gloo."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from regionssl.engine.distributed import Processes
from regionssl.methods.base import World

SIZE, LOCAL = 3, 4
ORDER = torch.randperm(SIZE * LOCAL, generator=torch.Generator().manual_seed(3))
ROWS = torch.arange(SIZE * LOCAL * 3 * 2 * 2.0).view(-1, 3, 2, 2)


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=SIZE)
    world, own = Processes(), ROWS[rank * LOCAL :][:LOCAL]
    found = {
        "exchanged": world.exchange(own, ORDER),
        "channels_last": world.exchange(own.contiguous(memory_format=torch.channels_last), ORDER),
        "unmoved": world.exchange(own, torch.arange(SIZE * LOCAL)),
        "gathered": world.gather(own),
        "mean": world.mean(own),
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(work, args=(str(folder),), nprocs=SIZE)
    return [torch.load(folder / f"{rank}.pt") for rank in range(SIZE)]


@pytest.mark.parametrize("name", ["exchanged", "channels_last"])
def test_rows_come_in_the_order_that_one_process_gives_them(found: list[dict[str, torch.Tensor]], name: str) -> None:
    together = torch.cat([one[name] for one in found])
    assert torch.equal(together, World().exchange(ROWS, ORDER))
    assert torch.equal(together, ROWS[ORDER])


def test_what_is_not_moved_gathered_and_averaged(found: list[dict[str, torch.Tensor]]) -> None:
    for rank, one in enumerate(found):
        assert torch.equal(one["unmoved"], ROWS[rank * LOCAL :][:LOCAL])
        assert torch.equal(one["gathered"], ROWS)
        assert torch.equal(one["mean"], ROWS.view(SIZE, LOCAL, 3, 2, 2).mean(0))
