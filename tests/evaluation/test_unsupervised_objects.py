"""Clusters against foregrounds as an evaluation: the oracle's choice, the blind one, and a box."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score

from regionssl import run_lengths
from regionssl.backbones.encoder import Encoder
from regionssl.data.images import find_images
from regionssl.errors import InputError
from regionssl.evaluation.objects import blind_choice, centred_box, clusters_on_grid, oracle_choice, truth_on_grid
from regionssl.evaluation.start import Start, open_start
from regionssl.evaluation.tasks import find_task, load_protocol, open_data
from regionssl.evaluation.unsupervised_objects import ObjectsTask, foreground
from regionssl.labels.sets import MapSet, Objects, ObjectSet, Split

SIDE = 96
PLACES = [(32, 32), (28, 40), (0, 64), (64, 0)]  # two objects in the middle, two in corners


class Colours(Encoder):
    """An encoder whose c4 is the mean colour of each cell, with a sign."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"c4": torch.nn.functional.avg_pool2d(x, 16)}


@dataclass(frozen=True)
class ColourStart(Start):
    def encoder(self, maps: tuple[str, ...] = ("c4",), seed: int = 0) -> Encoder:
        return Colours()


@pytest.fixture(scope="module")
def start() -> Start:
    return ColourStart("colours", "random", open_start("random", "test_resnet").config)


@pytest.fixture(scope="module")
def label_maps(tmp_path_factory: pytest.TempPathFactory) -> MapSet:
    """Red squares on a blue and green ground; the last picture has none."""
    folder = tmp_path_factory.mktemp("squares")
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for i, place in enumerate([*PLACES, None]):
        pixels, labels = np.zeros((SIDE, SIDE, 3), np.uint8), np.zeros((SIDE, SIDE), np.uint8)
        pixels[:48, :, 1] = pixels[48:, :, 2] = 200
        if place is not None:
            square = np.s_[place[1] : place[1] + 32, place[0] : place[0] + 32]
            pixels[square], labels[square] = (220, 0, 0), 2
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        Image.fromarray(labels).save(folder / "labels" / f"{i}.png")
    values = np.full(256, -2, np.int64)
    values[[0, 2, 255]] = 0, 1, -1
    images, maps = find_images(folder / "images"), find_images(folder / "labels")
    return MapSet(images, maps, ("background", "square"), values)


def as_objects(maps: MapSet) -> ObjectSet:
    """The same as objects in two halves each, as run lengths, and a crowd over the first row."""
    objects = []
    for i in range(len(maps)):
        whole = maps.labels(i) == 1
        left, crowd = whole.copy(), np.zeros_like(whole)
        left[:, : np.flatnonzero(whole.any(0))[:16].max(initial=0)] = False
        crowd[0] = True
        parts = [left, whole & ~left, crowd] if whole.any() else []
        masks = tuple({"size": [SIDE, SIDE], "counts": run_lengths.encode(part)} for part in parts)
        count = len(parts)
        boxes, labels, area = np.zeros((count, 4)), np.zeros(count, np.int64), np.ones(count)
        objects.append(Objects(boxes, labels, np.arange(count) == 2, area, masks))
    sizes = np.full((len(maps), 2), SIDE)
    return ObjectSet(maps.images, sizes, tuple(objects), ("thing",))


def test_the_blind_choice_takes_what_is_in_the_middle() -> None:
    labels = torch.zeros(8, 8, dtype=torch.int64)
    labels[1:7, 2:7] = 1
    labels[4, 4] = 2  # wholly inside, but small
    assert blind_choice(labels, 3) == 1
    assert centred_box(8).sum() == 16
    assert centred_box(8)[2:6, 2:6].all()


def test_scores_are_scikit_learns(label_maps: MapSet, start: Start, tmp_path: Path) -> None:
    task = ObjectsTask(clusters=3, size=384)
    outcome = task.run(start, Split(label_maps, label_maps), tmp_path, seed=4)
    truths, oracle, blind = [], [], []
    for i in range(len(PLACES)):
        truth = truth_on_grid(label_maps.labels(i) == 1)
        labels = clusters_on_grid(Colours(), label_maps.images.load(i), i, 3, 384, 4, start.mean, start.std)
        truths.append(truth.flatten())
        oracle.append((labels == oracle_choice(labels, truth, 3)).flatten())
        blind.append((labels == blind_choice(labels, 3)).flatten())
    truth = torch.cat(truths).numpy()
    for name, predictions in (("oracle", oracle), ("blind", blind)):
        expected = 100 * jaccard_score(truth, torch.cat(predictions).numpy(), average="macro")
        assert outcome.metrics[f"{name}_miou"] == pytest.approx(expected, abs=1e-9)
    boxes = centred_box().flatten().repeat(len(PLACES)).numpy()
    expected = 100 * jaccard_score(truth, boxes, average="macro")
    assert outcome.metrics["centred_box_miou"] == pytest.approx(expected, abs=1e-9)
    assert outcome.primary == "oracle_miou"
    assert outcome.metrics["oracle_foreground_iou"] > 90
    assert outcome.metrics["blind_miou"] < outcome.metrics["oracle_miou"]  # two objects are not in the middle
    assert outcome.metrics["scored_images"] == 4


def test_evidence_and_artefacts(label_maps: MapSet, start: Start, tmp_path: Path) -> None:
    split = Split(label_maps, label_maps)
    task = ObjectsTask(clusters=3, size=384, choice="blind")
    outcome = task.run(start, split, tmp_path)
    assert outcome.primary == "blind_miou"
    assert len(outcome.evidence) == 5
    assert outcome.evidence.metric(np.arange(5)) == pytest.approx(outcome.value, abs=1e-9)
    assert outcome.evidence.metric(np.array([0, 1, 4])) > 90 > outcome.evidence.metric(np.array([2, 3]))
    assert np.mean([*outcome.per_class.values()]) == pytest.approx(outcome.value)
    rows = outcome.artefacts["per_image"].read_text().splitlines()
    assert rows[0] == "image,oracle_foreground_iou,blind_foreground_iou,centred_box_foreground_iou"
    assert rows[5] == "4.png,,,"
    assert outcome.artefacts["pictures"].is_file()


def test_objects_are_the_same_as_maps(label_maps: MapSet, start: Start, tmp_path: Path) -> None:
    task = ObjectsTask(clusters=3, size=384)
    objects = as_objects(label_maps)
    mask, known = foreground(objects, 0, ("background",))
    np.testing.assert_array_equal(mask, label_maps.labels(0) == 1)
    np.testing.assert_array_equal(~known.any(1), np.arange(SIDE) == 0)
    found = task.run(start, Split(objects, objects), tmp_path / "objects").metrics
    expected = task.run(start, Split(label_maps, label_maps), tmp_path / "maps").metrics
    assert found["oracle_miou"] == pytest.approx(expected["oracle_miou"], abs=0.5)


def test_what_is_not_labelled(label_maps: MapSet) -> None:
    values = label_maps.values.copy()
    values[0] = -1
    mask, known = foreground(replace(label_maps, values=values), 0, ("background",))
    assert mask.sum() == known.sum() == 32 * 32
    alone = replace(label_maps, values=np.where(values == 1, 0, values), classes=("square",))
    mask, known = foreground(alone, 0, ())  # no class for what lies behind, and this is said
    assert mask.sum() == 32 * 32
    assert known.all()


@pytest.mark.parametrize("classes", [("0", "2"), ("bg", "square"), ("Background", "square")])
def test_a_background_of_another_name_is_asked_for(
    label_maps: MapSet, start: Start, tmp_path: Path, classes: tuple[str, ...]
) -> None:
    named = replace(label_maps, classes=classes)
    task = ObjectsTask(clusters=3, size=128)
    with pytest.raises(InputError) as raised:
        task.run(start, Split(named, named), tmp_path)
    said = str(raised.value)
    assert f"none of the 2 classes ({', '.join(classes)}) is called background" in said
    setting = re.search("--set '(background=.*?)'", said)
    assert setting is not None
    told = load_protocol("unsupervised_objects", None, ["clusters=3", "size=128", setting.group(1)]).evaluator
    expected = task.run(start, Split(label_maps, label_maps), tmp_path).metrics
    assert told.run(start, Split(named, named), tmp_path).metrics == expected


def test_labels_that_are_foreground_all_over_are_refused(label_maps: MapSet, start: Start, tmp_path: Path) -> None:
    values = label_maps.values.copy()
    values[0] = -1
    task = ObjectsTask(clusters=3, size=128)
    unlabelled = replace(label_maps, values=values)
    with pytest.raises(InputError, match=r"foreground fills every labelled pixel .* 5 images in all"):
        task.run(start, Split(unlabelled, unlabelled), tmp_path)
    everything = task.model_copy(update={"background": ()})
    with pytest.raises(InputError, match="foreground fills every labelled pixel"):
        everything.run(start, Split(label_maps, label_maps), tmp_path)
    said = everything.run(start, Split(unlabelled, unlabelled), tmp_path).metrics
    assert said == task.run(start, Split(label_maps, label_maps), tmp_path).metrics


def test_grey_maps_are_scored_as_the_script_of_r2o_did(start: Start, tmp_path: Path) -> None:
    """From CUB's folders to the confusion matrix, by section 7.4, on masks whose greys decide."""
    rng = np.random.default_rng(3)
    names = [f"001.Bird/{i}" for i in range(3)]
    masks, pictures = [], []
    for i, name in enumerate(names):
        mask = np.zeros((256, 256), np.uint8)
        mask[64:192, 64:192] = rng.choice([53, 101, 153, 205, 253], (128, 128))  # of four, none has a mean of a half
        pixels = rng.integers(0, 60, (256, 256, 3), np.uint8)
        pixels[60 : 190 - i, 70:180] += 150
        for kind, what in (("images", pixels), ("segmentations", mask)):
            file = tmp_path / kind / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(what).save(file)
        masks.append(mask)
        pictures.append(Image.fromarray(pixels))
    data = open_data(find_task("unsupervised_objects"), tmp_path)
    outcome = ObjectsTask(clusters=3, size=256).run(start, data, tmp_path / "out", seed=2)
    expected = np.zeros((2, 2), np.int64)
    for i, (mask, picture) in enumerate(zip(masks, pictures, strict=True)):
        cells = mask.reshape(128, 2, 128, 2).mean((1, 3), dtype=np.float64) / 255
        truth = cells > 0.5
        halves = (mask > 127).reshape(128, 2, 128, 2).mean((1, 3)) > 0.5
        assert (truth != halves).any()  # greys averaged are not pixels judged one by one
        labels = clusters_on_grid(Colours(), picture, i, 3, 256, 2, start.mean, start.std).numpy()
        ious = [(truth & (labels == k)).sum() / (truth | (labels == k)).sum() for k in range(3)]
        prediction = labels == int(np.argmax(ious))
        for t in (0, 1):
            for p in (0, 1):
                expected[t, p] += ((truth == t) & (prediction == p)).sum()
    hits = np.diagonal(expected)
    miou = 100 * (hits / (expected.sum(0) + expected.sum(1) - hits)).mean()
    assert outcome.metrics["scored_images"] == 3
    assert outcome.metrics["oracle_miou"] == pytest.approx(miou, abs=1e-9)


def test_a_network(label_maps: MapSet, tmp_path: Path) -> None:
    task = ObjectsTask(clusters=3, size=128)
    random = open_start("random", "test_resnet")
    outcome = task.run(random, Split(label_maps, label_maps), tmp_path / "a")
    rows = [line.split(",")[1:3] for line in outcome.artefacts["per_image"].read_text().splitlines()[1:5]]
    ious = np.array(rows, np.float64)
    assert (ious[:, 0] >= ious[:, 1]).all()  # of one image, no choice is better than the oracle's
    assert ious[:, 0].min() > 0
    assert task.run(random, Split(label_maps, label_maps), tmp_path / "b").metrics == outcome.metrics


def test_what_cannot_be_scored(label_maps: MapSet, start: Start, tmp_path: Path) -> None:
    task = ObjectsTask(clusters=3, size=128)
    empty = label_maps.subset([4])
    with pytest.raises(InputError, match="none of the 1 images has a foreground"):
        task.run(start, Split(empty, empty), tmp_path)
    boxes = replace(
        as_objects(label_maps), objects=(Objects(np.zeros((0, 4)), np.zeros(0), np.zeros(0), np.zeros(0)),) * 5
    )
    with pytest.raises(InputError, match="these labels have boxes alone"):
        task.run(start, Split(boxes, boxes), tmp_path)
