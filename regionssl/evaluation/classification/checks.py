"""What every classification asks of its labels."""

from __future__ import annotations

from regionssl.errors import InputError
from regionssl.labels.sets import ClassSet, Split


def one_class_each(data: Split[ClassSet]) -> bool:
    """Whether every image to train on and to score has one class; otherwise classes are judged one by one.

    Raises:
        InputError: no images, a single class, or other classes in training than in validation.
    """
    if not len(data.train) or not len(data.val):
        raise InputError(
            f"classification needs images to train on and to score, got {len(data.train)} and {len(data.val)}"
        )
    if data.train.classes != data.val.classes:
        raise InputError("the images to train on and to score have different classes; give both the same class list")
    exclusive = data.train.exclusive and data.val.exclusive
    if exclusive and len(data.train.classes) < 2:
        raise InputError(f"all images are of the class {data.train.classes[0]}; classification needs two or more")
    return exclusive
