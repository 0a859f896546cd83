"""What is shown: a run, or the settings of a recipe, with its images and their first batch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from regionssl.build import RunConfig, load_config, make_regions
from regionssl.data.batch import Batch
from regionssl.data.images import ImageList, find_images, scan
from regionssl.data.loader import EpochPlan, StepSampler, make_loader
from regionssl.data.patches import PatchSource
from regionssl.errors import InputError
from regionssl.verbs.run_folder import CONFIG, FACTS
from regionssl.verbs.stages import load_patches


@dataclass(frozen=True)
class Subject:
    """What is shown: settings and images, and the run folder they come from, if any."""

    name: str
    config: RunConfig
    images: ImageList
    run: Path | None
    init: str


def open_run(run: Path, data: Path | None, image_root: Path | None) -> Subject:
    """A run, with its own settings and images.

    Args:
        data: where its images are; None for where they were.

    Raises:
        InputError: the images are gone or others, or the run's files are broken.
    """
    try:
        facts = json.loads((run / FACTS).read_text())
        recorded, fingerprint, init = facts["data"], facts["data"]["fingerprint"], facts["init"]
        place = data or Path(recorded["source"])
        root = image_root or (Path(recorded["image_root"]) if recorded["image_root"] else None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{run / FACTS}, which tells where the images of the run are, cannot be read") from error
    config = load_config(str(run / CONFIG), {})
    if not place.exists():
        raise InputError(f"the images of {run} were in {place}, which does not exist; name their place with --data")
    images, _ = scan(find_images(place, root))
    if images.fingerprint != fingerprint:
        raise InputError(
            f"the images in {place} are not those that {run} was trained on: some were added, removed or changed; "
            f"name the right ones with --data, or look at these with: regionssl show {place} --recipe {run / CONFIG}"
        )
    return Subject(run.resolve().name, config, images, run, init)


def open_images(source: Path, image_root: Path | None, config: RunConfig) -> Subject:
    """Images, under the settings of a recipe.

    Raises:
        InputError: there are none.
    """
    if not source.exists():
        raise InputError(f"{source} does not exist; give the folder of a run, or images as pretrain takes them")
    images, _ = scan(find_images(source, image_root))
    return Subject(source.resolve().name, config, images, None, "random")


def patches_of(subject: Subject) -> PatchSource | None:
    """The correspondences that patches are drawn from; None if no view is a patch.

    Raises:
        InputError: they have not been found yet.
    """
    if not subject.config.method.plan.wants_patches:
        return None
    if subject.run is None:
        raise InputError(
            f"the patches of {subject.config.method.name} are cut by correspondences between the images, which a run "
            "finds in its second stage; give the folder of a run instead of images"
        )
    return load_patches(subject.run, subject.images)


def first_batch(config: RunConfig, images: ImageList, samples: int, patches: PatchSource | None = None) -> Batch:
    """The first images of step 0 with the views that training makes of them; uint8, colours not applied."""
    training, plan = config.training, config.method.plan
    count = min(samples, training.batch_size, len(images))
    epochs = EpochPlan(len(images), count, training.seed, drop_last=False)
    regions = make_regions(config.method, images.names, images)
    loader = make_loader(images, plan, StepSampler(epochs, 0, 1), training.seed, 0, regions=regions, patches=patches)
    batch: Batch = next(iter(loader))
    return batch
