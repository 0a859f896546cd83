"""What a run folder says of itself, however whole it is: settings, facts, log and health, with what cannot be read."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regionssl.build import RunConfig, load_config
from regionssl.data.loader import EpochPlan
from regionssl.engine.health import Lamp, RunHealth, read_health
from regionssl.engine.log import HEALTH, LOG, loss_terms, read_log
from regionssl.errors import InputError
from regionssl.report.curves import points_of
from regionssl.report.page import Table
from regionssl.report.run_page import RunPart
from regionssl.report.step_plot import Plot, Turn
from regionssl.verbs.run_folder import CONFIG, FACTS

MOMENTUM = "momentum of the slow network"
_PACE = {"lr": "learning rate", "images_per_second": "images per second", "data_wait": "share of time waiting for data"}
_LEVELS = ("_chance", "_orthogonal")


@dataclass(frozen=True)
class RunRecord:
    """A run folder as far as it could be read.

    Attributes:
        settings: text of the resolved recipe.
        records: of the log, with the momentum that the measures imply.
        missing: sentences on what could not be read.
    """

    folder: Path
    name: str
    config: RunConfig | None = None
    settings: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    health: RunHealth | None = None
    missing: list[str] = field(default_factory=list)


def read_run(folder: Path, name: str) -> RunRecord:
    """Read a run folder.

    Raises:
        InputError: it is none.
    """
    if not any((folder / part).is_file() for part in (CONFIG, FACTS, LOG)):
        raise InputError(
            f"{folder} is not a run folder: it holds no {CONFIG}, {FACTS} or {LOG}; give the folder of a run"
        )
    missing: list[str] = []
    config, settings = _config(folder, missing)
    facts = _facts(folder, missing)
    records, health = _log(folder, missing)
    return RunRecord(folder, name, config, settings, facts, records, health, missing)


def _config(folder: Path, missing: list[str]) -> tuple[RunConfig | None, str]:
    try:
        text = (folder / CONFIG).read_text()
        return load_config(str(folder / CONFIG), {}), text
    except (InputError, OSError, ValueError) as error:
        missing.append(f"settings: {_first_line(error)}")
        return None, ""


def _facts(folder: Path, missing: list[str]) -> dict[str, Any]:
    try:
        facts = json.loads((folder / FACTS).read_text())
        if isinstance(facts, dict):
            return facts
        missing.append(f"facts: {folder / FACTS} holds no JSON object")
    except (OSError, ValueError) as error:
        missing.append(f"facts: {_first_line(error)}")
    return {}


def _log(folder: Path, missing: list[str]) -> tuple[list[dict[str, Any]], RunHealth | None]:
    try:
        health, records = read_health(folder), read_log(folder / LOG)
    except (InputError, OSError, ValueError, KeyError) as error:
        missing.append(f"curves and health: {_first_line(error)}")
        return [], None
    if not records:
        missing.append("curves: nothing has been logged yet")
    return [_with_momentum(record) for record in records], health


def _with_momentum(record: dict[str, Any]) -> dict[str, Any]:
    """The record with 1 - the share of its distance that the slow network closed."""
    pull = record.get(f"{HEALTH}slow_pull")
    return record | {MOMENTUM: 1 - pull} if pull else record


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def total_steps(record: RunRecord) -> int | None:
    """How many steps the whole run has; None if that cannot be told."""
    images = record.facts.get("data", {}).get("scan", {}).get("used")
    if record.config is None or images is None:
        return None
    training = record.config.training
    epochs = EpochPlan(images, training.batch_size, training.seed, training.drop_last)
    return training.steps or max(1, round(training.epochs * epochs.steps_per_epoch))


def part_of(record: RunRecord) -> RunPart:
    """The part of the page on one run, without pictures."""
    lamps = record.health.lamps if record.health else []
    level, said = (lamps[-1].level, _sentence(record)) if lamps else ("unknown", "the log cannot be read")
    return RunPart(
        name=record.name,
        level=level,
        health=said,
        turns=[f"step {lamp.step + 1}: {lamp.level}: {_why(lamp)}" for lamp in lamps],
        state=state_of(record),
        missing=record.missing,
        facts=_fact_rows(record),
        choices=_choices(record.facts),
        settings=record.settings,
    )


def _sentence(record: RunRecord) -> str:
    assert record.health is not None
    now, worst = record.health.lamps[-1], record.health.worst
    text = f"{_why(now)}."
    if worst.level != now.level:
        text += f" The worst was {worst.level} at step {worst.step + 1}: {_why(worst)}."
    return text


def _why(lamp: Lamp) -> str:
    """Measure, value and sentence of a lamp."""
    if lamp.measure is None:
        return lamp.sentence
    return f"{lamp.measure} = {'not finite' if lamp.value is None else f'{lamp.value:.3g}'}: {lamp.sentence}"


def state_of(record: RunRecord) -> str:
    """How far the run is."""
    if not record.records:
        return "No step has been logged yet."
    last = record.records[-1]
    done, total = last["step"] + 1, total_steps(record)
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(last["time"])) if "time" in last else "an unknown time"
    if total is None:
        return f"{done} steps done, the last logged {when}."
    if done >= total:
        return f"Finished: {total} steps, the last {when}."
    return f"{done} of {total} steps done, the last logged {when}: the run goes on, or was stopped."


def _fact_rows(record: RunRecord) -> list[tuple[str, str]]:
    facts, config = record.facts, record.config
    rows = [("folder", str(record.folder))]
    if config is not None:
        size, training = config.method.plan.views[0].size, config.training
        rows += [
            ("recipe", config.about.summary),
            ("method", f"{config.method.name}, {config.backbone.name}, views of {size} px"),
            (
                "training",
                f"batch {training.batch_size}, seed {training.seed}, {training.precision}",
            ),
        ]
    data = facts.get("data", {})
    if data:
        rows.append(("images", f"{data.get('scan', {}).get('used', '?')} in {data.get('source', '?')}"))
    rows += [("begun from", f"{facts[key]} weights") for key in ("init",) if key in facts]
    for name in ("machine", "versions"):
        if found := facts.get(name):
            rows.append((name, ", ".join(f"{key} {value}" for key, value in found.items() if value is not None)))
    return rows


def _choices(facts: dict[str, Any]) -> Table | None:
    rows = [
        [str(one.get(key, "")) for key in ("setting", "value", "recipe", "reason")] for one in facts.get("choices", [])
    ]
    return Table("Automatic choices", ["setting", "value", "in the recipe", "reason"], rows) if rows else None


def plots_of(records: list[RunRecord]) -> tuple[list[Plot], list[Plot]]:
    """The plots of losses, rates and pace, and those of the measures of health, over all runs."""
    known = dict.fromkeys(name for record in records for one in record.records[-1:] for name in one)
    terms = [name for name in loss_terms(known) if name != MOMENTUM]
    shown = [*terms, "lr", *([MOMENTUM] if MOMENTUM in known else []), "images_per_second", "data_wait"]
    gauges = [name for name in known if name.startswith(HEALTH) and not name.endswith(_LEVELS)]
    return [_plot(records, name) for name in shown], [_plot(records, name) for name in gauges]


def _plot(records: list[RunRecord], name: str) -> Plot:
    bands = {record.health.bands.get(name) for record in records if record.health}
    turns = [
        Turn(lamp.step + 1, lamp.level) for record in records[:1] if record.health for lamp in record.health.lamps[1:]
    ]
    return Plot(
        name=_PACE.get(name, name.removeprefix(HEALTH)).replace("_", " "),
        series=[(record.name, points_of(record.records, name)) for record in records],
        band=bands.pop() if len(bands) == 1 else None,
        turns=turns if len(records) == 1 else [],
    )
