"""What a run folder holds beside log and checkpoints: config, facts about the run, and its weights."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from regionssl.build import RunConfig
from regionssl.config import to_plain
from regionssl.data.images import ImageList, ScanReport
from regionssl.data.photometric import IMAGENET_MEAN, IMAGENET_STD
from regionssl.engine.checkpoint import write_atomically, write_json
from regionssl.engine.choices import Choice
from regionssl.engine.health import Lamp, read_health
from regionssl.export.run_weights import CARD, WEIGHTS, digest, named_tensors, save_tensors
from regionssl.methods.base import Method

CONFIG, FACTS = "config.yaml", "run.json"
LICENCE = "these weights belong to whoever trained them; regionssl claims no rights in them"


def facts(
    choices: list[Choice], scanned: ScanReport, images: ImageList, image_root: Path | None, init: str
) -> dict[str, Any]:
    """Versions, machine, data and automatic choices, for ``run.json``."""
    packages = ("regionssl", "torch", "torchvision", "timm", "lightning-fabric", "numpy", "pillow")
    return {
        "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "data": {
            "source": str(Path(images.root).resolve()),
            "image_root": str(image_root.resolve()) if image_root else None,
            "fingerprint": images.fingerprint,
            "scan": scanned.to_plain(),
        },
        "init": init,
        "choices": [choice.to_plain() for choice in choices],
    }


def note_health(run: Path) -> Lamp:
    """Add the worst lamp of a run to its facts and return it."""
    worst = read_health(run).worst
    known = json.loads((run / FACTS).read_text())
    write_json(run / FACTS, known | {"health": worst.to_plain()})
    return worst


def write_weights(folder: Path, method: Method, config: RunConfig, images: ImageList, init: str, step: int) -> None:
    """Write the backbone and the method's further modules, and the JSON that explains them."""
    tensors = named_tensors(method.backbone, method.extras())
    write_atomically(folder / WEIGHTS, lambda partial: save_tensors(partial, tensors))
    card = {
        "backbone": to_plain(config.backbone),
        "size": config.method.plan.views[0].size,
        "method": config.method.name,
        "extras": sorted(method.extras()),
        "step": step,
        "init": init,
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "value_range": [0, 1],
        "colour_order": "RGB",
        "data_fingerprint": images.fingerprint,
        "licence": LICENCE,
        "sha256": digest(tensors),
    }
    write_json(folder / CARD, card)
