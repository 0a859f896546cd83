"""What the pages of the package share: one HTML file that needs nothing else, its style, tables, pictures, terms."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from regionssl.report.strips import Strip, Tile

_STYLE = Path(__file__).with_name("page.css")
_QUALITY = 82
_NAMED = re.compile(r'<h2 id="([^"]+)">(.*?)</h2>')
_FEW = 3  # tiles that share a narrow screen in twos


@dataclass(frozen=True)
class Table:
    """A table: caption, column names, rows of text (the first column names the row), and what is said below it."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture and what is said of it."""

    image: Image.Image
    caption: str


def html_page(title: str, sections: Sequence[str], script: str = "") -> str:
    """A whole page; empty sections are left out.

    Args:
        title: plain text.
        sections: HTML.
        script: JavaScript that runs at the end of the page.
    """
    body = "\n".join(section for section in sections if section)
    ending = f"<script>\n{script}</script>\n" if script else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE.read_text()}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{escape(title)}</h1>\n{body}\n</main>\n{ending}</body>\n</html>\n"
    )


def section(heading: str, *parts: str, name: str = "") -> str:
    """Parts of HTML under a heading of plain text; nothing if all are empty.

    Args:
        name: anchor of the heading.
    """
    body = "".join(part for part in parts if part)
    anchor = f' id="{name}"' if name else ""
    return f"<section><h2{anchor}>{escape(heading)}</h2>{body}</section>" if body else ""


def contents(sections: Sequence[str]) -> str:
    """Links to the sections that have names."""
    found = [match for part in sections for match in _NAMED.findall(part)]
    links = "".join(f'<li><a href="#{name}">{heading}</a></li>' for name, heading in found)
    return f'<nav aria-label="contents"><ul>{links}</ul></nav>'


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text, of a class of the style."""
    return f"<p{_kind(kind)}>{escape(text)}</p>" if text else ""


def items(lines: Sequence[str], kind: str = "") -> str:
    """A list of plain texts."""
    rows = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul{_kind(kind)}>{rows}</ul>" if rows else ""


def terms(facts: Sequence[tuple[str, str]]) -> str:
    """Names and values."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return f"<dl>{rows}</dl>" if rows else ""


def details(summary: str, *parts: str) -> str:
    """What opens on demand."""
    body = "".join(parts)
    return f"<details><summary>{escape(summary)}</summary>{body}</details>" if body else ""


def grid(table: Table, name: str) -> str:
    """A table that scrolls by itself when it is wide; the element called ``name`` labels it."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.header)
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="wide" role="region" tabindex="0" aria-labelledby="{name}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{paragraph(table.note)}"
    )


def figure(picture: Picture) -> str:
    """A picture with its caption."""
    caption = escape(picture.caption)
    return f"<figure>{_img(picture.image, caption)}<figcaption>{caption}</figcaption></figure>"


def strip(row: Strip) -> str:
    """Tiles beside each other, as many as the screen has room for."""
    tiles = "".join(_tile(tile) for tile in row.tiles)
    heading = f"<h3>{escape(row.title)}</h3>" if row.title else ""
    many = " many" if len(row.tiles) > _FEW else ""
    return f'{heading}<div class="tiles{many}">{tiles}</div>'


def data_uri(image: Image.Image, lossless: bool = False) -> str:
    """A picture as text that stands in the page."""
    file = io.BytesIO()
    if lossless:
        image.convert("RGB").save(file, "PNG", optimize=True)
    else:
        image.convert("RGB").save(file, "JPEG", quality=_QUALITY)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _tile(tile: Tile) -> str:
    alt, caption = escape(tile.alt or tile.caption), escape(tile.caption)
    kind = ' class="cells"' if tile.cells else ""
    return f"<figure{kind}>{_img(tile.image, alt, lossless=tile.cells)}<figcaption>{caption}</figcaption></figure>"


def _img(image: Image.Image, alt: str, lossless: bool = False) -> str:
    return (
        f'<img src="{data_uri(image, lossless)}" width="{image.width}" height="{image.height}" alt="{alt}" '
        'loading="lazy">'
    )


def _kind(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
