"""The page of a comparison: one HTML file that needs nothing else, readable on a phone, in the dark and by keyboard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from regionssl.report.learning_curve import Curve, learning_curves, legend
from regionssl.report.page import Picture, Table, figure, grid, html_page, items, section, terms


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
    sections = [
        f'<p class="verdict"><strong>{escape(page.verdict)}</strong></p>',
        section("What limits this", items(page.warnings)),
        section("Learning curve", _curves(page), name="curve"),
        *(
            section(table.caption, grid(table, f"table{number}"), name=f"table{number}")
            for number, table in enumerate(page.tables)
        ),
        *(section(heading, _cases(pictures)) for heading, pictures in page.cases),
        section("How it was found", terms(page.facts)),
    ]
    return html_page(page.title, sections)


def _curves(page: ProofPage) -> str:
    return (
        f"<figure>{learning_curves(page.curves, page.metric)}<figcaption>"
        f"{legend([curve.name for curve in page.curves])}Means over seeds with 95 % intervals over images and seeds. "
        "Point at a marker, or step through them with the Tab key, to read its numbers.</figcaption></figure>"
    )


def _cases(pictures: Sequence[Picture]) -> str:
    shown = "".join(figure(picture) for picture in pictures)
    return f'<div class="cases">{shown}</div>' if shown else ""
