"""A protocol as a self-contained config of mmdetection 3 (Python), and the part that mmdetection itself lacks."""

from __future__ import annotations

import pprint
from collections.abc import Mapping
from typing import Any

from regionssl.export.mmdetection_data import data_settings
from regionssl.export.mmdetection_model import model
from regionssl.export.published import Published

PARTS = "regionssl_mmdetection.py"
PARTS_TEXT = '''"""What C4 configs need beyond mmdetection: the last stage as a head, with a norm behind it."""

from mmcv.cnn import build_norm_layer
from mmdet.models.roi_heads.shared_heads import ResLayer
from mmdet.registry import MODELS


@MODELS.register_module()
class NormedResLayer(ResLayer):
    def __init__(self, norm_cfg, channels=2048, **settings):
        super().__init__(norm_cfg=norm_cfg, **settings)
        self.last_norm = build_norm_layer(norm_cfg, channels)[1]

    def forward(self, x):
        return self.last_norm(super().forward(x))
'''
_GPUS = 8


def config_text(protocol: Published, weights: str, card: Mapping[str, Any]) -> str:
    """The Python file: assignments of plain values, nothing to inherit from.

    Args:
        weights: name of the exported file.
        card: its JSON, whose ``settings`` say how the backbone must be built and fed.
    """
    lines = [
        f"# {protocol.name} for mmdetection 3, written beside {weights} by regionssl.",
        f"# Settings: {protocol.source}.",
        "# checkpoint=... is relative to the folder that training starts in.",
        f"# {protocol.settings['batch_size']} images per iteration on {_GPUS} GPUs; with others change batch_size.",
        *(f"# {note}" for note in remarks(protocol, card)),
    ]
    values = {
        "default_scope": "mmdet",
        "model": model(protocol, weights, card),
        **data_settings(protocol, _GPUS),
        **schedule(protocol.settings, protocol.drops),
    }
    if protocol.normed_head:
        module = PARTS.removesuffix(".py")
        values = {"custom_imports": {"imports": [module], "allow_failed_imports": False}} | values
    body = [f"{name} = {pprint.pformat(value, sort_dicts=False, width=110)}" for name, value in values.items()]
    return "\n".join(lines) + "\n\n" + "\n\n".join(body) + "\n"


def remarks(protocol: Published, card: Mapping[str, Any]) -> list[str]:
    """What a user must know or do beyond the file, and where it departs from the protocol."""
    settings, found = protocol.settings, []
    if protocol.normed_head:
        found.append(f"Needs {PARTS}, which lies beside, on the path of Python modules.")
    if settings["precise_norm"]:
        found.append("Departure: norms keep their moving averages before the test, mmdetection has no precise ones.")
    if "width" in card and protocol.c4:
        found.append("A C4 detector has no pyramid: the one in the file is passed over.")
    elif "width" in card and settings.get("fpn_norm", "none") != "none" and not card.get("batch_norm"):
        found.append("The pyramid was trained without norm: its biases are passed over, its norms start fresh.")
    return found


def schedule(settings: Mapping[str, Any], drops: list[int]) -> dict[str, Any]:
    """Optimiser, rates and loops, counted in iterations."""
    sgd = {"type": "SGD", "lr": settings["lr"], "momentum": settings["momentum"]}
    warmup = {"type": "LinearLR", "start_factor": settings["warmup_start"], "by_epoch": False, "begin": 0}
    total = settings["iterations"]
    return {
        "optim_wrapper": {
            "type": "OptimWrapper",
            "optimizer": sgd | {"weight_decay": settings["weight_decay"]},
            "paramwise_cfg": {"norm_decay_mult": 0.0},
        },
        "param_scheduler": [
            warmup | {"end": settings["warmup"]},
            {"type": "MultiStepLR", "by_epoch": False, "begin": 0, "end": total, "milestones": drops, "gamma": 0.1},
        ],
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": total, "val_interval": total},
        "val_cfg": {"type": "ValLoop"},
        "test_cfg": {"type": "TestLoop"},
        "default_hooks": {"checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 5000}},
        "log_processor": {"type": "LogProcessor", "window_size": 50, "by_epoch": False},
        "auto_scale_lr": {"enable": False, "base_batch_size": settings["batch_size"]},
    }


def needs_parts(protocol: Published) -> bool:
    """Whether mmdetection lacks something that the protocol asks for."""
    return protocol.normed_head
