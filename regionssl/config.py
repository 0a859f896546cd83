"""From a recipe file and overrides to typed, frozen configs, with errors in the user's words.

Every configurable class has a frozen :class:`Config` beside it; this module only reads, merges, checks and writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from regionssl.errors import InputError, nearest


class Config(BaseModel):
    """Base of all configs: frozen, typed, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


C = TypeVar("C", bound=Config)

_LARGEST = 100_000
_SHOWN = 200
# What PyYAML raises beside its own errors: for dates, numbers and tags that it cannot build, and for deep nesting.
_NOT_YAML = (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: the file is missing, is not YAML, or does not hold a mapping.
    """
    try:
        content = load_yaml(path.read_text())
    except OSError as error:
        raise InputError(f"cannot read the recipe {path}: {error.strerror}") from error
    except _NOT_YAML as error:
        raise InputError(f"{path} is not a YAML file: {' '.join(str(error).split())[:_SHOWN]}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{path} must hold a mapping of names to values, found {type(content).__name__}")
    return content


def load_yaml(text: str) -> Any:
    """The plain values of a YAML document; aliases may not make more of it than 100,000 values.

    Raises:
        yaml.YAMLError: it is not YAML, asks for objects, or is larger.
        ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError: as PyYAML does.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if _written_out(node, {}) > _LARGEST:
            raise yaml.YAMLError(f"its aliases make more than {_LARGEST:,} values of it")
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _written_out(node: yaml.Node | None, known: dict[int, int]) -> int:
    """How many values a node stands for, its aliases written out; one that holds itself stands for too many."""
    if node is None or id(node) in known:
        return known.get(id(node), 0)
    known[id(node)] = _LARGEST + 1
    parts: list[Any] = list(node.value) if isinstance(node, yaml.CollectionNode) else []
    inner = [one for part in parts for one in (part if isinstance(part, tuple) else (part,))]
    known[id(node)] = 1 + sum(_written_out(one, known) for one in inner)
    return known[id(node)]


def parse_overrides(assignments: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Pairs of dotted key and YAML value from ``key.sub=value`` strings.

    Raises:
        InputError: an assignment without ``=`` or with a value that is not YAML.
    """
    for assignment in assignments:
        key, sign, value = assignment.partition("=")
        if not sign or not key.strip():
            raise InputError(f"--set expects key.sub=value, got {assignment!r}")
        try:
            yield key.strip(), load_yaml(value)
        except _NOT_YAML as error:
            raise InputError(f"--set {key}: {value!r} is not a YAML value") from error


def override(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set ``tree[a][b][c]`` for the dotted key ``a.b.c`` in place; an integer part indexes a list.

    Raises:
        InputError: the key goes through something that is not a mapping or list.
    """
    node: Any = tree
    *parents, last = key.split(".")
    for part in parents:
        node = node.setdefault(part, {}) if isinstance(node, dict) else _item(node, part, key)
    if isinstance(node, dict):
        node[last] = value
    else:
        _item(node, last, key)
        node[int(last)] = value


def _item(node: Any, part: str, key: str) -> Any:
    if not isinstance(node, list):
        raise InputError(f"--set {key}: there is nothing below {type(node).__name__} at {part!r}")
    if not part.isdigit() or int(part) >= len(node):
        raise InputError(f"--set {key}: {part!r} is not one of the {len(node)} items, 0 to {len(node) - 1}")
    return node[int(part)]


def parse(kind: type[C], tree: Mapping[str, Any], where: str) -> C:
    """A typed config from plain values.

    Args:
        where: what the values came from, for messages.

    Raises:
        InputError: an unknown key (with the nearest known names) or a value of the wrong kind or range.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"{where}: " + "; ".join(_explain(kind, item) for item in error.errors())) from error


def _explain(kind: type[Config], item: Mapping[str, Any]) -> str:
    place = [str(part) for part in item["loc"]]
    if item["type"] == "extra_forbidden":
        return f"unknown key {'.'.join(place)!r}{nearest(place[-1], _fields(kind, place[:-1]))}"
    if item["type"] == "missing":
        return f"{'.'.join(place)!r} is missing"
    problem = str(item["msg"]).removeprefix("Value error, ")
    return f"{'.'.join(place) or 'values'}: {problem} (got {_shown(item['input'])})"


def _shown(value: Any) -> str:
    """A value as Python writes it, cut short; numbers of thousands of digits have no such form."""
    try:
        text = repr(value)
    except ValueError:
        return f"{type(value).__name__} of many digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."


def _fields(kind: Any, place: list[str]) -> list[str]:
    """Names of the fields of the config found by walking down ``place`` from ``kind``."""
    for part in place:
        if isinstance(kind, type) and issubclass(kind, Config) and part in kind.model_fields:
            kind = kind.model_fields[part].annotation
        for argument in getattr(kind, "__args__", ()):
            if isinstance(argument, type) and issubclass(argument, Config):
                kind = argument
                break
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, Config) else []


def to_plain(config: Config) -> dict[str, Any]:
    """The config as plain YAML/JSON values (tuples become lists)."""
    return config.model_dump(mode="json")


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines ``key: old -> new`` for every leaf in which two plain trees differ."""
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key, "(absent)"), new.get(key, "(absent)")
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before} -> {after}")
    return lines
