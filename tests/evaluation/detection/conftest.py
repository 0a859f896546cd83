"""Small labelled sets and cheap settings."""

from pathlib import Path

import pytest
import torch

from regionssl.data.scenes import write_scenes
from regionssl.evaluation.start import Start, open_start
from regionssl.labels.coco import read_coco_objects
from regionssl.labels.sets import ObjectSet


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> ObjectSet:
    """Twelve generated scenes of 96 px, with masks."""
    folder = tmp_path_factory.mktemp("labelled")
    write_scenes(folder, 12, size=96)
    return read_coco_objects(folder / "annotations.json")


@pytest.fixture(scope="session")
def random_start() -> Start:
    return open_start("random", "resnet18")


@pytest.fixture(scope="session")
def pretrained_start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """A file of weights, which differ from those of the random start."""
    path: Path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(open_start("random", "resnet18").encoder(seed=5).body.state_dict(), path)
    return open_start(str(path), "resnet18")


@pytest.fixture(scope="session")
def cheap() -> dict[str, object]:
    """Settings with which a detector costs a fraction of a second."""
    return {
        "train_sizes": (64,),
        "test_size": 64,
        "max_size": 96,
        "anchor_scale": 0.25,
        "fpn_width": 64,
        "head_width": 16,
        "mask_width": 16,
        "rpn_train": (100, 50),
        "rpn_test": (50, 30),
        "regions": 16,
    }
