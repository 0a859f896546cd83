"""One annotation file of VOC."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers.expat import ExpatError, ParserCreate

from regionssl.errors import InputError


@dataclass(frozen=True)
class VocObject:
    """One object; the box is left, top, width and height in pixel edges."""

    name: str
    box: list[float]
    difficult: bool

    @property
    def area(self) -> float:
        return self.box[2] * self.box[3]


@dataclass(frozen=True)
class Annotation:
    """Width and height that the file gives (None where it does not), and the objects."""

    size: tuple[int, int] | None
    objects: tuple[VocObject, ...]


def read_annotation(file: Path) -> Annotation:
    """Read an annotation. A document type is refused, and with it everything that could expand.

    Raises:
        InputError: the file is missing or is not such an annotation.
    """
    try:
        root = _parse(file.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    except (ExpatError, ValueError, LookupError, AssertionError) as error:
        raise InputError(f"{file} is not an annotation in XML: {error}") from error
    if root.tag != "annotation":
        raise InputError(f"{file} should hold an <annotation>, found <{root.tag}>")
    return Annotation(_size(root), tuple(_object(file, one) for one in root.findall("object")))


def _parse(content: bytes) -> Element:
    builder = TreeBuilder()
    parser = ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(content, True)
    return builder.close()


def _refuse(*_: object) -> NoReturn:
    raise ValueError("it has a document type (<!DOCTYPE>), which annotations do not need; take it out")


def _size(root: Element) -> tuple[int, int] | None:
    try:
        width, height = (int(root.findtext(f"size/{side}", "")) for side in ("width", "height"))
    except ValueError:
        return None
    return (width, height) if width > 0 and height > 0 else None


def _object(file: Path, one: Element) -> VocObject:
    name = one.findtext("name", "").strip()
    try:
        left, top, right, bottom = (float(one.findtext(f"bndbox/{c}", "")) for c in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError as error:
        raise InputError(f"{file}: the <bndbox> of {name or 'an object'} needs four numbers: {error}") from error
    if not name:
        raise InputError(f"{file}: an <object> has no <name>")
    box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
    return VocObject(name, box, one.findtext("difficult", "0").strip() == "1")
