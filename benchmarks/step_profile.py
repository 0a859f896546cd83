"""Where the time of a training step goes, by kind of operation, of one method end to end.

    python -m benchmarks.step_profile --recipe moco_v2_small --backbone resnet18 --size 128 --batch-size 32 --device cpu

Shares of the time that operators spend in themselves (on a GPU: in their kernels). Loader processes are not in it; the
waiting for them is in the log of every run.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from benchmarks.end_to_end import SIDE
from benchmarks.results import command_line, facts, show, write_json
from benchmarks.training import trainer_of_case
from regionssl.data.scenes import write_scenes

KINDS = {
    "convolution, backward": ("convolution_backward", "dgrad", "wgrad", "bwd"),
    "convolution": ("convolution", "conv", "fprop"),
    "batch norm": ("batch_norm", "bn_", "batchnorm"),
    "matrix products": ("mm", "linear", "gemm", "matmul"),
    "optimiser and averages": ("_foreach", "lerp", "multi_tensor"),
}
OTHER = "all else: colours, activations, pooling, copies"


def shares(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Share of every kind in the operators' own time, from the largest on."""
    case = {"recipe": options.recipe, "backbone": options.backbone, "size": options.size, "batch": options.batch_size}
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder), 2 * options.batch_size, size=SIDE, labels=False)
        trainer = trainer_of_case(Path(folder), case, options.device, {"training.workers": 0})
        batches = list(islice(trainer.loader(2), 2))
        trainer.train_step(batches[0])
        cuda = options.device == "cuda"
        with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as measured:
            for step in range(options.steps):
                trainer.train_step(batches[step % 2])
            trainer.settle()
    taken: Counter[str] = Counter()
    for event in measured.key_averages():
        own = event.self_device_time_total if cuda else event.self_cpu_time_total
        name = event.key.lower()
        taken[next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), OTHER)] += own
    total = sum(taken.values())
    return [
        {"kind": kind, "share": own / total, "ms_a_step": own / 1000 / options.steps}
        for kind, own in taken.most_common()
    ]


def main() -> None:
    parser = command_line(__doc__, ["cpu", "cuda"])
    parser.add_argument("--recipe", default="moco_v2_small")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    found = shares(options)
    show(f"{options.recipe}, {options.backbone}, {options.size} px, batch {options.batch_size}", found)
    write_json(options.out, facts(options.device), {"profile": found})


if __name__ == "__main__":
    main()
