"""Generated pictures and small runs that several tests share."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from regionssl.data.images import ImageList, find_images
from regionssl.data.scenes import write_scenes

torch.set_num_threads(1)
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the user's cache out of the tests, and the tests out of the user's cache."""
    os.environ["REGIONSSL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 32 generated scenes of 96 px."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 32, size=96, labels=False)
    return folder


@pytest.fixture(scope="session")
def images(scenes: Path) -> ImageList:
    return find_images(scenes)
