"""What is measured on one GPU, in under ten minutes: ResNet-50, 224 px.

python -m benchmarks.gpu [--only methods] [--out benchmarks/gpu.json]
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import colours, end_to_end, methods, peers, stage2
from benchmarks.cpu import Tables, run
from benchmarks.results import in_new_process

PUBLISHED = methods.Setting(device="cuda", recipes="published", backbone="resnet50", batch_size=64)

PARTS: dict[str, Callable[[], Tables]] = {
    "colours": lambda: {"colours of two views": in_new_process(colours.rows, "cuda")},
    "end_to_end": lambda: {"end to end against the step alone": end_to_end.rows("cuda", 20)},
    "peers": lambda: {"beside lightly, images per second": peers.rows("cuda", 20)},
    "methods": lambda: {"what regions cost": methods.rows(PUBLISHED)},
    "search": lambda: {"nearest images": in_new_process(stage2.search, "cuda", 118_287, 2048)},
}


if __name__ == "__main__":
    run(__doc__, PARTS, "cuda")
