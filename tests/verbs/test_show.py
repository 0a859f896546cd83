"""Pictures of runs and of recipes on images."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from regionssl import InputError, pretrain, show
from regionssl.backbones.encoder import Encoder, EncoderConfig
from regionssl.build import load_config
from regionssl.data.images import ImageList
from regionssl.data.loader import EpochPlan, StepSampler, make_loader
from regionssl.data.photometric import normalise
from regionssl.verbs.learned import centre_square
from regionssl.verbs.sights import to_pixels
from regionssl.verbs.subject import first_batch

TINY = str(Path(__file__).parents[1] / "tiny.yaml")
ORDER = ["views.png", "curves.png", "features.png", "points.png", "nearest.png", "segments.png"]
OF_A_RUN = set(ORDER)


@pytest.fixture(scope="module")
def run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shown") / "run"
    pretrain(scenes, folder, recipe=TINY, steps=2)
    return folder


def sizes(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in folder.iterdir():
        with Image.open(path) as picture:
            found[path.name] = picture.size
    return found


def test_a_run_is_shown_by_views_curves_and_features(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "folder"
    assert show(run, out, samples=3) == out
    assert set(sizes(out)) == OF_A_RUN
    printed = capsys.readouterr().out.split()
    assert [Path(word).name for word in printed if word != "wrote"] == ORDER
    show(run, tmp_path / "more", samples=4)
    assert sizes(tmp_path / "more")["views.png"][1] > sizes(out)["views.png"][1]
    assert sizes(tmp_path / "more")["features.png"][0] > sizes(out)["features.png"][0]


def test_pictures_are_the_same_every_time(run: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        show(run, tmp_path / name, samples=2)
    for picture in OF_A_RUN:
        assert (tmp_path / "one" / picture).read_bytes() == (tmp_path / "two" / picture).read_bytes()


def test_a_run_without_log_and_weights_is_shown_by_views(run: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.yaml", "run.json"):
        shutil.copy(run / name, bare)
    show(bare, tmp_path / "out", samples=1)
    assert set(sizes(tmp_path / "out")) == {"views.png"}
    (bare / "log.jsonl").write_text((run / "log.jsonl").read_text().splitlines()[0] + '\n{"step": 1, "lo')
    show(bare, tmp_path / "out", samples=1)
    assert set(sizes(tmp_path / "out")) == {"views.png", "curves.png"}


@pytest.mark.parametrize("recipe", ["scrl_small", "moco_v2_small", "byol_small", TINY])
def test_images_are_shown_under_any_recipe(recipe: str, scenes: Path, tmp_path: Path) -> None:
    settings = ["backbone.name=test_resnet"]
    show(scenes, tmp_path, recipe=recipe, samples=2, size=64, set=settings)
    assert set(sizes(tmp_path)) == {"views.png"}


def test_regions_of_r2o_are_shown_over_its_training(scenes: Path, tmp_path: Path) -> None:
    settings = [
        "backbone.name=test_resnet",
        "method.source={kind: grid, side: 4}",
        "method.curriculum.clusters=[8, 2]",
        "training.save_every=2",
        "method.hidden=16",
    ]
    run, images = tmp_path / "run", tmp_path / "images"
    pretrain(scenes, run, recipe="r2o_small", size=64, batch_size=8, steps=4, set=settings)
    show(run, tmp_path / "of_run", samples=2)
    assert set(sizes(tmp_path / "of_run")) == OF_A_RUN | {"regions.png"}
    show(scenes, images, recipe="r2o_small", samples=2, size=64, set=[*settings, "training.batch_size=8"])
    assert set(sizes(images)) == {"views.png", "regions.png"}
    two_states_more = sizes(tmp_path / "of_run")["regions.png"][1] - sizes(images)["regions.png"][1]
    assert two_states_more == 2 * (sizes(images)["regions.png"][1] - 28 * 2 - 36 + 10) // 3


def test_the_views_are_those_of_step_0(run: Path, images: ImageList) -> None:
    """The batch is the beginning of the one that the training loader makes."""
    config = load_config(str(run / "config.yaml"), {})
    plan, training = config.method.plan, config.training
    epochs = EpochPlan(len(images), training.batch_size, training.seed)
    expected = next(iter(make_loader(images, plan, StepSampler(epochs, 0, 2), training.seed, workers=0)))
    shown = first_batch(config, images, samples=3)
    assert len(shown) == 3
    assert (shown.epoch, shown.step, shown.seed) == (0, 0, training.seed)
    assert torch.equal(shown.index, expected.index[:3])
    for view in range(2):
        assert torch.equal(shown.views[view], expected.views[view][:3])
        assert torch.equal(shown.crops[view].box, expected.crops[view].box[:3])
        assert torch.equal(shown.colours[view].factors, expected.colours[view].factors[:3])
    assert len(first_batch(config, images, samples=100)) == training.batch_size


def test_pixels_come_back_from_normalised_views() -> None:
    pixels = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(to_pixels(normalise(pixels.float() / 255)), pixels)
    assert to_pixels(torch.tensor([-9.0, 9.0]).view(1, 1, 1, 2).expand(1, 3, 1, 2)).unique().tolist() == [0, 255]


def test_the_square_is_the_middle_of_the_image() -> None:
    pixels = np.zeros((4, 12, 3), np.uint8)
    pixels[:, 4:8] = 200
    square = centre_square(Image.fromarray(pixels), 8)
    assert square.shape == (3, 8, 8)
    assert set(square.flatten().tolist()) == {200}


def test_moved_images_are_named_by_data(run: Path, scenes: Path, tmp_path: Path) -> None:
    moved, images = tmp_path / "run", tmp_path / "images"
    shutil.copytree(run, moved)
    shutil.copytree(scenes, images)
    facts = json.loads((moved / "run.json").read_text())
    facts["data"]["source"] = str(tmp_path / "gone")
    (moved / "run.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"gone, which does not exist; .*--data"):
        show(moved, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    show(moved, tmp_path / "out", samples=1, data=images)
    show(run, tmp_path / "expected", samples=1)
    assert (tmp_path / "out" / "views.png").read_bytes() == (tmp_path / "expected" / "views.png").read_bytes()
    next(path for path in images.rglob("*") if path.is_file()).unlink()
    with pytest.raises(InputError, match="not those"):
        show(moved, tmp_path / "out", data=images)


def test_what_cannot_be_shown_is_refused(run: Path, scenes: Path, tmp_path: Path) -> None:
    out, empty, broken = tmp_path / "out", tmp_path / "empty", tmp_path / "broken"
    empty.mkdir()
    broken.mkdir()
    shutil.copy(run / "config.yaml", broken)
    (broken / "run.json").write_text("{}")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"absent does not exist; give the folder of a run, or images"):
        show(tmp_path / "absent", out)
    with pytest.raises(InputError, match="no images"):
        show(empty, out)
    with pytest.raises(InputError, match=r"run\.json"):
        show(broken, out)
    with pytest.raises(InputError, match="--samples"):
        show(scenes, out, samples=0)
    with pytest.raises(InputError, match="leave --recipe"):
        show(run, out, recipe="scrl_small")
    with pytest.raises(InputError, match="--data goes with a run"):
        show(scenes, out, data=scenes)
    with pytest.raises(InputError, match="did you mean"):
        show(scenes, out, recipe="scrl_smal")
    with pytest.raises(InputError, match="cannot make the folder"):
        show(scenes, tmp_path / "file", recipe=TINY)
    assert not out.exists()


def test_a_file_of_weights_is_shown_on_images(scenes: Path, tmp_path: Path) -> None:
    encoder = Encoder(EncoderConfig(name="test_resnet"), size=64)
    prefixed = {f"module.encoder_q.{key}": value for key, value in encoder.body.state_dict().items()}
    file = tmp_path / "checkpoint_0199.pth.tar"
    torch.save({"state_dict": prefixed, "epoch": 200}, file)
    out = tmp_path / "pictures"
    show(file, out, data=scenes, backbone="test_resnet", samples=2)
    assert set(sizes(out)) == {"features.png"}
    with pytest.raises(InputError, match="name images to show it on: --data IMAGES"):
        show(file, out, backbone="test_resnet")
    with pytest.raises(InputError, match="does not say which backbone it is for"):
        show(file, out, data=scenes)
    with pytest.raises(InputError, match="leave --recipe, --size and --set out"):
        show(file, out, data=scenes, backbone="test_resnet", size=64)
    with pytest.raises(InputError, match="--backbone goes with a file of weights"):
        show(scenes, out, backbone="test_resnet")
