"""The page of one run or several: how they went, what they see, what they have learned, and their settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from regionssl.report.affinity import Affinity, PointViews, affinity_strips
from regionssl.report.affinity_picker import affinity_picker, picker_script
from regionssl.report.learning_curve import legend
from regionssl.report.page import Table, contents, details, grid, html_page, items, paragraph, section, strip, terms
from regionssl.report.step_plot import Plot, step_plot
from regionssl.report.strips import Strip


@dataclass(frozen=True)
class RunPart:
    """What the page says of one run.

    Attributes:
        level, health: of its lamp, and the sentence.
        turns: sentences on the changes of the lamp.
        state: how far it is.
        missing: sentences on what cannot be shown.
        facts: names and values. choices: the automatic ones.
        settings: the resolved recipe.
        seen: what the method sees and holds together; headings and strips.
    """

    name: str
    level: str
    health: str
    turns: Sequence[str]
    state: str
    missing: Sequence[str]
    facts: Sequence[tuple[str, str]]
    choices: Table | None
    settings: str
    seen: Sequence[tuple[str, Sequence[Strip]]] = ()


@dataclass(frozen=True)
class LearnedPart:
    """What networks tell apart in the same images.

    Attributes:
        note: which states of which runs these are.
        features, nearest, clusters: strips.
        images, affinities: of the point affinities, by network.
    """

    note: str
    features: Sequence[Strip]
    nearest: Sequence[Strip]
    clusters: Sequence[Strip]
    images: Sequence[PointViews]
    affinities: Mapping[str, Sequence[Affinity]]


@dataclass(frozen=True)
class RunPage:
    """What the page shows.

    Attributes:
        plots: those of the loss and of the pace. gauges: those of the health.
        learned: None if no images or weights could be read.
    """

    title: str
    runs: Sequence[RunPart]
    plots: Sequence[Plot]
    gauges: Sequence[Plot] = field(default=())
    learned: LearnedPart | None = None
    again: str = ""


def run_page(page: RunPage) -> str:
    """The page as HTML."""
    sections = [
        section("Health", *(_health(run, len(page.runs) > 1) for run in page.runs), name="health"),
        section("Curves", _curves(page), name="curves"),
        *_seen(page.runs),
        *_learned(page.learned),
        *(_settings(run, number, len(page.runs) > 1) for number, run in enumerate(page.runs)),
        section("This page", paragraph(page.again), name="page"),
    ]
    return html_page(
        page.title, [contents(sections), *sections], picker_script() if page.learned and page.learned.images else ""
    )


def _named(run: RunPart, many: bool) -> str:
    return f"<h3>{escape(run.name)}</h3>" if many else ""


def _health(run: RunPart, many: bool) -> str:
    changes = items(run.turns) if len(run.turns) > 1 else ""
    return (
        f'{_named(run, many)}<p class="verdict lamp {run.level}"><strong>{escape(run.level)}</strong> '
        f"{escape(run.health)}</p>{paragraph(run.state)}"
        f"{details('Every change of the lamp', changes) if changes else ''}"
        f"{'<h3>Not on this page</h3>' + items(run.missing) if run.missing else ''}"
    )


def _curves(page: RunPage) -> str:
    names = legend([run.name for run in page.runs]) if len(page.runs) > 1 else ""
    plots = "".join(step_plot(plot) for plot in page.plots)
    gauges = "".join(step_plot(plot) for plot in page.gauges)
    if not plots:
        return ""
    note = "A grey band is where the losses of healthy runs of this method lie; upright lines are changes of the lamp."
    return f'{names}{paragraph(note)}<div class="plots">{plots}</div>' + (
        details("Measures of the health", f'<div class="plots">{gauges}</div>') if gauges else ""
    )


def _seen(runs: Sequence[RunPart]) -> list[str]:
    """A section for each heading, with the strips of each run."""
    headings = list(dict.fromkeys(heading for run in runs for heading, _ in run.seen))
    sections: list[str] = []
    for heading in headings:
        parts = []
        for run in runs:
            strips = "".join(strip(row) for name, rows in run.seen if name == heading for row in rows)
            parts.append(_named(run, len(runs) > 1) + strips if strips else "")
        sections.append(section(heading, *parts, name=f"seen{len(sections)}"))
    return sections


def _learned(learned: LearnedPart | None) -> list[str]:
    if learned is None:
        return []
    fallback = "".join(strip(row) for row in affinity_strips(learned.images, learned.affinities))
    picker = affinity_picker(learned.images, learned.affinities, fallback) if learned.images else ""
    colours = (
        "The three main directions of the features as red, green and blue; those of different states are not the same. "
        "Good features have one colour on an object and another one beside it."
    )
    affinity = (
        "Pick a point in either view, with the pointer or the arrow keys: bright is alike, dark is not, by the cosine "
        "of features once their mean is taken away. The ring is the same place in the other view; good features are "
        "brightest there."
    )
    nearest = (
        "A region, and the most alike region of each of the nearest other images, with the cosine of their features."
    )
    clusters = (
        "Features of all these images in clusters by k-means: the same colour is the same cluster within a network."
    )
    return [
        section(
            "Features over training",
            paragraph(learned.note),
            paragraph(colours),
            _strips(learned.features),
            name="features",
        ),
        section("What matches a point", paragraph(affinity), picker, name="points"),
        section("Nearest regions", paragraph(nearest), _strips(learned.nearest), name="nearest"),
        section("Segments without labels", paragraph(clusters), _strips(learned.clusters), name="segments"),
    ]


def _strips(strips: Sequence[Strip]) -> str:
    return "".join(strip(row) for row in strips)


def _settings(run: RunPart, number: int, many: bool) -> str:
    heading = f"Settings of {run.name}" if many else "Settings"
    name = f"choices{number}"
    choices = (
        f'<h3 id="{name}">{escape(run.choices.caption)}</h3>{grid(run.choices, name)}'
        if run.choices and run.choices.rows
        else ""
    )
    text = f'<pre role="region" aria-label="recipe" tabindex="0">{escape(run.settings)}</pre>' if run.settings else ""
    recipe = details("The resolved recipe", text)
    return section(heading, terms(run.facts), choices, recipe, name=f"settings{number}")
