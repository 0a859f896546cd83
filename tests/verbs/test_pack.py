"""A pack in the place of a folder: training from it gives the same weights, to the last bit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from regionssl import InputError, pack, pretrain
from regionssl.cli import app
from regionssl.data.images import ImageList
from regionssl.data.scenes import write_scenes
from regionssl.evaluation.tasks import TASKS, open_data
from regionssl.verbs.regions import find_regions

TINY = str(Path(__file__).parents[1] / "tiny.yaml")


@pytest.fixture(scope="module")
def raw(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packs") / "raw"
    result = CliRunner().invoke(
        app, ["pack", str(scenes), "--out", str(out), "--format", "raw", "--short-side", "0", "--workers", "1"]
    )
    assert result.exit_code == 0
    assert "pack: 32 images" in result.output
    assert "KiB an image" in result.output
    return out


@pytest.mark.parametrize("workers", [0, 2])
def test_training_from_a_pack_of_the_same_pixels_is_the_same(
    scenes: Path, raw: Path, tmp_path: Path, workers: int
) -> None:
    runs = [pretrain(data, tmp_path / data.name, recipe=TINY, steps=5, workers=workers) for data in (scenes, raw)]
    one, two = (load_file(str(run / "weights.safetensors")) for run in runs)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_annotations_do_not_fit_resized_images(tmp_path: Path) -> None:
    write_scenes(tmp_path / "data", 20, size=96)
    images = tmp_path / "data/images"
    (annotations,) = (tmp_path / "data").rglob("*.json") if (tmp_path / "data/annotations").exists() else (tmp_path,)
    small = pack(images, tmp_path / "small", short_side=48, workers=1)
    with pytest.raises(InputError, match=r"pixels of the original images.*--short-side 0"):
        find_regions(small, tmp_path / "s", kind="coco_boxes", annotations=annotations, devices=1)
    find_regions(small, tmp_path / "s", kind="windows", set=["size=64"], devices=1)


def test_tasks_without_labels_take_packs(raw: Path, images: ImageList) -> None:
    (task,) = [one for one in TASKS.values() if "images" in one.kinds][:1]
    split = open_data(task, raw)
    assert list(split.val.images.names) == list(images.names)
