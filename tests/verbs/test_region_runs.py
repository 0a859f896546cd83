"""Runs of a method that needs region labels, from the command's settings to the loader and back."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from regionssl import InputError, pretrain, show
from regionssl.data.images import ImageList
from regionssl.engine.checkpoint import list_checkpoints, load_checkpoint
from regionssl.engine.log import read_log
from regionssl.stores.store import open_store
from regionssl.verbs.regions import find_regions

SETTINGS = [
    "backbone.name=test_resnet",
    "method.lattice=8",
    "method.prototypes=32",
    "method.hidden=32",
    "method.group_size=4",
    "training.log_every=1",
]


@pytest.fixture(scope="module")
def labels(images: ImageList, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A label map of every scene: bands of brightness."""
    folder = tmp_path_factory.mktemp("labels")
    for position, name in enumerate(images.names):
        file = (folder / name).with_suffix(".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(images.load(position).convert("L").resize((24, 24))) // 32).save(file)
    return folder


def run(scenes: Path, out: Path, labels: Path, resume: bool = False) -> Path:
    source = [f"method.source.folder={labels}", "method.source.kind=labels"]
    return pretrain(
        scenes,
        out,
        recipe="plrc_small",
        size=64,
        steps=6,
        batch_size=8,
        workers=1,
        precision="fp32",
        save_every=2,
        set=SETTINGS + source,
        resume=resume,
    )


def test_a_resumed_run_equals_an_uninterrupted_one(scenes: Path, labels: Path, tmp_path: Path) -> None:
    whole, part = run(scenes, tmp_path / "whole", labels), tmp_path / "part"
    shutil.copytree(whole, part)
    (*_, (step, last)) = list_checkpoints(part / "checkpoints")
    assert step == 6
    last.unlink()
    (part / "weights.safetensors").unlink()
    run(scenes, part, labels, resume=True)
    states = [load_checkpoint(list_checkpoints(folder / "checkpoints")[-1][1])["method"] for folder in (whole, part)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert float(states[0]["centre"].abs().sum()) > 0
    assert all(name.startswith("backbone.") for name in load_file(part / "weights.safetensors"))
    records = read_log(whole / "log.jsonl")
    assert {"image", "points", "affinity", "valid", "pairs"} <= set(records[0])
    show(whole, tmp_path / "pictures", samples=2)
    assert (tmp_path / "pictures" / "views.png").is_file()


def superpixels(scenes: Path, out: Path, steps: int, *settings: str, resume: bool = False) -> Path:
    source = ["method.source={kind: slic, size: 64, segments: 12}", *settings]
    return pretrain(
        scenes,
        out,
        recipe="plrc_small",
        size=64,
        steps=steps,
        batch_size=8,
        workers=0,
        precision="fp32",
        set=SETTINGS + source,
        resume=resume,
    )


def test_superpixels_are_found_once_and_change_nothing(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With 32 scenes, 4 steps of 8 are one pass, in which nothing is gained; 5 are more."""
    superpixels(scenes, tmp_path / "one_pass", 4)
    assert not (tmp_path / "one_pass" / "regions").exists()
    kept = superpixels(scenes, tmp_path / "kept", 5)
    assert "slic regions: 32 images" in capsys.readouterr().out
    store = open_store(kept / "regions", None, "labels")
    find_regions(scenes, tmp_path / "store", kind="slic", set=["size=64", "segments=12"])
    given = superpixels(scenes, tmp_path / "given", 5, f"method.source.store={tmp_path / 'store'}")
    assert not (given / "regions").exists()
    assert (store.read(7) == open_store(tmp_path / "store", None).read(7)).all()
    weights = [load_file(run / "weights.safetensors") for run in (kept, given)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_damaged_store_of_a_run_is_mended_when_it_goes_on(scenes: Path, tmp_path: Path) -> None:
    kept = superpixels(scenes, tmp_path / "run", 5)
    shard = next((kept / "regions" / "shards").glob("*.bin"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    superpixels(scenes, kept, 5, resume=True)
    assert shard.read_bytes() == whole


def test_missing_labels_stop_the_run_before_it_starts(scenes: Path, labels: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"32 of 32 images have no label map; the first expected file is .*\.png"):
        run(scenes, tmp_path / "run", tmp_path / "empty")
    assert not (tmp_path / "run" / "config.yaml").exists()
