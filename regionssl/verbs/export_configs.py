"""Configs of other libraries beside an export: the papers' protocols with the settings of ``regionssl evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from regionssl.config import read_yaml
from regionssl.errors import InputError, nearest
from regionssl.evaluation.tasks import PROTOCOLS as FILES
from regionssl.evaluation.tasks import load_protocol
from regionssl.export import detectron2_config, mmdetection_config
from regionssl.export.published import PROTOCOLS, Published
from regionssl.export.resnets import RESNETS

Writer = Callable[[Published, str, Mapping[str, Any]], str]

# Target -> what writes a config, its ending, and the tasks that it knows.
_WRITERS: dict[str, tuple[Writer, str, tuple[str, ...]]] = {
    "detectron2": (detectron2_config.config_text, ".yaml", ("detection", "instance_segmentation", "keypoints")),
    "mmdetection": (mmdetection_config.config_text, ".py", ("detection", "instance_segmentation")),
}
ALL = "all"


def config_names(to: str) -> list[str]:
    """Protocols that there is a config of for a target."""
    return [name for name in PROTOCOLS if to in _WRITERS and published(name).task in _WRITERS[to][2]]


def published(name: str) -> Published:
    """A protocol with its settings."""
    task = read_yaml(FILES / f"{name}.yaml")["task"]
    protocol = load_protocol(task, name)
    return Published(name, protocol.about.source, task, protocol.settings)


def check_configs(to: str, names: Sequence[str]) -> list[Published]:
    """The protocols that were asked for, by name or as "all".

    Raises:
        InputError: the target takes no configs, or has none of a name.
    """
    if not names:
        return []
    if to not in _WRITERS:
        raise InputError(f"--config goes with {', '.join(_WRITERS)}, and this is --to {to}; leave it out")
    known = config_names(to)
    unknown = [name for name in names if name not in (*known, ALL)]
    if unknown:
        raise InputError(f"--config {unknown[0]}: there is no such config for {to}{nearest(unknown[0], [*known, ALL])}")
    return [published(name) for name in (known if ALL in names else dict.fromkeys(names))]


def write_configs(to: str, protocols: Sequence[Published], out: Path, card: Mapping[str, Any]) -> dict[Path, str]:
    """The configs as texts by the paths that they go to, and the module that some of them need.

    Args:
        out: the exported file.
        card: its JSON.

    Raises:
        InputError: the backbone does not fit a protocol, or a file that was changed since is in the way.
    """
    texts: dict[Path, str] = {}
    for protocol in protocols:
        writer, ending, _ = _WRITERS[to]
        library = detectron2_config if to == "detectron2" else mmdetection_config
        if protocol.c4 and not bottlenecks(card, to):
            raise InputError(
                f"--config {protocol.name}: a C4 head is a stage of {to}'s bottleneck ResNets, and this is a "
                f"{card['architecture']}; name protocols with a pyramid"
            )
        texts[out.with_name(f"{out.stem}.{protocol.name}{ending}")] = writer(protocol, out.name, card)
        if library.needs_parts(protocol):
            texts[out.with_name(library.PARTS)] = library.PARTS_TEXT
    changed = [path for path, text in texts.items() if path.exists() and path.read_text() != text]
    if changed:
        raise InputError(f"{changed[0]} exists and says something else; move it away, or choose another --out")
    return texts


def bottlenecks(card: Mapping[str, Any], to: str) -> bool:
    """Whether a target's C4 head can be the last stage of this backbone; mmdetection's knows no groups."""
    shape = RESNETS[card["architecture"].partition(" ")[0]]
    return shape.bottleneck and (shape.plain or to == "detectron2")
