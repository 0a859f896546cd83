"""The page of a comparison: one HTML file that needs nothing else, readable on a phone, in the dark and by keyboard."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

from regionssl.report.learning_curve import Curve, learning_curves, swatch


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


@dataclass(frozen=True)
class ProofPage:
    """What the page shows.

    Attributes:
        verdict: the sentence.
        facts: names and values on how it was found.
        warnings: sentences that limit it.
        metric: of the curves.
        cases: headings, and the pictures below each.
    """

    title: str
    verdict: str
    facts: Sequence[tuple[str, str]]
    warnings: Sequence[str]
    metric: str
    curves: Sequence[Curve]
    tables: Sequence[Table]
    cases: Sequence[tuple[str, Sequence[Picture]]]


def proof_page(page: ProofPage) -> str:
    """The page as HTML."""
    legend = "".join(f"<li>{swatch(i)} {escape(curve.name)}</li>" for i, curve in enumerate(page.curves))
    sections = [
        f'<p class="verdict"><strong>{escape(page.verdict)}</strong></p>',
        _warnings(page.warnings),
        f'<section><h2 id="curve">Learning curve</h2><figure>{learning_curves(page.curves, page.metric)}'
        f'<figcaption><ul class="legend">{legend}</ul>Means over seeds with 95 % intervals over images and seeds. '
        "Point at a marker, or step through them with the Tab key, to read its numbers.</figcaption></figure>"
        "</section>",
        *(_table(table, number) for number, table in enumerate(page.tables)),
        *(_cases(heading, pictures) for heading, pictures in page.cases if pictures),
        _facts(page.facts),
    ]
    title = escape(page.title)
    body = "\n".join(part for part in sections if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n'
        f"<body>\n<main>\n<h1>{title}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _warnings(warnings: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f"<section><h2>What limits this</h2><ul>{items}</ul></section>" if items else ""


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return f"<section><h2>How it was found</h2><dl>{rows}</dl></section>"


def _table(table: Table, number: int) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.header)
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in table.rows
    )
    name = f"table{number}"
    note = f"<p>{escape(table.note)}</p>" if table.note else ""
    return (
        f'<section><h2 id="{name}">{escape(table.caption)}</h2>'
        f'<div class="wide" role="region" tabindex="0" aria-labelledby="{name}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{note}</section>"
    )


def _cases(heading: str, pictures: Sequence[Picture]) -> str:
    figures = "".join(
        f'<figure><img src="{_uri(picture.image)}" width="{picture.image.width}" height="{picture.image.height}" '
        f'alt="{escape(picture.caption)}" loading="lazy"><figcaption>{escape(picture.caption)}</figcaption></figure>'
        for picture in pictures
    )
    return f'<section><h2>{escape(heading)}</h2><div class="cases">{figures}</div></section>'


def _uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


_STYLE = """
:root { --paper: #fff; --ink: #1d1d1f; --muted: #5b5b60; --line: #d9d9de; --panel: #f4f5f7;
  --c0: #0072b2; --c1: #b34a00; --c2: #00795a; --c3: #9c3f78; --c4: #1d6f93; --c5: #7a5800; }
@media (prefers-color-scheme: dark) { :root { --paper: #16171a; --ink: #ececf0; --muted: #a9aab2; --line: #3a3b42;
  --panel: #202228; --c0: #56b4e9; --c1: #f0883e; --c2: #35c79b; --c3: #e59ac4; --c4: #8fd3f4; --c5: #e6c229; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.verdict { padding: 1rem; background: var(--panel); border-left: 5px solid var(--c0); font-size: 1.1rem;
  overflow-wrap: anywhere; }
figure { margin: 0; } figcaption, section p { color: var(--muted); font-size: .9rem; overflow-wrap: anywhere; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; margin: .4rem 0;
  color: var(--ink); }
svg { width: 100%; height: auto; max-width: 40rem; display: block; }
svg.swatch { width: 36px; height: 14px; display: inline-block; vertical-align: middle; }
svg text { fill: var(--ink); font-size: 13px; } svg text.small { fill: var(--muted); font-size: 12px; }
.point .value { visibility: hidden; font-weight: 600; paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
.point:hover .value, .point:focus .value { visibility: visible; }
.point:focus { outline: none; } .point:focus :is(circle, rect, polygon) { stroke: var(--ink); stroke-width: 3; }
@media (max-width: 36rem) { svg text { font-size: 17px; } svg text.small { font-size: 15px; } }
.grid { stroke: var(--line); } .axis { stroke: var(--muted); }
polyline, .swatch line { fill: none; stroke: currentColor; stroke-width: 2; }
.point path { stroke: currentColor; stroke-width: 1.5; fill: none; }
.point circle, .point rect, .point polygon, .swatch circle, .swatch rect, .swatch polygon { fill: currentColor; }
circle.hollow { fill: var(--paper) !important; stroke: currentColor; stroke-width: 2; }
.s0 { color: var(--c0); } .s1 { color: var(--c1); } .s2 { color: var(--c2); }
.s3 { color: var(--c3); } .s4 { color: var(--c4); } .s5 { color: var(--c5); }
:focus-visible { outline: 3px solid var(--c1); outline-offset: 2px; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child { text-align: left; } thead th { color: var(--muted); font-weight: 600; }
.cases { display: grid; gap: 1rem; } .cases img { max-width: 100%; height: auto; border: 1px solid var(--line); }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .2rem 1rem; font-size: .92rem; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
"""
