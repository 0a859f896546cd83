"""``regionssl regions`` from the command line, and training that reads what it made."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from regionssl.backbones.encoder import Encoder, EncoderConfig
from regionssl.build import make_regions, parse_method
from regionssl.cli import app
from regionssl.data.contents import UNREADABLE, content_digest, content_digests
from regionssl.data.images import find_images
from regionssl.data.photometric import IMAGENET_MEAN, IMAGENET_STD
from regionssl.data.scenes import write_scenes
from regionssl.errors import InputError
from regionssl.regions.sources import SourceConfig, make_source
from regionssl.stores.store import open_store
from regionssl.verbs.regions import find_regions
from regionssl.verbs.run_folder import write_weights

from method_variants import config_of

SLIC = ["--kind", "slic", "--set", "size=64", "--set", "segments=20"]
SOURCE = {"kind": "slic", "size": 64, "segments": 20}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty scenes with labels."""
    folder = tmp_path_factory.mktemp("labelled")
    write_scenes(folder, 20, size=96)
    return folder


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, ["regions", *map(str, words)])


def refused(*words: object) -> str:
    result = invoke(*words)
    assert isinstance(result.exception, InputError)
    return str(result.exception)


@pytest.fixture
def data(scenes: Path, tmp_path: Path) -> Path:
    """A copy of the pictures that a test may spoil."""
    return Path(shutil.copytree(scenes / "images", tmp_path / "data"))


@pytest.fixture
def stored(data: Path, tmp_path: Path) -> Path:
    out = tmp_path / "store"
    assert invoke(data, "--out", out, *SLIC).exit_code == 0
    return out


def method(store: Path, **values: object) -> object:
    source = {**SOURCE, "store": str(store), **values}
    return parse_method({"name": "plrc", "source": source})


def test_superpixels_from_a_store_are_those_of_the_source(data: Path, stored: Path) -> None:
    images = find_images(data)
    source = make_regions(method(stored), images.names, images)  # type: ignore[arg-type]
    direct = make_source(SourceConfig(**SOURCE), images.names, IMAGENET_MEAN, IMAGENET_STD)  # type: ignore[arg-type]
    assert source is not None
    for i in range(len(images)):
        np.testing.assert_array_equal(source(images.load(i), i), direct(images.load(i), i))
    whatever = make_regions(method(stored, kind="store"), images.names, images)  # type: ignore[arg-type]
    assert whatever is not None
    np.testing.assert_array_equal(whatever(images.load(3), 3), source(images.load(3), 3))


def test_said_and_written(data: Path, stored: Path) -> None:
    result = invoke(data, "--out", stored, *SLIC)
    assert result.exit_code == 0
    assert "found done (20 images)" in result.output
    complete = json.loads((stored / "complete.json").read_text())
    assert complete["images_fingerprint"] == find_images(data).fingerprint
    assert complete["summary"]["images"] == 20
    assert f"regions: {complete['summary']['regions']['total']}" in result.output


def test_a_store_of_other_settings(data: Path, stored: Path) -> None:
    images = find_images(data)
    with pytest.raises(InputError, match=r"(?s)other settings.*segments: 20 -> 30"):
        make_regions(method(stored, segments=30), images.names, images)  # type: ignore[arg-type]
    assert "segments: 20 -> 30" in refused(data, "--out", stored, *SLIC[:-1], "segments=30")


def test_a_store_of_other_images(data: Path, stored: Path) -> None:
    name = find_images(data).names[4]
    shutil.copy(data / name, data / "zzz.png")
    images = find_images(data)
    with pytest.raises(InputError, match="made from other images"):
        make_regions(method(stored), images.names, images)  # type: ignore[arg-type]
    assert "made from other images" in refused(data, "--out", stored, *SLIC)


def test_a_changed_image_is_noticed_though_its_size_is_the_same(data: Path, stored: Path) -> None:
    images = find_images(data)
    path = data / images.names[4]
    content = bytearray(path.read_bytes())
    content[-20] ^= 1  # of the same length
    path.write_bytes(content)
    images = find_images(data)
    assert content_digest(images, 4) != content_digest(images, 5)
    with pytest.raises(InputError, match=f"images have changed.*{images.names[4]};"):
        make_regions(method(stored), images.names, images)  # type: ignore[arg-type]
    find_regions(data, stored, set=[f"{key}={value}" for key, value in SOURCE.items() if key != "kind"])
    make_regions(method(stored), images.names, images)  # type: ignore[arg-type]


def test_label_maps_are_compared_with_objects(scenes: Path, tmp_path: Path) -> None:
    images, labels = scenes / "images", scenes / "annotations.json"
    for truth in (labels, scenes / "labels"):
        out = tmp_path / f"grid-{truth.name}"
        result = invoke(images, "--out", out, "--kind", "grid", "--set", "side=8", "--labels", truth)
        assert result.exit_code == 0, result.exception
        summary = json.loads((out / "complete.json").read_text())["summary"]
        assert summary["regions"] == {"total": 20 * 64, "least": 64, "median": 64, "most": 64}
        assert 0.05 < summary["best_overlap"] < 0.5
        assert 0.2 < summary["boundary_recall"] < 0.9
    for kind, best in (("coco_masks", 0.9), ("coco_boxes", 0.99)):
        result = invoke(images, "--out", tmp_path / kind, "--kind", kind, "--annotations", labels, "--labels", labels)
        assert result.exit_code == 0, result.exception
        summary = json.loads((tmp_path / kind / "complete.json").read_text())["summary"]
        assert summary["best_overlap"] > best


def test_selective_search_and_windows(scenes: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    few = tmp_path / "few.txt"
    few.write_text("\n".join(str(scenes / "images" / name) for name in find_images(scenes / "images").names[:3]))
    for kind in ("selective_search", "windows"):
        result = invoke(few, "--out", tmp_path / kind, "--kind", kind)
        assert result.exit_code == 0, result.exception
        store = open_store(tmp_path / kind, None, "boxes")
        boxes = store.read(2)
        assert boxes is not None
        assert boxes.shape[1] == 4
        assert len(boxes) >= 10


def test_clusters_of_a_run(scenes: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(name="resnet18"), size=64, maps=("c4",))
    run = tmp_path / "run"
    run.mkdir()
    holder = SimpleNamespace(backbone=encoder, extras=dict)
    write_weights(run, holder, config_of("moco", "resnet18"), SimpleNamespace(fingerprint="f"), "random", 1)  # type: ignore[arg-type]
    options = ["--kind", "kmeans", "--set", "clusters=3", "--set", "size=64", "--device", "cpu"]
    assert "--weights RUN" in refused(scenes / "images", "--out", tmp_path / "no", *options)
    result = invoke(scenes / "images", "--out", tmp_path / "kmeans", *options, "--weights", run)
    assert result.exit_code == 0, result.exception
    store = open_store(tmp_path / "kmeans", find_images(scenes / "images").fingerprint, "labels")
    labels = store.read(0)
    assert labels is not None
    assert labels.shape == (4, 4)
    assert set(np.unique(labels)) <= {0, 1, 2}
    assert store.manifest.settings["weights"]


def test_an_unreadable_image_has_no_regions(data: Path, tmp_path: Path) -> None:
    path = data / "000001.png"
    Image.open(data / "000001.jpg").save(path)
    sound = path.read_bytes()
    path.write_bytes(sound[:5000] + bytes(2000) + sound[7000:])  # the scan reads headers and does not notice
    place = list(find_images(data).names).index(path.name)
    out = tmp_path / "store"
    result = invoke(data, "--out", out, *SLIC)
    assert result.exit_code == 0, result.exception
    assert "images without regions, unreadable ones included: 1" in result.output
    store = open_store(out, None)
    assert store.read(place) is None
    path.write_bytes(sound)
    result = invoke(data, "--out", out, *SLIC)
    assert "1 images in" in result.output
    assert open_store(out, find_images(data).fingerprint).read(place) is not None


def test_a_missing_file_counts_as_unreadable(data: Path) -> None:
    images = find_images(data)
    (data / images.names[1]).unlink()
    assert content_digest(images, 1) == UNREADABLE
    assert content_digests(images) == [content_digest(images, i) for i in range(20)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kind", "slick"], "no such kind; did you mean slic"),
        (["--kind", "labels"], "no such kind"),
        (["--kind", "slic", "--set", "segmets=3"], "did you mean segments"),
        (["--kind", "slic", "--set", "segments=1"], "greater than or equal to 2"),
        (["--kind", "grid", "--set", "segments=9"], "regions of kind grid have no such setting; theirs are side"),
        (["--kind", "selective_search", "--set", "side=9"], "they have none"),
        (["--kind", "coco_boxes"], "--annotations FILE"),
        (["--kind", "coco_boxes", "--annotations", "nowhere.json"], "there is no file nowhere.json"),
        (["--devices", "0"], "--devices counts from 1"),
        (["--labels", "nowhere.json"], "nowhere.json is not a COCO json"),
    ],
)
def test_what_cannot_be_used_is_said(scenes: Path, tmp_path: Path, words: list[str], said: str) -> None:
    assert said in refused(scenes / "images", "--out", tmp_path / "store", *words)
    assert not (tmp_path / "store" / "complete.json").exists()
