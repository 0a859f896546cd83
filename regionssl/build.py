"""The composition root: from names in a recipe to the objects of a run. A list, not a place where things happen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, SerializeAsAny, field_validator
from torch import nn

from regionssl.backbones.beside import initialise_beside
from regionssl.backbones.encoder import Encoder, EncoderConfig
from regionssl.backbones.weights import initialise
from regionssl.config import Config, override, parse, parse_overrides, read_yaml
from regionssl.counted import Stream, integer
from regionssl.data.contents import content_digests, stamp
from regionssl.data.image_list import ImageList
from regionssl.data.photometric import IMAGENET_MEAN, IMAGENET_STD
from regionssl.data.samples import RegionSource
from regionssl.engine.optim import OptimiserConfig
from regionssl.engine.schedule import ScheduleConfig
from regionssl.engine.train import TrainingConfig
from regionssl.errors import InputError, nearest
from regionssl.methods.base import Method, MethodConfig, World
from regionssl.methods.byol import Byol
from regionssl.methods.moco import Moco
from regionssl.methods.orl import Orl
from regionssl.methods.plrc import Plrc
from regionssl.methods.r2o import CLEAN, OFFICIAL, R2o
from regionssl.methods.resim import C4, ReSim
from regionssl.methods.scrl import Scrl
from regionssl.regions.kinds import settings_of
from regionssl.regions.sources import SourceConfig, make_source
from regionssl.stores.store import StoredLabels, check_contents, open_store

METHODS: dict[str, type[Method]] = {
    "moco": Moco,
    "byol": Byol,
    "resim": ReSim,
    "scrl": Scrl,
    "plrc": Plrc,
    "orl": Orl,
    "r2o": R2o,
}

# Named sets of settings of a method, over its defaults: ``method: {name: scrl, preset: official}``.
PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("moco", "official"): {},
    ("resim", "official"): {},
    ("resim", "c4"): {"levels": [C4.model_dump()]},
    ("scrl", "official"): {"normalise_over": "process", "target_init": "independent"},
    ("byol", "official_scrl"): {"joint_views": True, "target_init": "independent"},
    ("byol", "official_orl"): {"joint_views": False, "target_init": "copy", "head_init": "kaiming_fan_in"},
    ("orl", "official"): {},
    ("r2o", "official"): OFFICIAL,
    ("r2o", "clean"): CLEAN,
    ("plrc", "R"): {},
    ("plrc", "P"): {"slots": 16, "intra_image": True, "prototypes": 0, "affinity_scale": 1.0, "centre_momentum": None},
}

RECIPES = Path(__file__).parent / "recipes"


class About(Config):
    """Where a recipe comes from.

    Attributes:
        summary: one line.
        data: what the settings were made for.
        source: of the settings.
        score: published or measured result, "not published" or "not measured".
        departures: each value that differs from the source, and why.
    """

    summary: str
    data: str
    source: str
    score: str
    departures: dict[str, str] = Field(default_factory=dict)


class RunConfig(Config):
    """Everything that decides a run's result, as a recipe states it."""

    about: About
    method: SerializeAsAny[MethodConfig]
    backbone: EncoderConfig = EncoderConfig()
    optimiser: OptimiserConfig
    schedule: ScheduleConfig
    training: TrainingConfig = TrainingConfig()

    @field_validator("method", mode="before")
    @classmethod
    def _known_method(cls, value: Any) -> Any:
        return value if isinstance(value, MethodConfig) else parse_method(value)


def parse_method(tree: Any) -> MethodConfig:
    """The method's config from plain values with a ``name`` and perhaps a ``preset``.

    Raises:
        InputError: an unknown method, preset or key.
    """
    if not isinstance(tree, Mapping) or "name" not in tree:
        raise InputError(f"method needs a name; known: {', '.join(METHODS)}")
    values = dict(tree)
    name, preset = values["name"], values.pop("preset", None)
    if not isinstance(name, str) or name not in METHODS:
        raise InputError(f"unknown method {name!r}{nearest(str(name), METHODS)}")
    if preset is not None and (not isinstance(preset, str) or (name, preset) not in PRESETS):
        known = [preset_name for method, preset_name in PRESETS if method == name]
        raise InputError(f"unknown preset {preset!r} of {name}{nearest(str(preset), known)}")
    base = {} if preset is None else PRESETS[name, preset]
    return parse(METHODS[name].Config, base | values, "method")


def recipe_names() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(recipe: str) -> dict[str, Any]:
    """The plain values of a recipe, by name or by file.

    Raises:
        InputError: no such recipe or file.
    """
    if recipe in recipe_names():
        return read_yaml(RECIPES / f"{recipe}.yaml")
    path = Path(recipe)
    if path.is_file() or path.suffix in (".yaml", ".yml"):
        return read_yaml(path)
    raise InputError(f"no recipe or file called {recipe!r}{nearest(recipe, recipe_names())}")


def load_config(
    recipe: str, settings: Mapping[str, Any], assignments: list[str] | None = None, size: int | None = None
) -> RunConfig:
    """A recipe as a typed config.

    Args:
        settings: values by dotted key, put over the recipe.
        assignments: ``key.sub=value`` strings, put over both.
        size: side of all views, pixels.

    Raises:
        InputError: an unknown recipe or key, or a value that does not fit.
    """
    tree = read_recipe(recipe)
    overrides = [*settings.items(), *parse_overrides(assignments or [])]
    if size is not None or any(key.startswith("method.") for key, _ in overrides):
        tree["method"] = written_out(tree.get("method"), size)
    for key, value in overrides:
        override(tree, key, value)
    return parse(RunConfig, tree, f"recipe {recipe}")


def written_out(tree: Any, size: int | None) -> dict[str, Any]:
    """A method's values with all defaults, so that single items of its lists can be set; views of ``size`` if given."""
    method = parse_method(tree)
    if size is not None:
        method = method.model_copy(update={"plan": method.plan.resized(size)})
    return method.model_dump(mode="json")


def make_method(config: RunConfig, world: World, seed: int, init: str) -> Method:
    """The method of a config, with weights drawn from ``seed`` and the backbone initialised from ``init``.

    Of a file, further modules whose names and shapes are known are taken too; ``method.started_from`` says which.

    Raises:
        InputError: ``init`` is neither random, imagenet nor a usable file.
    """

    notes: dict[str, None] = {}

    def make_encoder(maps: tuple[str, ...]) -> Encoder:
        encoder = Encoder(config.backbone, size=config.method.plan.views[0].size, maps=maps)
        notes[initialise(encoder, init)] = None
        return encoder

    state = torch.get_rng_state()
    torch.manual_seed(integer(seed, Stream.WEIGHTS))
    constructor: Any = METHODS[config.method.name]
    method: Method = constructor(config.method, make_encoder, world)
    torch.set_rng_state(state)
    if init not in ("random", "imagenet"):
        notes[str(initialise_beside(method.branches, method.backbone, init))] = None
    method.started_from = tuple(notes)
    return method


def make_regions(method: MethodConfig, names: Sequence[str], images: ImageList | None = None) -> RegionSource | None:
    """What labels the images, if the method's views come with region labels.

    Args:
        names: of the images, by position.
        images: the images themselves, needed for regions from a store.

    Raises:
        InputError: a library or label files are missing, a store is of other images or settings, or the method knows
            no regions.
    """
    if not method.plan.wants_regions:
        return None
    source: SourceConfig | None = getattr(method, "source", None)
    if source is None:
        raise InputError(f"{method.name} uses no region labels; leave `regions` out of its views")
    if source.store is not None or source.kind == "store":
        return stored_regions(source, images)
    return make_source(source, names, IMAGENET_MEAN, IMAGENET_STD)


def stored_regions(source: SourceConfig, images: ImageList | None) -> RegionSource:
    """Label maps read from a store, once it is sure that they are of these images as they are now.

    Raises:
        InputError: there is no such store, it is unfinished, or of other images, settings or content.
    """
    if source.store is None or images is None:
        raise InputError("regions of kind store need the folder of the store: --set method.source.store=STORE")
    settings = None if source.kind == "store" else settings_of(source)
    store = open_store(source.store, images.fingerprint, "labels", settings)
    check_contents(store, images.names, stamp(images), lambda: content_digests(images))
    return StoredLabels(store)


def trainable(method: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that the optimiser sees, with their names."""
    return [(name, parameter) for name, parameter in method.named_parameters() if parameter.requires_grad]
