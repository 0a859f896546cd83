"""Which COCO jsons of a folder are for training and for validation."""

from __future__ import annotations

from pathlib import Path

from regionssl.errors import InputError, UnknownLayout

_PREFERRED = "instances"
_VAL_WORDS = ("val", "valid", "validation", "minival", "test")


def val_beside(train: Path) -> Path | None:
    """The validation json that lies beside a training json and is called as it but for that word; or None.

    A json in a folder called ``train`` is looked for in the folder ``val`` (or ``valid``, ``validation``, ``test``).
    """
    for word in _VAL_WORDS:
        if "train" in train.name:
            other = train.with_name(train.name.replace("train", word))
        else:
            other = train.parent.with_name(word) / train.name
            if train.parent.name != "train":
                return None
        if other.is_file():
            return other
    return None


def find_jsons(folder: Path) -> tuple[Path, Path | None]:
    """The jsons to train on and to score on; the latter None where there is none.

    Looked for in ``annotations``, in the folder, and in its ``train``: one with ``train`` in its name (of several, one
    that begins with ``instances``), or else the only one.

    Raises:
        UnknownLayout: no json.
        InputError: several, and none is chosen by these rules.
    """
    for place in (folder / "annotations", folder, folder / "train"):
        jsons = sorted(file for file in place.glob("*.json") if file.name != "classes.json")
        named = [file for file in jsons if "train" in file.name]
        chosen = [file for file in named if file.name.startswith(_PREFERRED)] if len(named) > 1 else named or jsons
        if len(chosen) == 1:
            return chosen[0], val_beside(chosen[0])
        if jsons:
            names = ", ".join(file.name for file in (chosen or jsons)[:6])
            raise InputError(f"{place} has several jsons ({names}); give the one to train on instead of the folder")
    raise UnknownLayout(
        f"no labels of objects in {folder}; expected a COCO json, a folder with annotations/instances_train.json, or "
        "VOC folders with JPEGImages, Annotations and ImageSets"
    )
