"""ORL's second stage as a whole: against a plain computation, and interrupted anywhere."""

import multiprocessing
import random
import shutil
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms as T
import yaml
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

from regionssl.backbones.encoder import Encoder, EncoderConfig
from regionssl.config import to_plain
from regionssl.data.images import ImageList, find_images
from regionssl.data.photometric import normalise
from regionssl.data.scenes import generate
from regionssl.engine.checkpoint import save_checkpoint
from regionssl.errors import InputError
from regionssl.methods.byol import Byol
from regionssl.regions.correspondence import CorrespondenceConfig, Correspondences
from regionssl.regions.proposals import ProposalFilter, filter_proposals
from regionssl.stores.store import open_store
from regionssl.verbs.correspond import FILE, correspond
from regionssl.verbs.correspond_work import NetworkSource
from regionssl.verbs.features import centre_view, warp
from regionssl.verbs.regions import find_regions

from method_variants import config_of, method_of

GOLDEN = Path(__file__).parents[1] / "golden" / "orl_correspondence_files.npz"
RULES = ProposalFilter(min_size=24, top=8)
CONFIG = CorrespondenceConfig(neighbours=3, proposals=RULES, pair_ratio=0.4, resize=48, crop=40, patch=32)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@cache
def byol() -> Byol:
    """A network whose batch statistics are those of scenes, so that features of different images differ."""
    method = method_of("byol_separate")
    assert isinstance(method, Byol)
    pixels = np.stack([generate(i, 64, seed=5).image for i in range(40)])
    views = normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    for module in method.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    with torch.no_grad():
        method.online.train()(views[:, None])
    method.eval()
    return method


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a BYOL run."""
    folder, method = tmp_path_factory.mktemp("byol"), byol()
    (folder / "config.yaml").write_text(yaml.safe_dump(to_plain(config_of("byol_separate"))))
    save_checkpoint(folder / "checkpoints", 5, {"method": method.state_dict(), "step": 5}, 1)
    return folder


@pytest.fixture(scope="module")
def some(images: ImageList) -> ImageList:
    return images.subset(range(20))


@pytest.fixture(scope="module")
def boxes(some: ImageList, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of windows of the twenty scenes, in place of selective search."""
    folder = tmp_path_factory.mktemp("boxes")
    names = folder / "list.txt"
    names.write_text("\n".join(str(scenes / name) for name in some.names))
    find_regions(names, folder / "store", "windows", set=["window=64", "stride=40"])
    return folder / "store"


@pytest.fixture(scope="module")
def some_listed(boxes: Path) -> ImageList:
    """The images under the names that the store knows."""
    return find_images(boxes.parent / "list.txt")


def find(images: ImageList, run: Path, out: Path, boxes: Path | None, **changes: object) -> Correspondences:
    return correspond(
        images,
        NetworkSource(run),
        out,
        CONFIG.model_copy(update=changes),
        boxes,
        device="cpu",
        console=Console(quiet=True),
    )


@pytest.fixture(scope="module")
def found(
    some_listed: ImageList, run: Path, boxes: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Correspondences, Path]:
    out = tmp_path_factory.mktemp("stage2")
    return find(some_listed, run, out, boxes), out


class Plain:
    """Stage 2 read aloud."""

    def __init__(self, images: ImageList, boxes: Path) -> None:
        self.pictures = [images.load(i) for i in range(len(images))]
        store = open_store(boxes, None)
        self.boxes = [filter_proposals(store.read(i), RULES) for i in range(len(images))]  # type: ignore[arg-type]
        self.online = byol().online

    def embedding(self, picture: Image.Image) -> Tensor:
        view = T.Compose([T.Resize(48), T.CenterCrop(40), T.ToTensor(), T.Normalize(MEAN, STD)])(picture)
        pooled = self.online.encoder(view[None])["c5"].mean((2, 3))
        return F.normalize(self.online.projector(pooled))[0]

    def features(self, i: int) -> Tensor:
        to_tensor = T.Compose([T.ToTensor(), T.Normalize(MEAN, STD)])
        patches = [
            to_tensor(self.pictures[i].crop((x, y, x + w, y + h)).resize((32, 32), Image.Resampling.BILINEAR))
            for x, y, w, h in self.boxes[i].tolist()
        ]
        return F.normalize(self.online.encoder(torch.stack(patches))["c5"].mean((2, 3)))


@torch.no_grad()
def test_the_stage_is_what_it_says(found: tuple[Correspondences, Path], some_listed: ImageList, boxes: Path) -> None:
    result, plain = found[0], Plain(some_listed, boxes)
    bank = torch.stack([plain.embedding(picture) for picture in plain.pictures])
    similar = bank @ bank.T
    nearest = similar.fill_diagonal_(2).argsort(1, descending=True)[:, 1:4]
    gap = similar.sort(1, descending=True).values.diff(dim=1)[:, :4].abs().min(1).values > 1e-4
    assert gap.sum() > 10
    np.testing.assert_array_equal(result.neighbours[gap], nearest[gap].numpy())
    rows = [plain.features(i) for i in range(20)]
    for i in range(20):
        np.testing.assert_array_equal(result.boxes[i], plain.boxes[i])
        count = max(1, int(0.4 * len(plain.boxes[i])))
        for rank, j in enumerate(result.neighbours[i]):
            pairs, scores = result.pairs[i][rank], rows[i] @ rows[j].T
            assert len(pairs) == count
            chosen = [scores[place(plain.boxes[i], pair[:4]), place(plain.boxes[j], pair[4:])].item() for pair in pairs]
            best = scores.flatten().sort(descending=True).values[:count]
            np.testing.assert_allclose(chosen, best.numpy(), atol=1e-3)  # kept as float16
    result.check("it")


def place(boxes: np.ndarray, box: np.ndarray) -> int:
    """Where a box stands among those of its image."""
    (where,) = np.flatnonzero((boxes == box).all(1))
    return int(where)


def test_a_second_call_finds_everything_done(
    found: tuple[Correspondences, Path], some_listed: ImageList, run: Path, boxes: Path
) -> None:
    out = found[1]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.bin")}
    saved = (out / FILE).read_bytes()
    find(some_listed, run, out, boxes)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.bin")} == before
    assert (out / FILE).read_bytes() == saved
    parts = sorted(path.name.partition("-")[0] for path in out.iterdir() if path.is_dir())
    assert parts == ["boxes", "embeddings", "neighbours", "pairs", "roi"]
    assert Correspondences.load(out / FILE, some_listed.fingerprint).boxes[3].tolist() == found[0].boxes[3].tolist()


def test_other_settings_make_only_what_depends_on_them(
    found: tuple[Correspondences, Path], some_listed: ImageList, run: Path, boxes: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(found[1], tmp_path / "out"))
    before = {path.name for path in out.iterdir()}
    fewer = find(some_listed, run, out, boxes, neighbours=2)
    new = {path.name.partition("-")[0] for path in out.iterdir() if path.name not in before}
    assert new == {"neighbours", "pairs"}
    np.testing.assert_array_equal(fewer.neighbours, found[0].neighbours[:, :2])


@pytest.mark.parametrize("part", ["boxes", "embeddings", "neighbours", "roi", "pairs"])
def test_killed_in_any_part(
    found: tuple[Correspondences, Path], some_listed: ImageList, run: Path, boxes: Path, tmp_path: Path, part: str
) -> None:
    """Killed when a random number of a part's shards is there, and called again: the same bytes everywhere."""
    shards = random.Random(part).randint(1, 15)
    process = multiprocessing.get_context("fork").Process(target=find, args=(some_listed, run, tmp_path, boxes))
    process.start()
    while process.is_alive() and len(list(tmp_path.glob(f"{part}-*/shards/*.bin"))) < shards:
        time.sleep(0.0003)
    process.kill()
    process.join()
    find(some_listed, run, tmp_path, boxes)
    checked = [path for path in found[1].rglob("*") if path.is_file()]
    for path in checked:
        assert (tmp_path / path.relative_to(found[1])).read_bytes() == path.read_bytes(), path.name


def test_selective_search_and_its_fallback(some: ImageList, run: Path, tmp_path: Path) -> None:
    """Boxes of more than 100 pixels do not fit into these images, so all get the release's fallback."""
    pytest.importorskip("cv2")
    large = ProposalFilter(min_size=101)
    few = some.subset(range(6))
    console = Console(width=200, record=True, quiet=False, file=(tmp_path / "said").open("w"))
    config = CONFIG.model_copy(update={"proposals": large})
    result = correspond(few, NetworkSource(run), tmp_path / "out", config, device="cpu", console=console)
    said = console.export_text()
    (raw,) = (tmp_path / "out").glob("proposals-*")
    store = open_store(raw, few.fingerprint, "boxes")
    for i in range(6):
        proposals = store.read(i)
        assert proposals is not None
        np.testing.assert_array_equal(result.boxes[i], proposals[:1])
    assert "6 images without a box that passes (first box instead)" in said
    assert all(part in said for part in ("proposals", "embeddings", "neighbours", "roi", "pairs", "118,287 images"))


def test_an_unreadable_image_is_nobodys_neighbour(scenes: Path, run: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in find_images(scenes).names[:8]:
        shutil.copy(scenes / name, data)
    Image.open(data / find_images(data).names[0]).save(data / "000000_damaged.png")
    damaged = data / "000000_damaged.png"
    sound = damaged.read_bytes()
    damaged.write_bytes(sound[:5000] + bytes(2000) + sound[7000:])
    images = find_images(data)
    place = list(images.names).index(damaged.name)
    find_regions(data, tmp_path / "boxes", "windows", set=["window=64", "stride=40"])
    result = find(images, run, tmp_path / "out", tmp_path / "boxes")
    assert not (np.delete(result.neighbours, place, 0) == place).any()
    assert result.boxes[place].tolist() == [[0, 0, 1, 1]]
    assert all(len(pairs) == 1 for pairs in result.pairs[place])
    result.check("it")


def test_weights_without_a_projector(some_listed: ImageList, boxes: Path, tmp_path: Path) -> None:
    """The nearest images are then those of the pooled features."""
    source = NetworkSource(backbone=EncoderConfig(name="test_resnet"), init="random")
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(name="test_resnet"), size=32)
    torch.save(encoder.body.state_dict(), tmp_path / "weights.pt")
    source = NetworkSource(backbone=EncoderConfig(name="test_resnet"), init=str(tmp_path / "weights.pt"))
    result = correspond(some_listed, source, tmp_path / "out", CONFIG, boxes, device="cpu", console=Console(quiet=True))
    (stored,) = (tmp_path / "out").glob("embeddings-*")
    row = open_store(stored, None).read(4)
    assert row is not None
    assert row.shape == (encoder.channels["c5"],)
    assert np.isclose(np.linalg.norm(row), 1, atol=1e-5)
    result.check("it")


def test_what_cannot_be_used_is_said(
    some_listed: ImageList, run: Path, boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="3 neighbours of each image need at least 4 images, and there are 3"):
        find(some_listed.subset(range(3)), run, tmp_path, boxes)
    with pytest.raises(InputError, match="made from other images"):
        find(some_listed.subset(range(19)), run, tmp_path, boxes)
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(run / "config.yaml", bare)
    with pytest.raises(InputError, match="has no checkpoint yet"):
        find(some_listed, bare, tmp_path / "out", boxes)
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(InputError, match=r"pip install 'regionssl\[proposals\]'"):
        find(some_listed, run, tmp_path / "out", None)


def test_a_box_is_warped_as_in_the_release() -> None:
    golden = np.load(GOLDEN)
    patch = warp(Image.fromarray(golden["image1"]), golden["item_part1_idx2_bbox"][0], 224)
    np.testing.assert_array_equal(patch.numpy(), golden["item_part1_idx2_patch0"])


@pytest.mark.parametrize(("width", "height"), [(640, 480), (333, 501), (224, 224), (1000, 90)])
def test_the_view_of_the_nearest_images(width: int, height: int) -> None:
    """Shorter side to 256, then the middle, in pixels of the resized image."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8))
    short = min(width, height)
    resized = image.resize((256 * width // short, 256 * height // short), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 224) / 2), round((resized.height - 224) / 2)
    expected = np.asarray(resized.crop((left, top, left + 224, top + 224))).transpose(2, 0, 1)
    np.testing.assert_array_equal(centre_view(image, 256, 224).numpy(), expected)
