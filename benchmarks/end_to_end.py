"""End-to-end training against its bound: the same steps on batches that lie on the device already.

    python -m benchmarks.end_to_end --device cpu --out FILE.json

Both are measured in one process, in turns (bound, end to end, bound), on generated pictures with about as many pixels
as ImageNet's. The end-to-end part has many more steps than the loader makes batches in advance.
"""

from __future__ import annotations

import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import command_line, facts, in_new_process, show, write_json
from benchmarks.training import trainer_of_case
from regionssl.data.scenes import write_scenes
from regionssl.engine.train import Trainer

SIDE = 432  # pixels: about as many as 500 x 375
STEPS = 28  # enough that the batches a loader makes in advance, whose work is counted too, are a small part
CASES = {
    "cpu": (
        {"recipe": "moco_v2_small", "backbone": "resnet18", "size": 128, "batch": 32, "target": 0.80},
        {"recipe": "moco_v2_200", "backbone": "resnet50", "size": 224, "batch": 8, "target": 0.92},
    ),
    "cuda": ({"recipe": "moco_v2_200", "backbone": "resnet50", "size": 224, "batch": 256, "target": 0.95},),
}


def seconds_per_step(trainer: Trainer, batches: Any) -> float:
    """Mean seconds of steps on these batches, with the waiting for them; the first step does not count."""
    began, steps = 0.0, -1
    for batch in batches:
        trainer.train_step(batch)
        steps += 1
        if steps == 0:
            synchronise(trainer)
            began = time.perf_counter()
    synchronise(trainer)
    return (time.perf_counter() - began) / steps


def synchronise(trainer: Trainer) -> None:
    if trainer.fabric.device.type == "cuda":
        torch.cuda.synchronize()


def measure(pictures: Path, case: dict[str, Any], device: str, steps: int) -> dict[str, Any]:
    """One row: images per second end to end and at the bound, and their ratio."""
    trainer = trainer_of_case(pictures, case, device, {})
    ready = [batch.to(trainer.fabric.device) for batch in islice(trainer.loader(2), 2)]
    cached = [ready[step % 2] for step in range(max(3, steps // 2))]
    trainer.train_step(ready[0])
    first = seconds_per_step(trainer, cached)
    buffered = 4 * (trainer.config.workers or 0)
    whole = seconds_per_step(trainer, islice(trainer.loader(10**6), steps + buffered))
    last = seconds_per_step(trainer, cached)
    bound = (first + last) / 2
    return {
        "case": f"{case['recipe']}, {case['backbone']}, {case['size']} px, batch {case['batch']}",
        "images_per_second": case["batch"] / whole,
        "bound": case["batch"] / bound,
        "ratio": bound / whole,
        "drift": abs(first - last) / bound,
        "target": case["target"],
        "precision": trainer.config.precision,
        "workers": trainer.config.workers,
    }


def rows(device: str, steps: int = STEPS) -> list[dict[str, Any]]:
    """All cases of a device, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder), 512 if device == "cuda" else 64, size=SIDE, labels=False)
        return [in_new_process(measure, Path(folder), case, device, steps) for case in CASES[device]]


def main() -> None:
    parser = command_line(__doc__, list(CASES))
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    found = rows(options.device, options.steps)
    show("end to end against the same step on data already on the device", found)
    write_json(options.out, facts(options.device), {"end_to_end": found})


if __name__ == "__main__":
    main()
