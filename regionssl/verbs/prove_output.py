"""What ``regionssl prove`` writes: tables, the verdict, and one page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from regionssl.engine.checkpoint import write_text
from regionssl.evaluation.tasks import ProtocolFile
from regionssl.proof.carry_out import CarriedOut
from regionssl.proof.cases import draw_cases
from regionssl.proof.comparison import Comparison
from regionssl.proof.cost import pretraining_hours
from regionssl.proof.leakage import Leakage
from regionssl.proof.plan import Plan
from regionssl.proof.search import searched_setting
from regionssl.proof.statistics import Interval
from regionssl.proof.store import write_csv
from regionssl.proof.verdict import bound
from regionssl.report.learning_curve import Curve, CurvePoint
from regionssl.report.page import Picture
from regionssl.report.page import Table as PageTable
from regionssl.report.proof_page import ProofPage, proof_page
from regionssl.verbs.evaluate import say

_CASES = 3  # pictures each way


@dataclass(frozen=True)
class Proof:
    """A comparison with all that was found on the way.

    Attributes:
        notes: sentences on labels and fractions.
        rates, search: of the search of learning rates.
        data: where the labels are from.
    """

    plan: Plan
    protocol: ProtocolFile
    carried: CarriedOut
    comparison: Comparison
    leakage: Leakage
    notes: tuple[str, ...]
    rates: tuple[float, ...]
    search: float
    data: str

    @property
    def names(self) -> list[str]:
        return [start.name for start in self.plan.starts]


def write_proof(proof: Proof, out: Path, console: Console) -> None:
    """Write results.csv, differences.csv, classes.csv, cost.csv, verdict.txt and proof.html, and print the tables."""
    tables = [_scores_table(proof), _leads_table(proof)]
    if len(proof.comparison.classes) > 1:
        tables.append(_classes_table(proof))
    tables.append(_cost_table(proof))
    _write_results(proof, out / "results.csv")
    _write_leads(proof, out / "differences.csv")
    header = ["class", *proof.names]
    write_csv(out / "classes.csv", header, [[name, *row.values()] for name, row in proof.comparison.classes.items()])
    write_csv(out / "cost.csv", ["start", "pretraining_hours", "finetuning_hours"], _costs(proof))
    write_text(out / "verdict.txt", proof.comparison.verdict.sentence + "\n")
    page = _page(proof, tables)
    write_text(out / "proof.html", proof_page(page))
    for table in tables:
        _print(table, console)
    say(console, *page.warnings, "", proof.comparison.verdict.sentence, f"page: {out / 'proof.html'}")


def _write_results(proof: Proof, path: Path) -> None:
    """One row for each training."""
    metrics = list(next(iter(proof.carried.results.values())).metrics)
    rows = []
    for name in proof.names:
        for fraction, seed in sorted(proof.carried.blocks):
            result = proof.carried.results[name, (fraction, seed)]
            images = len(proof.plan.positions[fraction, seed])
            factor = proof.carried.choices[name].factor
            values = [result.metrics.get(metric) for metric in metrics]
            rows.append([name, fraction, images, proof.plan.seed + seed, factor, *values])
    write_csv(path, ["start", "fraction", "images", "seed", "rate_factor", *metrics], rows)


def _write_leads(proof: Proof, path: Path) -> None:
    rows = [
        [lead.run, lead.other, "all" if lead.fraction is None else lead.fraction, *_bounds(lead.interval)]
        for lead in proof.comparison.leads
    ]
    write_csv(path, ["run", "other", "fraction", "difference", "low", "high"], rows)


def _bounds(interval: Interval) -> list[float]:
    return [interval.mean, interval.low, interval.high]


def _costs(proof: Proof) -> list[list[str | float | None]]:
    return [
        [start.name, pretraining_hours(start), proof.carried.seconds[start.name] / 3600] for start in proof.plan.starts
    ]


def _shown(interval: Interval, sign: str = "") -> str:
    return f"{interval.mean:{sign}.1f} ({bound(interval.low)} to {bound(interval.high)})"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.4g} %"


def _scores_table(proof: Proof) -> PageTable:
    points = proof.comparison.points
    fractions = sorted({(point.fraction, point.images) for point in points})
    rows = [
        [name, *(_shown(next(p for p in points if (p.start, p.fraction) == (name, f)).interval) for f, _ in fractions)]
        for name in proof.names
    ]
    header = ["start", *(f"{_percent(fraction)}, {images:,} images" for fraction, images in fractions)]
    return PageTable(
        f"Scores: {proof.comparison.metric}", header, rows, "Mean over seeds (95 % interval over images and seeds)."
    )


def _leads_table(proof: Proof) -> PageTable:
    leads = proof.comparison.leads
    fractions = [lead.fraction for lead in leads if (lead.run, lead.other) == (leads[0].run, leads[0].other)]
    rows = []
    for run, other in proof.plan.pairs:
        own = {lead.fraction: lead.interval for lead in leads if (lead.run, lead.other) == (run, other)}
        rows.append([f"{run} over {other}", *(_shown(own[fraction], "+") for fraction in fractions)])
    header = ["lead", *("all" if fraction is None else _percent(fraction) for fraction in fractions)]
    note = (
        "Differences on the same images, labels and seeds, with 95 % intervals; one that leaves 0 out is more than "
        "chance. 'all' is the mean over the fractions, by which the verdict goes."
    )
    return PageTable(f"Leads: {proof.comparison.metric}", header, rows, note)


def _classes_table(proof: Proof) -> PageTable:
    rows = []
    for label, values in proof.comparison.classes.items():
        run = values[proof.comparison.run]
        others = [value for name, value in values.items() if name in proof.names[proof.plan.runs :]]
        best = max((value for value in others if not math.isnan(value)), default=math.nan)
        cells = ["-" if math.isnan(value) else f"{value:.1f}" for value in values.values()]
        rows.append([label, *cells, "-" if math.isnan(run - best) else f"{run - best:+.1f}"])
    header = ["class", *proof.names, f"{proof.comparison.run} over the best it is held against"]
    note = f"At {_percent(max(fraction for fraction, _ in proof.carried.blocks))} of the labels, mean over seeds."
    return PageTable("Classes", header, rows, note)


def _cost_table(proof: Proof) -> PageTable:
    rows = []
    for name, before, tuning in _costs(proof):
        factor = proof.carried.choices[str(name)].factor
        known = "not known" if before is None else f"{before:.2f}"
        rows.append(
            [str(name), known, f"{tuning:.2f}", f"{factor:g}" if searched_setting(proof.plan.evaluator) else "-"]
        )
    note = (
        "Hours of one machine. Pre-training: the steps in the run's log. Fine-tuning: the search and all trainings of "
        "this comparison. The factor is what the search chose to multiply the protocol's learning rate with."
    )
    return PageTable("Cost", ["start", "pre-training, h", "fine-tuning, h", "learning rate factor"], rows, note)


def _print(table: PageTable, console: Console) -> None:
    printed = Table(title=table.caption)
    for number, heading in enumerate(table.header):
        printed.add_column(heading, justify="right" if number else "left", overflow="fold")
    for row in table.rows:
        printed.add_row(*row)
    console.print(printed)


def _page(proof: Proof, tables: list[PageTable]) -> ProofPage:
    comparison = proof.comparison
    curves = [
        Curve(
            name,
            [CurvePoint(p.images, p.fraction, *_bounds(p.interval)) for p in comparison.points if p.start == name],
        )
        for name in proof.names
    ]
    title = f"Did pre-training help? {proof.protocol.evaluator.task} on {Path(proof.data).name}"
    return ProofPage(
        title,
        comparison.verdict.sentence,
        _facts(proof),
        _warnings(proof),
        comparison.metric,
        curves,
        tables,
        _cases(proof),
    )


def _warnings(proof: Proof) -> list[str]:
    lines = [*proof.notes, *proof.leakage.remarks[1:], *proof.carried.remarks]
    alone = sorted({point.fraction for point in proof.comparison.points if len(point.values) == 1})
    if alone:
        where = ", ".join(_percent(fraction) for fraction in alone)
        lines.append(
            f"one seed: the intervals cover images alone, not the spread of trainings (at {where} of the labels)"
        )
    return lines


def _facts(proof: Proof) -> list[tuple[str, str]]:
    plan = proof.plan
    setting = searched_setting(plan.evaluator)
    searched = (
        f"{', '.join(f'{rate:g}' for rate in proof.rates)} times the protocol's, each for {proof.search:.0%} of the "
        "iterations with one seed, scored on a fifth of the training labels; the same for every start"
        if setting and len(proof.rates) > 1
        else "nothing was searched"
    )
    return [
        ("task", f"{plan.evaluator.task}, protocol {proof.protocol.name}: {proof.protocol.about.summary}"),
        ("labels", f"{proof.data}: {len(plan.data.train):,} images to train on, {len(plan.data.val):,} to score on"),
        ("starts", "; ".join(f"{start.name} ({start.source}, {start.config.name})" for start in plan.starts)),
        ("equal for all", "images, order, augmentation, seeds, iterations; no early stopping"),
        ("learning rate", searched),
        ("fractions", "nested and stratified, drawn anew for each seed"),
        ("intervals", f"{plan.draws:,} draws of images and seeds, paired"),
        ("near-copies", proof.leakage.remarks[0]),
        ("verdict", f"rule {proof.comparison.verdict.rule} of docs/prove.md"),
    ]


def _cases(proof: Proof) -> list[tuple[str, list[Picture]]]:
    """Pictures of the best run against the best start it is held against, at the largest fraction, first seed."""
    comparison, plan, results = proof.comparison, proof.plan, proof.carried.results
    block = proof.carried.blocks[0]
    other = max(proof.names[plan.runs :], key=lambda name: results[name, block].value)
    names = (comparison.run, other)
    cases = draw_cases(plan.data.val, names, (results[names[0], block], results[names[1], block]), _CASES)

    def pictures(first_leads: bool) -> list[Picture]:
        return [
            Picture(case.picture, f"{case.name}: {names[0]} {case.scores[0]:.1f}, {names[1]} {case.scores[1]:.1f}")
            for case in cases
            if (case.scores[0] > case.scores[1]) == first_leads
        ]

    return [
        (f"What {names[0]} gets and {names[1]} misses", pictures(True)),
        (f"What {names[1]} gets and {names[0]} misses", pictures(False)),
    ]
