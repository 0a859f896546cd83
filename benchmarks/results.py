"""How benchmarks run, print and record what they measure."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.table import Table

T = TypeVar("T")
_LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "pillow",
    "numpy",
    "scikit-learn",
    "lightly",
    "albumentations",
    "opencv-contrib-python-headless",
)


def in_new_process(function: Callable[..., T], *arguments: Any) -> T:
    """The result of a module's function in a fresh process, so that memory, threads and caches are its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def command_line(doc: str | None, devices: Sequence[str] = (), out: Path | None = None) -> argparse.ArgumentParser:
    """The options that benchmarks share: where to measure, if there is a choice, and where to write."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if devices:
        parser.add_argument("--device", choices=list(devices), default=devices[0])
    parser.add_argument("--out", type=Path, default=out)
    return parser


def facts(device: str) -> dict[str, Any]:
    """The machine and the versions that figures belong to."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    machine = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {"machine": machine, "system": platform.platform(), "versions": versions}


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows of equal keys as a table."""
    table = Table(title=title)
    for heading in rows[0]:
        table.add_column(heading.replace("_", " "), justify="left" if isinstance(rows[0][heading], str) else "right")
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=160).print(table)


def write_json(out: Path | None, machine: dict[str, Any], tables: dict[str, Any]) -> None:
    """Write the figures with the machine that they belong to, if a file is asked for."""
    if out is not None:
        out.write_text(json.dumps({"machine": machine, **tables}, indent=2) + "\n")
