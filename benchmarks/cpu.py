"""Everything that `make bench` measures on a CPU, in under twenty minutes on two cores, with nothing else running.

    python -m benchmarks.cpu [--only end_to_end peers] [--out benchmarks/cpu.json]

Each part is a module of its own that can be run alone; the JSON holds all tables and is what docs/results.md quotes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import colours, end_to_end, growth, input, methods, peers, region_parts, scale, stage2
from benchmarks.results import command_line, facts, in_new_process, show, write_json

Tables = dict[str, list[dict[str, Any]]]


PARTS: dict[str, Callable[[], Tables]] = {
    "input": lambda: {"input, one core": in_new_process(input.rows, input.Options())},
    "colours": lambda: {"colours of two views": in_new_process(colours.rows, "cpu")},
    "end_to_end": lambda: {"end to end against the step alone": end_to_end.rows("cpu")},
    "peers": lambda: {"beside lightly, images per second": peers.rows("cpu")},
    "methods": lambda: {"what regions cost": methods.rows(methods.Setting())},
    "region_parts": region_parts.tables,
    "stage2": lambda: {
        "stage 2 of ORL, by part": in_new_process(stage2.parts, "cpu"),
        "nearest images": in_new_process(stage2.search, "cpu"),
    },
    "scale": lambda: {"one and two processes": scale.throughput(), "sent at a step": scale.volumes()},
    "growth": lambda: {"growth": in_new_process(growth.rows)},
}


def run(doc: str | None, parts: dict[str, Callable[[], Tables]], device: str) -> None:
    """Measure the parts that the command line asks for, one after the other; the file is written after each."""
    parser = command_line(doc, out=Path(f"benchmarks/{'gpu' if device == 'cuda' else device}.json"))
    parser.add_argument("--only", nargs="+", choices=list(parts), default=list(parts))
    options = parser.parse_args()
    found: Tables = {}
    began = time.perf_counter()
    for name in options.only:
        for title, rows in parts[name]().items():
            found[title] = rows
            show(title, rows)
        write_json(options.out, facts(device), {"minutes": (time.perf_counter() - began) / 60, "tables": found})
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes; written to {options.out}")


if __name__ == "__main__":
    run(__doc__, PARTS, "cpu")
