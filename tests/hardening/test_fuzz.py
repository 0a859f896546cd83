"""Broken and hostile files: each is used, or refused with a sentence; nothing else happens."""

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from regionssl.backbones.weight_files import read_weights
from regionssl.build import RECIPES, load_config
from regionssl.data.decode import SHORTEST_SIDE, UnreadableImage, details
from regionssl.data.images import ImageList, find_images
from regionssl.data.packing import PackConfig, packed
from regionssl.data.scan import examine
from regionssl.data.scan_report import printable
from regionssl.data.views import ViewPlan, ViewSpec
from regionssl.doctor.copies import alike
from regionssl.doctor.looking import look_at
from regionssl.doctor.oddities import check_oddities
from regionssl.engine.checkpoint import load_checkpoint, load_identity, save_checkpoint
from regionssl.errors import InputError
from regionssl.labels.open import open_labels
from regionssl.labels.voc_xml import read_annotation
from regionssl.regions.annotations import read_objects
from regionssl.regions.correspondence import Correspondences
from regionssl.stores.shards import DamagedShard, code, read_digests, read_row, read_shard, write_shard
from regionssl.stores.store import open_store
from regionssl.verbs.pack import pack

from fuzz_corpus import (
    altered,
    annotation_file,
    archive_file,
    bomb,
    damaged,
    image_file,
    numbered,
    pickle_traps,
    recipe_file,
    yaml_traps,
)
from watching import nothing_happens_outside

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Python's and torch's, about what these files hold
SEED = 20


def sizes(few: int, many: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.long)])


def cache() -> Path:
    return Path(os.environ["REGIONSSL_CACHE"])


def tried(action: Callable[[], Any], *refusals: type[Exception]) -> Any:
    """What an action returns, or None where it refuses in words."""
    try:
        return action()
    except (InputError, *refusals) as error:
        said = str(error)
    assert len(said) > 10
    return None


def read_all(images: ImageList) -> int:
    """Load every image; how many could be."""
    good = 0
    for i in range(len(images)):
        printable(images.names[i])
        image = tried(lambda i=i: images.load(i), UnreadableImage)
        if image is not None:
            assert image.mode == "RGB"
            assert min(image.size) >= SHORTEST_SIDE
            good += 1
    return good


@sizes(60, 2000)
def test_images(count: int, tmp_path: Path) -> None:
    for number, rng in enumerate(numbered(SEED, count)):
        extension, content = image_file(rng)
        (tmp_path / f"{number:04}{extension}").write_bytes(content)
    (tmp_path / "bomb.png").write_bytes(bomb(20_000))
    (tmp_path / "large.png").write_bytes(bomb(2_000))
    plan = ViewPlan(views=(ViewSpec(size=16),))
    with nothing_happens_outside(cache()):
        images, report = examine(find_images(tmp_path), workers=1)
        assert report.found == count + 2
        assert "bomb.png" in dict(report.set_aside)
        assert "large.png" in images.names
        good = read_all(images)
        looks = look_at(images, plan, count)
        check_oddities(looks, images)
        alike(looks)
        for i in range(len(images)):
            tried(lambda i=i: packed(images.read(i), PackConfig(short_side=16)), UnreadableImage)
            tried(lambda i=i: details(images.read(i)), UnreadableImage)
    assert 0.1 * count < good < count


@sizes(40, 300)
def test_recipes(count: int, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    recipes = [path.read_text() for path in sorted(RECIPES.glob("*.yaml"))]
    file, good = tmp_path / "recipe.yaml", 0
    for number, rng in enumerate(numbered(SEED + 1, count)):
        file.write_bytes(recipe_file(rng, recipes, yaml_traps(marker), number))
        with nothing_happens_outside():
            good += tried(lambda: load_config(str(file), {})) is not None
            tried(lambda: load_config(str(file), {"training.seed": 1, "method.plan.shared_flip": True}))
    assert not marker.exists()
    assert good < count


TREE: dict[str, Any] = {
    "images": [{"id": i, "file_name": f"{i}.png", "width": 32, "height": 24} for i in range(1, 7)],
    "categories": [
        {"id": 1, "name": "a"},
        {"id": 4, "name": "b", "keypoints": ["left", "right"], "skeleton": [[1, 2]]},
    ],
    "annotations": [
        {
            "id": i,
            "image_id": i % 6 + 1,
            "category_id": 1 + 3 * (i % 2),
            "bbox": [2, 3, 10.5, 8],
            "area": 84,
            "iscrowd": 0,
            "segmentation": [[2, 3, 12, 3, 12, 11]] if i % 3 else {"size": [24, 32], "counts": [100, 20, 648]},
            "keypoints": [3, 4, 2, 5, 6, 1],
        }
        for i in range(1, 13)
    ],
}
XML = (
    "<annotation><size><width>32</width><height>24</height></size><object><name>a</name><difficult>0</difficult>"
    "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)
XML_TRAPS = [
    '<?xml version="1.0" encoding="nonsense"?>' + XML,
    '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>',
    "<a>" * 20_000,
    XML.replace(">1<", ">" + "1" * 6000 + "<"),
    XML.replace(">32<", ">inf<").replace(">9<", ">nan<"),
]


@sizes(60, 300)
def test_annotations(count: int, tmp_path: Path) -> None:
    for i in range(1, 7):
        Image.new("RGB", (32, 24)).save(tmp_path / f"{i}.png")
    names = [f"{i}.png" for i in range(1, 7)]
    file, xml = tmp_path / "instances.json", tmp_path / "one.xml"
    for number, rng in enumerate(numbered(SEED + 2, count)):
        file.write_bytes(annotation_file(rng, TREE))
        xml.write_bytes(XML_TRAPS[number].encode() if number < len(XML_TRAPS) else damaged(rng, XML.encode()))
        with nothing_happens_outside(cache()):
            tried(lambda: open_labels(file, "objects"))
            tried(lambda: read_annotation(xml))
            if (images := tried(lambda: find_images(file))) is not None:
                read_all(examine(images, workers=1)[0])
            if (objects := tried(lambda: read_objects(file, names))) is not None:
                for i in range(6):
                    assert objects.boxes(i, 32, 24).shape[1] == 4
                    tried(lambda i=i, objects=objects: objects.masks(i, 32, 24))


@sizes(50, 100)
def test_archives(count: int, tmp_path: Path) -> None:
    inside = tmp_path / "in" / "side"
    inside.mkdir(parents=True)
    good = 0
    for number, rng in enumerate(numbered(SEED + 3, count)):
        extension, content = archive_file(rng)
        path = inside / f"{number}{extension}"
        path.write_bytes(content)
        with nothing_happens_outside(cache()):
            for _ in range(2):  # the second time by the kept index
                images = tried(lambda path=path: find_images(path))
                if images is not None:
                    good += read_all(examine(images, workers=1)[0])
    assert good
    assert not list(tmp_path.glob("escape*"))


@sizes(20, 100)
def test_checkpoints_and_weights(count: int, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    tensors = {"backbone.conv1.weight": torch.randn(4, 3, 7, 7), "x": torch.arange(5)}
    state = {
        "method": tensors,
        "optimiser": {},
        "precision": {},
        "step": 3,
        "identity": {"init": "random", "failed": []},
    }
    checkpoint = save_checkpoint(tmp_path, 3, state, keep=1)
    assert load_identity(checkpoint)[1]["init"] == "random"
    arrays = pickle.dumps({"model": {key: value.numpy() for key, value in tensors.items()}})
    legacy = io.BytesIO()
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    originals = [checkpoint.read_bytes(), save(tensors), arrays, legacy.getvalue()]
    traps = pickle_traps(marker)
    for number, rng in enumerate(numbered(SEED + 4, count)):
        content = traps[number] if number < len(traps) else damaged(rng, originals[number % 4])
        paths = [tmp_path / name for name in ("weights.pth", "weights.safetensors", "broken.ckpt")]
        for path in paths:
            path.write_bytes(content)
        with nothing_happens_outside():
            for path in paths:
                for read in (read_weights, load_checkpoint, load_identity, Correspondences.load):
                    tried(lambda read=read, path=path: read(path))
    assert not marker.exists()


@sizes(30, 100)
def test_stores_and_packs(count: int, scenes: Path, tmp_path: Path) -> None:
    whole = tmp_path / "pack"
    pack(scenes, whole, format="raw", short_side=16, workers=1)
    files = sorted(path for path in whole.rglob("*") if path.suffix in (".json", ".bin"))
    for rng in numbered(SEED + 5, count):
        path = files[int(rng.integers(len(files)))]
        before = path.read_bytes()
        if path.suffix == ".json" and rng.random() < 0.7:
            path.write_text(json.dumps(altered(rng, json.loads(before))))
        else:
            path.write_bytes(damaged(rng, before))
        with nothing_happens_outside(cache()):
            if (images := tried(lambda: find_images(whole))) is not None:
                read_all(examine(images, workers=1)[0])
            if (store := tried(lambda: open_store(whole, None, "images"))) is not None:
                tried(store.contents)
            for shard in (path for path in files if path.suffix == ".bin"):
                for read in (read_shard, read_digests, lambda shard: read_row(shard, 0)):
                    tried(lambda read=read, shard=shard: read(shard), DamagedShard)
        path.write_bytes(before)
    assert read_all(find_images(whole)) == 32


def test_a_shard_whose_index_asks_for_more_than_there_is(tmp_path: Path) -> None:
    path = tmp_path / "0.bin"
    write_shard(path, [(bytes(16), code(np.arange(5)))])
    content = bytearray(path.read_bytes())
    content[16 + 24 : 16 + 32] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(DamagedShard, match="cut short"):
        read_row(path, 0)
