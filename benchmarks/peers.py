"""End-to-end training beside lightly's MoCo v2 and BYOL: same backbone, batch, view size and pictures, on one machine.

    pip install -e ".[bench]"
    python -m benchmarks.peers --device cpu --out FILE.json

lightly's side is its documented example: its transform, dataset, heads, loss and momentum update in a plain PyTorch
loop. It runs twice: as it comes (fp32, channels first, 8 loader processes), and with our precision, our memory format
and a loader process per core. Every run has a process of its own; ours run before and after lightly's, so that a drift
of the machine shows.
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.end_to_end import SIDE, STEPS, seconds_per_step
from benchmarks.results import command_line, facts, in_new_process, show, write_json
from benchmarks.training import trainer_of_case
from regionssl.data.scenes import write_scenes

RECIPES = {"moco_v2": "moco_v2_200", "byol": "byol_orl"}
CASES = {
    "cpu": {"backbone": "resnet18", "size": 128, "batch": 32},
    "cuda": {"backbone": "resnet50", "size": 224, "batch": 256},
}


class Peer(nn.Module):
    """lightly's example of a method: trained and slow network, and the loss of a pair of views."""

    def __init__(self, method: str, backbone: str) -> None:
        import torchvision
        from lightly.loss import NegativeCosineSimilarity, NTXentLoss
        from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead, MoCoProjectionHead

        super().__init__()
        trunk = getattr(torchvision.models, backbone)()
        width = trunk.fc.in_features
        head = MoCoProjectionHead(width, width, 128) if method == "moco_v2" else BYOLProjectionHead(width, 4096, 256)
        trunk.fc = nn.Identity()
        self.method, self.online = method, nn.Sequential(trunk, head)
        self.slow = copy.deepcopy(self.online).requires_grad_(False)
        self.predictor = BYOLPredictionHead(256, 4096, 256) if method == "byol" else nn.Identity()
        self.moco_loss = NTXentLoss(temperature=0.2, memory_bank_size=(4096, 128))
        self.byol_loss = NegativeCosineSimilarity()

    def forward(self, views: list[Tensor]) -> Tensor:
        from lightly.models.utils import batch_shuffle, batch_unshuffle

        if self.method == "moco_v2":
            with torch.no_grad():
                shuffled, order = batch_shuffle(views[1])
                keys = batch_unshuffle(self.slow(shuffled), order)
            return self.moco_loss(self.online(views[0]), keys)
        with torch.no_grad():
            targets = [self.slow(view) for view in views]
        predictions = [self.predictor(self.online(view)) for view in views]
        return 0.5 * (self.byol_loss(predictions[0], targets[1]) + self.byol_loss(predictions[1], targets[0]))


def peer_loader(pictures: Path, method: str, case: dict[str, Any], workers: int, cuda: bool) -> Any:
    """lightly's loader with its transform of a method."""
    from lightly.data import LightlyDataset
    from lightly.transforms import BYOLTransform, MoCoV2Transform
    from lightly.transforms.byol_transform import BYOLView1Transform, BYOLView2Transform

    size = case["size"]
    transform = (
        MoCoV2Transform(input_size=size)
        if method == "moco_v2"
        else BYOLTransform(BYOLView1Transform(input_size=size), BYOLView2Transform(input_size=size))
    )
    dataset = LightlyDataset(str(pictures / "images"), transform=transform)
    order = torch.utils.data.RandomSampler(dataset, num_samples=10**6 // case["batch"] * case["batch"])
    return torch.utils.data.DataLoader(
        dataset, case["batch"], sampler=order, num_workers=workers, drop_last=True, pin_memory=cuda
    )


def measure_peer(
    pictures: Path, method: str, case: dict[str, Any], device: str, steps: int, ours: str | None
) -> dict[str, Any]:
    """lightly's images per second.

    Args:
        ours: our precision, to be taken with channels_last; None leaves lightly as it comes.
    """
    from lightly.models.utils import update_momentum

    cores = len(os.sched_getaffinity(0))
    workers = 8 if ours is None else cores
    model = Peer(method, case["backbone"]).to(device)
    layout = torch.contiguous_format if ours is None else torch.channels_last
    model = model.to(memory_format=layout)
    trained = [*model.online.parameters(), *model.predictor.parameters()]
    optimiser = torch.optim.SGD(trained, lr=0.06, momentum=0.9, weight_decay=5e-4)
    began, buffered = 0.0, 2 * workers
    loader = peer_loader(pictures, method, case, workers, device == "cuda")
    for step, batch in enumerate(islice(loader, steps + buffered + 1)):
        views = [view.to(device, non_blocking=True).contiguous(memory_format=layout) for view in batch[0]]
        with torch.autocast(device, torch.bfloat16, enabled=ours == "bf16"):
            loss = model(views)
        update_momentum(model.online, model.slow, 0.99)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if step == 0:
            loss.item()
            began = time.perf_counter()
    loss.item()
    seconds = (time.perf_counter() - began) / (steps + buffered)
    return {"images_per_second": case["batch"] / seconds, "workers": workers}


def measure_ours(pictures: Path, method: str, case: dict[str, Any], device: str, steps: int) -> dict[str, Any]:
    """Our images per second at our defaults."""
    trainer = trainer_of_case(pictures, {**case, "recipe": RECIPES[method]}, device, {})
    buffered = 4 * (trainer.config.workers or 0)
    seconds = seconds_per_step(trainer, islice(trainer.loader(10**6), steps + buffered + 1))
    return {
        "images_per_second": case["batch"] / seconds,
        "workers": trainer.config.workers,
        "precision": trainer.config.precision,
    }


def row(pictures: Path, method: str, device: str, steps: int) -> dict[str, Any]:
    """One method: ours, lightly with our settings, lightly as it comes, ours again."""
    case = CASES[device]
    first = in_new_process(measure_ours, pictures, method, case, device, steps)
    equal = in_new_process(measure_peer, pictures, method, case, device, steps, first["precision"])
    plain = in_new_process(measure_peer, pictures, method, case, device, steps, None)
    last = in_new_process(measure_ours, pictures, method, case, device, steps)
    ours = (first["images_per_second"] + last["images_per_second"]) / 2
    return {
        "method": f"{method}, {case['backbone']}, {case['size']} px, batch {case['batch']}",
        "ours": ours,
        "drift": abs(first["images_per_second"] - last["images_per_second"]) / ours,
        "precision": first["precision"],
        "lightly_equal_settings": equal["images_per_second"],
        "ratio_equal": ours / equal["images_per_second"],
        "lightly_as_it_comes": plain["images_per_second"],
        "ratio_defaults": ours / plain["images_per_second"],
    }


def rows(device: str, steps: int = STEPS) -> list[dict[str, Any]]:
    """MoCo v2 and BYOL."""
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder), 512 if device == "cuda" else 64, size=SIDE, labels=False)
        return [row(Path(folder), method, device, steps) for method in RECIPES]


def main() -> None:
    parser = command_line(__doc__, list(CASES))
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    found = rows(options.device, options.steps)
    show("end to end beside lightly, images per second", found)
    write_json(options.out, facts(options.device), {"peers": found})


if __name__ == "__main__":
    main()
