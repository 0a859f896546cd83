"""``regionssl prove``: did pre-training help, and by how much?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from regionssl.config import differences
from regionssl.engine.checkpoint import write_json
from regionssl.engine.choices import choose_device
from regionssl.engine.log import duration
from regionssl.errors import InputError
from regionssl.evaluation.tasks import TASKS, ProtocolFile, load_protocol, open_data
from regionssl.proof.budget import parse_time
from regionssl.proof.carry_out import Effort, carry_out
from regionssl.proof.comparison import Comparison, compare
from regionssl.proof.leakage import without_leaks
from regionssl.proof.looking import look_for_leaks
from regionssl.proof.plan import Plan, Training, small_fractions
from regionssl.proof.search import RATES, SHARE, trials
from regionssl.proof.starts import maps_of, open_starts, try_out
from regionssl.proof.store import Result, Store
from regionssl.verbs.claim import LOCK, claimed
from regionssl.verbs.evaluate import described, say, versions
from regionssl.verbs.prove_output import Proof, write_proof

PLAN, CELLS, MADE_WITH = "plan.json", "cells", "made_with.json"
FRACTIONS = (0.01, 0.05, 0.1, 0.25, 1.0)


def prove(
    runs: Annotated[list[str], typer.Argument(help="run folders or files of weights, to be judged")],
    task: Annotated[str, typer.Option(help=", ".join(TASKS))],
    data: Annotated[Path, typer.Option(help="labels: COCO, VOC, class maps or class folders")],
    out: Annotated[Path, typer.Option(help="folder; a run of the same command goes on with what it holds")],
    against: Annotated[
        list[str] | None, typer.Option(help="random, imagenet, run folders or weights [default: random]")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="protocol, by file or name (see regionssl recipes) [default: the task's small one]"),
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="timm name, where the weights do not say it")] = None,
    set: Annotated[list[str] | None, typer.Option("--set", help="key=value, any setting of the protocol")] = None,
    fractions: Annotated[list[float] | None, typer.Option(help="of the labels [default: 0.01 0.05 0.1 0.25 1]")] = None,
    seeds: Annotated[int, typer.Option(help="trainings of each start at each fraction")] = 3,
    seed: Annotated[int, typer.Option(help="the first of them; also of splits and draws")] = 0,
    rates: Annotated[
        list[float] | None, typer.Option(help="factors of the protocol's learning rate to try [default: 0.3 1 3]")
    ] = None,
    search: Annotated[float, typer.Option(help="share of the iterations for each try")] = SHARE,
    draws: Annotated[int, typer.Option(help="draws of images and seeds for an interval")] = 1000,
    budget: Annotated[
        str | None, typer.Option(help="time, such as 2h; what does not fit is left out and named")
    ] = None,
    unlabelled: Annotated[
        Path | None, typer.Option(help="images of pre-training, to look for copies [default: those that the runs name]")
    ] = None,
    cells: Annotated[
        Path | None, typer.Option(help="folder of trainings that comparisons share [default: OUT/cells]")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    devices: Annotated[int, typer.Option(help="trainings side by side, one a GPU")] = 1,
) -> Comparison:
    """Compare starts on a task at several label fractions, and say in one sentence whether pre-training helped.

    Returns:
        Scores, intervals and verdict; also in OUT as results.csv, differences.csv, verdict.txt and proof.html.

    Raises:
        InputError: something given cannot be used, or a training failed; finished trainings stay.
    """
    out, console = Path(out), Console()
    place = choose_device(device)
    check_numbers(seeds, draws, devices, search, place)
    chosen = tuple(sorted({float(one) for one in fractions or FRACTIONS}))
    factors = tuple(sorted({float(one) for one in rates or RATES}))
    if chosen[0] <= 0 or chosen[-1] > 1:
        raise InputError(
            f"--fractions lie above 0 and are at most 1, got {chosen[0] if chosen[0] <= 0 else chosen[-1]:g}"
        )
    if factors[0] <= 0:
        raise InputError(f"--rates are factors above 0, got {factors[0]:g}")
    limit = None if budget is None else parse_time(budget)
    protocol = load_protocol(task, recipe, set or ())
    starts = open_starts(runs, against or ["random"], backbone)
    for start in starts:
        try_out(start, maps_of(protocol.settings))
    labels = open_data(protocol.task, Path(data))
    check_folder(out)
    notes = described(labels)
    if not protocol.task.trains and chosen != (1.0,):
        chosen = (1.0,)
        notes += [f"{task} trains nothing on labels, so there is one fraction, all of them"] if fractions else []
    say(console, *notes)
    with claimed(out):
        leakage, looked = look_for_leaks(out, labels, starts, unlabelled, str(place), lambda line: say(console, line))
        say(console, *leakage.remarks)
        plan = Plan(
            tuple(starts), len(runs), protocol.evaluator, without_leaks(labels, leakage), chosen, seeds, draws, seed
        )
        plan, merged = without_equal_fractions(plan)
        warnings = [*merged, *(small_fractions(plan) if protocol.task.trains else [])]
        say(console, *warnings)
        keep(
            out / PLAN,
            identity(plan, protocol, factors, search),
            "another comparison",
            f"run the same one, or choose another --out, with --cells {out / CELLS} to take over finished trainings",
        )
        store = Store(Path(cells or out / CELLS))
        keep(
            store.folder / MADE_WITH,
            {"device": place.type, "versions": versions()},
            "trainings of another device or other versions of libraries, which are no fair comparison",
            "run with the same ones, or choose another --out or --cells",
        )
        total = len(trials(plan, factors, search)) + len(plan.blocks) * len(starts)
        counter = _Counter(console, total, devices)
        effort = Effort(place.type, devices, factors, search, limit, looked)
        carried = carry_out(plan, store, effort, counter.report, lambda line: say(console, line))
        comparison = compare(plan, carried.results, carried.blocks)
        remarks = tuple(notes[1:] + warnings)
        proof = Proof(plan, protocol, carried, comparison, leakage, remarks, factors, search, str(data))
        write_proof(proof, out, console)
        return comparison


def check_numbers(seeds: int, draws: int, devices: int, search: float, place: torch.device) -> None:
    """See that numbers are in their ranges.

    Raises:
        InputError: one is not.
    """
    if seeds < 1 or devices < 1:
        raise InputError(f"--seeds and --devices count from 1, got {seeds} and {devices}")
    if draws < 100:
        raise InputError(f"--draws: an interval needs at least 100 draws, got {draws}")
    if not 0 < search <= 1:
        raise InputError(f"--search is a share of the iterations, above 0 and at most 1, got {search:g}")
    if place.type == "cuda" and devices > torch.cuda.device_count():
        raise InputError(f"--devices {devices}: this machine has {torch.cuda.device_count()} CUDA device(s)")


def check_folder(out: Path) -> None:
    """Make the folder of the results.

    Raises:
        InputError: it is a file, holds other things, or cannot be made.
    """
    others = out.is_dir() and any(path.name != LOCK for path in out.iterdir())
    if others and not (out / PLAN).exists() and not (out / "leakage.json").exists():
        raise InputError(f"--out {out} holds other files; give a new folder, or that of a comparison to go on with")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder --out {out}: {error.strerror}") from error


def without_equal_fractions(plan: Plan) -> tuple[Plan, list[str]]:
    """The plan without fractions that have as many images as a larger one, and sentences on these."""
    total = len(plan.data.train)
    counts = {fraction: max(1, round(fraction * total)) for fraction in plan.fractions}
    kept = {count: fraction for fraction, count in counts.items()}
    dropped = [fraction for fraction in plan.fractions if fraction not in kept.values()]
    lines = [
        f"{fraction:g} of {total} labelled images is {counts[fraction]}, like {kept[counts[fraction]]:g}: left out"
        for fraction in dropped
    ]
    fractions = tuple(kept.values())
    return Plan(plan.starts, plan.runs, plan.evaluator, plan.data, fractions, plan.seeds, plan.draws, plan.seed), lines


def identity(plan: Plan, protocol: ProtocolFile, rates: Sequence[float], search: float) -> dict[str, Any]:
    """All that decides the table."""
    return {
        "task": protocol.evaluator.task,
        "protocol": protocol.name,
        "settings": protocol.settings,
        "starts": plan.weights,
        "judged": [start.name for start in plan.starts[: plan.runs]],
        "data": plan.data_digests | {"images": f"{len(plan.data.train)} train, {len(plan.data.val)} val"},
        "fractions": list(plan.fractions),
        "seeds": plan.seeds,
        "seed": plan.seed,
        "draws": plan.draws,
        "rates": list(rates),
        "search": search,
    }


def keep(path: Path, now: dict[str, Any], what: str, advice: str) -> None:
    """Write facts of a folder, or see that they are those that were written.

    Args:
        what: the folder holds, if they are not.
        advice: what to do then.

    Raises:
        InputError: they are not; the differences are shown. Or what was written is damaged.
    """
    if path.is_file():
        try:
            changed = differences(json.loads(path.read_text()), json.loads(json.dumps(now)))
        except (ValueError, AttributeError, TypeError) as error:
            raise InputError(f"{path} is damaged ({error}); remove it, and run the same command again") from error
        if changed:
            raise InputError(f"{path.parent} holds {what}:\n  " + "\n  ".join(changed) + f"\n{advice}")
    write_json(path, now)


class _Counter:
    """Says which of how many trainings is done, and how long the others will take at most."""

    def __init__(self, console: Console, total: int, processes: int) -> None:
        self.console, self.total, self.processes = console, total, processes
        self.done, self.seconds = 0, list[float]()

    def report(self, training: Training, result: Result, found: bool) -> None:
        """Of one training."""
        self.done += 1
        self.seconds.append(result.seconds)
        left = (self.total - self.done) * sum(self.seconds) / len(self.seconds) / self.processes
        pace = "found done" if found else f"{duration(result.seconds)}, left {duration(left)}"
        say(
            self.console,
            f"[{self.done}/{self.total}] {training.name}: {result.value:.2f} {result.primary} ({pace})",
        )
