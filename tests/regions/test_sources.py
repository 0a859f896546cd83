"""Region sources: what they label, and what they say when they cannot."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regionssl.build import make_regions, parse_method
from regionssl.data.photometric import IMAGENET_MEAN, IMAGENET_STD
from regionssl.errors import InputError
from regionssl.regions.sources import RegionSource, SourceConfig, make_source

GOLDEN = Path(__file__).parents[1] / "golden"


def source(names: tuple[str, ...] = ("a.jpg",), **settings: object) -> RegionSource:
    return make_source(SourceConfig(**settings), names, IMAGENET_MEAN, IMAGENET_STD)


@pytest.fixture
def quarters() -> Image.Image:
    """96 x 64 pixels in four colours."""
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:32, 48:] = (250, 30, 20)
    pixels[32:, :48] = (20, 240, 30)
    pixels[32:, 48:] = (40, 30, 230)
    return Image.fromarray(pixels)


def test_the_grid_counts_its_cells_row_by_row(quarters: Image.Image) -> None:
    assert source(kind="grid", side=3)(quarters, 0).tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert source()(quarters, 0).shape == (4, 4)


def test_superpixels_are_those_of_r2o() -> None:
    """R2O, section 2.3: SLIC of the normalised squash, to the last label."""
    with np.load(GOLDEN / "r2o_data.npz") as golden:
        for number in (0, 1):
            labels = source(kind="slic")(Image.fromarray(golden[f"img{number}"]), 0)
            np.testing.assert_array_equal(labels, golden[f"slic{number}"])


@pytest.mark.parametrize("kind", ["slic", "felzenszwalb"])
@pytest.mark.parametrize("size", [None, 48])
def test_segments_keep_to_the_edges(kind: str, size: int | None, quarters: Image.Image) -> None:
    labels = source(kind=kind, size=size, segments=8, min_size=64)(quarters, 0)
    height, width = labels.shape
    assert (width, height) == ((size, size) if size else quarters.size)
    assert 4 <= len(np.unique(labels)) <= 20
    inner = [
        set(np.unique(labels[y + 4 : y + height // 2 - 4, x + 4 : x + width // 2 - 4]).tolist())
        for y in (0, height // 2)
        for x in (0, width // 2)
    ]
    assert all(not one & other for i, one in enumerate(inner) for other in inner[i + 1 :])


def test_sources_travel_to_workers(quarters: Image.Image) -> None:
    for kind in ("grid", "slic", "felzenszwalb"):
        one = source(kind=kind)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(one))(quarters, 0), one(quarters, 0))


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Label maps of three images, of three kinds."""
    (tmp_path / "deep").mkdir()
    labels = np.arange(12, dtype=np.uint16).reshape(3, 4)
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "grey.png")
    palette = Image.fromarray(labels.astype(np.uint8))
    palette.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    palette.save(tmp_path / "deep" / "palette.png")
    Image.fromarray(labels * 5000).save(tmp_path / "wide.png")
    panoptic = np.stack([labels, labels * 2, labels * 3], -1).astype(np.uint8)
    Image.fromarray(panoptic).save(tmp_path / "panoptic.png")
    return tmp_path


def test_labels_are_found_by_name_and_read_as_they_are(maps: Path, quarters: Image.Image) -> None:
    names = ("grey.jpg", "deep/palette.webp", "wide.png", "/elsewhere/panoptic.jpeg")
    read = source(names, kind="labels", folder=maps)
    labels = np.arange(12).reshape(3, 4)
    for position, factor in enumerate((1, 1, 5000, 1 + 2 * 256 + 3 * 65536)):
        np.testing.assert_array_equal(read(quarters, position), labels * factor)


def test_label_maps_that_cannot_be_used_are_named(maps: Path, quarters: Image.Image) -> None:
    with pytest.raises(InputError, match=r"2 of 3 images have no label map; the first expected file is .*b\.png"):
        source(("grey.jpg", "b.jpg", "c/d.jpg"), kind="labels", folder=maps)
    with pytest.raises(InputError, match=r"method\.source\.folder"):
        source(kind="labels")
    Image.new("RGBA", (4, 4)).save(maps / "see_through.png")
    with pytest.raises(InputError, match=r"see_through\.png has 4 channels"):
        source(("see_through.png",), kind="labels", folder=maps)(quarters, 0)
    (maps / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken\.png cannot be read"):
        source(("broken.jpg",), kind="labels", folder=maps)(quarters, 0)


def test_a_missing_library_is_named_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(InputError, match=r"pip install 'regionssl\[regions\]'"):
        source(kind="slic")
    assert source(kind="grid") is not None


def test_methods_get_the_source_that_their_config_names(quarters: Image.Image) -> None:
    plrc = parse_method({"name": "plrc", "source": {"kind": "grid", "side": 2}})
    grid = make_regions(plrc, ["a.jpg"])
    assert grid is not None
    assert grid(quarters, 0).tolist() == [[1, 2], [3, 4]]
    moco = parse_method({"name": "moco"})
    assert make_regions(moco, ["a.jpg"]) is None
    asking = parse_method({"name": "moco", "plan": {"views": [{"regions": 8}, {}]}})
    with pytest.raises(InputError, match="moco uses no region labels"):
        make_regions(asking, ["a.jpg"])
