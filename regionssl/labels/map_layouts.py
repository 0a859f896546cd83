"""How the known sets of label maps lie on disk, and what their values mean.

Each reader gives the images to train on, and those to score on or None where there are none.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from regionssl.data.image_list import ImageList
from regionssl.data.sources import list_folder
from regionssl.errors import InputError
from regionssl.labels.checks import listed_files
from regionssl.labels.maps import Meaning, read_classes, read_maps, values_found
from regionssl.labels.sets import MapSet
from regionssl.labels.voc import read_voc_maps, voc_parts, voc_years

VAL_NAMES = ("val", "valid", "validation", "test")
Maps = tuple[MapSet, MapSet | None]

_MAP_FOLDERS = ("labels", "semantic", "masks")
_CITYSCAPES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_COCO_STUFF_WITHOUT = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)  # names of COCO that no pixel has
_CUB_LIST = "train_val_test_split.txt"
_CUB_TRAIN, _CUB_VAL, _CUB_TEST = "0", "1", "2"
_CUB_NOTE = "maps are grey, 255 where a pixel is all bird; as a class, it is bird above a half"
_CUB = Meaning((0, 255), ("background", "bird"), (), (_CUB_NOTE,), grey=True)


def _paired(images: Path, maps: Path) -> list[tuple[str, str]]:
    """Names below two folders that are equal but for the extension."""
    pictures = {os.path.splitext(name)[0]: name for name in list_folder(images)[0]}
    labels = {os.path.splitext(name)[0]: name for name in list_folder(maps)[0]}
    return [(pictures[stem], labels[stem]) for stem in pictures if stem in labels]


def _splits(images: tuple[Path, Path], maps: tuple[Path, Path], meaning: Meaning) -> Maps:
    """The sets of a training and a validation folder, of which the latter need not be there."""
    for folder in (images[0], maps[0]):
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}; images and label maps of the training split are needed")
    train = read_maps(_paired(images[0], maps[0]), images[0], maps[0], meaning, maps[0])
    if not (images[1].is_dir() and maps[1].is_dir()):
        return train, None
    return train, read_maps(_paired(images[1], maps[1]), images[1], maps[1], meaning, maps[1])


def read_plain(root: Path) -> Maps | None:
    """``labels/<split>`` beside ``images/<split>`` or ``<split>``, or without splits; ``classes.json`` in either.

    ``labels`` may also be called ``semantic`` or ``masks``.
    """
    maps = next((root / name for name in _MAP_FOLDERS if (root / name).is_dir()), None)
    if maps is None:
        return None
    images = root / "images" if (root / "images").is_dir() else root
    file = next((place / "classes.json" for place in (root, maps) if (place / "classes.json").is_file()), None)
    meaning = read_classes(file) if file else values_found(_all_maps(maps))
    if not (maps / "train").is_dir():
        return read_maps(_paired(images, maps), images, maps, meaning, root), None
    val = next((name for name in VAL_NAMES if (maps / name).is_dir() and (images / name).is_dir()), VAL_NAMES[0])
    return _splits((images / "train", images / val), (maps / "train", maps / val), meaning)


def _all_maps(folder: Path) -> ImageList:
    return listed_files(str(folder), list_folder(folder)[0], folder)


def read_voc(root: Path) -> Maps | None:
    """VOC; the list ``trainaug`` and ``SegmentationClassAug`` (VOC2012 with SBD's labels) where they are."""
    years = [year for year in voc_years(root) if (year / "SegmentationClass").is_dir()]
    if not years:
        return None
    augmented = [
        year
        for year in years
        if (year / "SegmentationClassAug").is_dir() and (year / "ImageSets" / "Segmentation" / "trainaug.txt").is_file()
    ]
    train, val = voc_parts(years, "Segmentation")
    scored = read_voc_maps(*val) if val else None
    if augmented and val and all(name == "val" for _, name in val):
        more = [(year, "trainaug") for year in augmented]
        return read_voc_maps(*more, folder="SegmentationClassAug"), scored
    return read_voc_maps(*train), scored


def read_cityscapes(root: Path) -> Maps | None:
    """``leftImg8bit/<split>/<city>`` and ``gtFine/<split>/<city>``; maps of train ids are taken before those of ids."""
    images, maps = root / "leftImg8bit", root / "gtFine"
    if not images.is_dir() or not maps.is_dir():
        return None
    train = _cityscapes_split(images / "train", maps / "train")
    there = (images / "val").is_dir() and (maps / "val").is_dir()
    return train, _cityscapes_split(images / "val", maps / "val") if there else None


def _cityscapes_split(images: Path, maps: Path) -> MapSet:
    pictures = {name.removesuffix("_leftImg8bit.png"): name for name in list_folder(images)[0]}
    labels = list_folder(maps)[0]
    unused = tuple(value for value in range(256) if value not in _CITYSCAPES_IDS)
    for ending, meaning in (
        ("_gtFine_labelTrainIds.png", Meaning(tuple(range(19)), _CITYSCAPES, tuple(range(19, 256)))),
        ("_gtFine_labelIds.png", Meaning(_CITYSCAPES_IDS, _CITYSCAPES, unused)),
    ):
        stems = {name.removesuffix(ending): name for name in labels if name.endswith(ending)}
        pairs = [(pictures[stem], stems[stem]) for stem in pictures if stem in stems]
        if pairs:
            return read_maps(pairs, images, maps, meaning, maps)
    raise InputError(
        f"{maps} has no map of an image in {images} that ends in _gtFine_labelTrainIds.png or _labelIds.png"
    )


def read_ade20k(root: Path) -> Maps | None:
    """``images`` and ``annotations`` with ``training`` and ``validation``: 0 is ignored, 1 to 150 are classes."""
    images, maps = root / "images", root / "annotations"
    if not (maps / "training").is_dir():
        return None
    ids = tuple(range(1, 151))
    names, notes = _names(root / "objectInfo150.txt", ids, _ade20k_names)
    meaning = Meaning(ids, names, (0, 255), notes)
    return _splits((images / "training", images / "validation"), (maps / "training", maps / "validation"), meaning)


def read_coco_stuff(root: Path) -> Maps | None:
    """COCO-Stuff: 171 classes in 0..181, 255 ignored.

    Maps lie in ``stuffthingmaps/{train,val}2017`` (or ``annotations``), images in ``{train,val}2017``, perhaps below
    ``images``.
    """
    maps = next(
        (root / name for name in ("stuffthingmaps", "annotations") if (root / name / "train2017").is_dir()), None
    )
    if maps is None:
        return None
    images = root / "images" if (root / "images" / "train2017").is_dir() else root
    ids = tuple(value for value in range(182) if value not in _COCO_STUFF_WITHOUT)
    names, notes = _names(root / "labels.txt", ids, _coco_stuff_names)
    meaning = Meaning(ids, names, (255,), notes)
    return _splits((images / "train2017", images / "val2017"), (maps / "train2017", maps / "val2017"), meaning)


def read_cub(root: Path) -> Maps | None:
    """CUB-200-2011: ``images/<class>/*.jpg`` and grey ``segmentations/<class>/*.png``.

    Of the images of ``images.txt``, those marked 0 in ``train_val_test_split.txt`` are trained on, and those marked 2
    scored on (R2O, section 7.4). Without this list, or without the files of those marked 0, there is one set.
    """
    images, maps = root / "images", root / "segmentations"
    if not images.is_dir() or not maps.is_dir():
        return None
    if not (root / _CUB_LIST).is_file():
        return _cub_set(root, _paired(images, maps), f"there is no {_CUB_LIST}, so all images are taken"), None
    train, test = _cub_pairs(root)
    if not any((images / name).is_file() for name, _ in train):
        return _cub_set(root, test, f"none of the images is there that {_CUB_LIST} marks 0, to train on"), None
    return _cub_set(root, train), _cub_set(root, test)


def _cub_set(root: Path, pairs: list[tuple[str, str]], *notes: str) -> MapSet:
    meaning = replace(_CUB, notes=(*_CUB.notes, *notes))
    return read_maps(pairs, root / "images", root / "segmentations", meaning, root)


def _cub_pairs(root: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Names of images and maps that the list marks 0, and that it marks 2; both files give a number first."""
    file, names = root / _CUB_LIST, root / "images.txt"
    pairs: dict[str, dict[tuple[str, str], None]] = {_CUB_TRAIN: {}, _CUB_VAL: {}, _CUB_TEST: {}}
    try:
        by_number = dict(line.split(maxsplit=1) for line in names.read_text("utf-8").splitlines() if line.strip())
        for line in file.read_text("utf-8").splitlines():
            if line.strip():
                number, mark = line.split()
                name = by_number[number].strip()
                pairs[mark][name, os.path.splitext(name)[0] + ".png"] = None
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{file} should give a number of {names.name} and 0 (train), 1 (val) or 2 (test) in a line, and "
            f"{names.name} beside it a number and a name: {error!r}"
        ) from error
    if not pairs[_CUB_TEST]:
        raise InputError(f"{file} marks no image 2, as those to score on are; mark them, or take the list away")
    return [*pairs[_CUB_TRAIN]], [*pairs[_CUB_TEST]]


def _names(
    file: Path, ids: tuple[int, ...], read: Callable[[list[str], tuple[int, ...]], list[str]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the ids and what to say about them: those in a set's own list, or the ids where it is not there."""
    lines = [line for line in file.read_text("utf-8", "replace").splitlines() if line.strip()] if file.is_file() else []
    try:
        names = tuple(read(lines, ids))
    except (KeyError, ValueError, IndexError):
        names = ()
    if len(set(names)) == len(ids):
        return names, ()
    return tuple(map(str, ids)), (f"classes are named by their ids: there is no {file.name} with {len(ids)} names",)


def _ade20k_names(lines: list[str], ids: tuple[int, ...]) -> list[str]:
    """The last column of the rows below the heading; of several words for a class the first if that will do."""
    whole = [line.split("\t")[-1].strip() for line in lines[1:]]
    short = [name.split(",")[0] for name in whole]
    return short if len(set(short)) == len(ids) else whole


def _coco_stuff_names(lines: list[str], ids: tuple[int, ...]) -> list[str]:
    """Lines ``number: name``, where numbers are the maps' values plus one."""
    pairs = dict(line.split(":", 1) for line in lines)
    return [pairs[str(value + 1)].strip() for value in ids]
