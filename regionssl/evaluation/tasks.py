"""The tasks by name, and their protocols: a YAML file each, from which an evaluator is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, cast

import numpy as np

from regionssl.config import Config, differences, override, parse, parse_overrides, read_yaml, to_plain
from regionssl.data.images import find_images, scan
from regionssl.errors import InputError, UnknownLayout, nearest
from regionssl.evaluation.classification.finetune import FineTuneTask
from regionssl.evaluation.classification.knn import KnnTask
from regionssl.evaluation.classification.linear import LinearTask
from regionssl.evaluation.classification.svm import SvmTask
from regionssl.evaluation.correspondence import CorrespondenceTask
from regionssl.evaluation.densepose.dense_pose import DensePoseTask
from regionssl.evaluation.detection.detection import DetectionTask, InstanceTask
from regionssl.evaluation.keypoints import KeypointTask
from regionssl.evaluation.outcome import Outcome
from regionssl.evaluation.segmentation.pixel_probe import PixelProbeTask
from regionssl.evaluation.segmentation.task import SegmentationTask
from regionssl.evaluation.start import Start
from regionssl.evaluation.unsupervised_objects import ObjectsTask
from regionssl.labels.open import VAL_SHARE, open_labels
from regionssl.labels.sets import ClassSet, Split

Kind = Literal["objects", "maps", "classes", "images"]
PROTOCOLS = Path(__file__).parent / "protocols"


class Evaluator(Protocol):
    """A frozen config of one protocol that trains and scores: :class:`regionssl.config.Config` with this method."""

    task: ClassVar[str]
    model_fields: ClassVar[Any]

    def run(self, start: Start, data: Any, out: Path, seed: int = 0, device: str = "cpu") -> Outcome:
        """Train from ``start`` on ``data.train``, score on ``data.val``, write artefacts below ``out``."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self: ...


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        config: the evaluator's class.
        kinds: of labels that it takes, tried in this order; "images" are images without labels.
        protocol: the one that is taken where none is named; it fits small data and one CPU where there is such a one.
        together: whether several processes can train one network.
        trains: whether anything is made of the training labels.
    """

    config: type[Config]
    kinds: tuple[Kind, ...]
    protocol: str
    together: bool = False
    trains: bool = True


TASKS: dict[str, Task] = {
    "detection": Task(DetectionTask, ("objects",), "detection_small", together=True),
    "instance_segmentation": Task(InstanceTask, ("objects",), "instance_small", together=True),
    "keypoints": Task(KeypointTask, ("objects",), "keypoints_small", together=True),
    "dense_pose": Task(DensePoseTask, ("objects",), "densepose_small", together=True),
    "segmentation": Task(SegmentationTask, ("maps",), "segmentation_small", together=True),
    "pixel_probe": Task(PixelProbeTask, ("maps",), "pixel_probe"),
    "knn": Task(KnnTask, ("classes",), "knn"),
    "linear": Task(LinearTask, ("classes",), "linear_small"),
    "svm": Task(SvmTask, ("classes",), "voc07_svm"),
    "finetune": Task(FineTuneTask, ("classes",), "finetune_small"),
    "unsupervised_objects": Task(ObjectsTask, ("maps", "objects"), "cub_unsupervised", trains=False),
    "correspondence": Task(
        CorrespondenceTask, ("objects", "maps", "classes", "images"), "correspondence", trains=False
    ),
}


class AboutProtocol(Config):
    """Where a protocol comes from: one line, the source of its settings, and the data that it was made for."""

    summary: str
    source: str
    data: str


@dataclass(frozen=True)
class ProtocolFile:
    """A protocol as read.

    Attributes:
        name: that of the file.
        about: what it says of itself.
        evaluator: of its settings.
        changes: lines ``key: the protocol's value -> the one here``. A file that is called like a protocol that comes
            with the package is compared with that one.
    """

    name: str
    about: AboutProtocol
    task: Task
    evaluator: Evaluator
    changes: tuple[str, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """The evaluator's settings as plain values."""
        return to_plain(cast(Config, self.evaluator))


def find_task(name: str) -> Task:
    """The task of this name.

    Raises:
        InputError: there is none; the nearest are named.
    """
    if name not in TASKS:
        raise InputError(f"unknown task {name!r}{nearest(name, TASKS)}")
    return TASKS[name]


def protocol_names(task: str | None = None) -> list[str]:
    """Names of the protocols that come with the package, of one task or of all."""
    return [name for name, owner in _owners().items() if task in (None, owner)]


def protocols() -> list[ProtocolFile]:
    """The protocols that come with the package, by task."""
    owners, order = _owners(), list(TASKS)
    return [load_protocol(owners[name], name) for name in sorted(owners, key=lambda name: order.index(owners[name]))]


def _owners() -> dict[str, str]:
    """The task of each protocol that comes with the package."""
    return {path.stem: str(read_yaml(path).get("task")) for path in sorted(PROTOCOLS.glob("*.yaml"))}


def load_protocol(task: str, protocol: str | None = None, assignments: Sequence[str] = ()) -> ProtocolFile:
    """The evaluator of a task.

    Args:
        task: its name.
        protocol: name of one that comes with the package, or a file; None takes the task's own.
        assignments: ``key.sub=value`` strings, put over it.

    Raises:
        InputError: an unknown task, protocol or key, a protocol of another task, or a value that does not fit.
    """
    kind = find_task(task)
    path = _find(protocol or kind.protocol, task)
    about, tree = _read(path, task)
    namesake = path.parent != PROTOCOLS and path.stem in protocol_names(task)
    published = _read(PROTOCOLS / f"{path.stem}.yaml", task)[1] if namesake else tree
    before = _plain(kind, published)
    for key, value in parse_overrides(assignments):
        override(tree, key, value)
    settings = parse(kind.config, tree, f"protocol {path.name}")
    changes = () if before is None else tuple(differences(before, _deciding(to_plain(settings))))
    return ProtocolFile(path.stem, about, kind, cast(Evaluator, settings), changes)


def _plain(kind: Task, tree: dict[str, Any]) -> dict[str, Any] | None:
    """Settings that decide numbers; None if they are not valid as they stand."""
    try:
        return _deciding(to_plain(parse(kind.config, tree, "protocol")))
    except InputError:
        return None


def _deciding(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in ("pictures", "workers", "jobs")}


def _read(path: Path, task: str) -> tuple[AboutProtocol, dict[str, Any]]:
    """What a protocol says of itself, and its settings as they stand there.

    Raises:
        InputError: it cannot be read, or is one of another task.
    """
    tree = read_yaml(path)
    named = tree.pop("task", None)
    if named != task:
        raise InputError(
            f"{path.name} is a protocol of the task {named}, and --task says {task}; known for {task}: "
            f"{', '.join(protocol_names(task)) or 'none'}"
        )
    return parse(AboutProtocol, tree.pop("about", {}), f"about in {path.name}"), tree


def _find(protocol: str, task: str) -> Path:
    path = PROTOCOLS / f"{protocol}.yaml"
    if path.is_file():
        return path
    if Path(protocol).suffix in (".yaml", ".yml") or Path(protocol).is_file():
        return Path(protocol)
    raise InputError(f"no protocol or file called {protocol!r}{nearest(protocol, protocol_names(task))}")


def open_data(task: Task, path: Path) -> Split[Any]:
    """The labels of a task, of the first of its kinds that ``path`` holds.

    A task that trains nothing scores all images where there is no validation split.

    Raises:
        InputError: it holds none of them, or labels that cannot be used; only these are spoken of where there are some.
    """
    unusable, unknown = dict[str, Kind](), dict[str, Kind]()
    for kind in task.kinds:
        try:
            return _images(path) if kind == "images" else open_labels(path, kind, VAL_SHARE if task.trains else None)
        except UnknownLayout as error:
            unknown.setdefault(str(error), kind)
        except InputError as error:
            unusable.setdefault(str(error), kind)
    problems = unusable or unknown
    raise InputError("\n".join(f"as {kind}: {said}" if len(problems) > 1 else said for said, kind in problems.items()))


def _images(path: Path) -> Split[ClassSet]:
    """Images without labels, all of them to be scored."""
    images, _ = scan(find_images(path))
    labelled = ClassSet(images, np.ones((len(images), 1), np.int8), ("image",))
    return Split(labelled, labelled)


def with_settings(evaluator: Evaluator, changes: Mapping[str, Any]) -> Evaluator:
    """The evaluator with some settings changed, checked as when it is read."""
    config = cast(Config, evaluator)
    return cast(Evaluator, parse(type(config), to_plain(config) | dict(changes), f"settings of {evaluator.task}"))
