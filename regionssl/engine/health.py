"""The lamp of a run: green, amber or red, with the sentence that explains it. A pure function of the log's records."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from regionssl.engine.health_rules import Finding, History, Level, findings
from regionssl.engine.log import HEALTH, LOG, read_log
from regionssl.errors import InputError

LEVELS: tuple[Level, ...] = ("green", "amber", "red")
RISE, FALL = 3, 5
"""Records in a row that turn the lamp to a worse level, and to a better one: a single odd one does neither."""

CONTRAST_BAND = (0.6, 1.03)
DISTANCE_BAND = (0.1, 0.65)
"""The usual losses after the first 40 steps, as shares of a blind guess and of unrelated rows (docs/health.md)."""


@dataclass(frozen=True)
class Lamp:
    """A level of the lamp, and why.

    Attributes:
        step: of the record that turned it.
        measure, value: what it was judged by; None when nothing is wrong.
    """

    step: int
    level: Level
    sentence: str
    measure: str | None = None
    value: float | None = None

    def to_plain(self) -> dict[str, Any]:
        """As it stands in ``log.jsonl`` and ``run.json``; a value that is not finite is None."""
        finite = self.value is not None and math.isfinite(self.value)
        return asdict(self) | {"value": self.value if finite else None}

    def __str__(self) -> str:
        """``health: red at step 80: image_target_std = 0.02: ...``; steps count from 1, as on the console."""
        if self.measure is None:
            return f"health: {self.level}"
        value = "not finite" if self.value is None else f"{self.value:.3g}"
        return f"health: {self.level} at step {self.step + 1}: {self.measure} = {value}: {self.sentence}"


GREEN = Lamp(0, "green", "nothing unusual was seen")


class HealthMonitor:
    """Judges each record of a run.

    Attributes:
        lamp: the present one.
        worst: the first one of the worst level so far.
    """

    def __init__(self) -> None:
        self.history = History()
        self.verdicts: deque[Finding | None] = deque(maxlen=FALL)
        self.lamp = self.worst = GREEN

    def observe(self, record: Mapping[str, Any]) -> Lamp | None:
        """Take the next record of the log; returns the lamp if it has changed its level."""
        self.history.add(record)
        found = max(findings(self.history), key=lambda finding: LEVELS.index(finding.level), default=None)
        self.verdicts.append(found)
        levels = [_severity(verdict) for verdict in self.verdicts]
        now = LEVELS.index(self.lamp.level)
        steady = min(levels[-RISE:]) if len(levels) >= RISE else 0
        if steady > now:
            return self._turn(_latest(self.verdicts, steady), record["step"])
        if len(levels) == FALL and max(levels) < now:
            return self._turn(_latest(self.verdicts, max(levels)), record["step"])
        return None

    def fail(self, step: int) -> Lamp:
        """Turn red at once, since the loss is not finite and the run cannot go on."""
        sentence = "a lower learning rate or --precision fp32 are the usual remedies"
        return self._turn(Finding("red", "loss", math.nan, sentence), step)

    def _turn(self, found: Finding | None, step: int) -> Lamp:
        if found is None:
            self.lamp = Lamp(step, "green", "nothing unusual any more")
        else:
            self.lamp = Lamp(step, found.level, found.sentence, found.measure, found.value)
        if LEVELS.index(self.lamp.level) > LEVELS.index(self.worst.level):
            self.worst = self.lamp
        return self.lamp


def _severity(finding: Finding | None) -> int:
    return 0 if finding is None else LEVELS.index(finding.level)


def _latest(verdicts: deque[Finding | None], severity: int) -> Finding | None:
    """The latest verdict of this severity."""
    return next((verdict for verdict in reversed(verdicts) if _severity(verdict) == severity), None)


def loss_bands(record: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """The usual lowest and highest value of each loss term of a record whose chance level the method states."""
    bands = {}
    for suffix, (low, high) in (("_chance", CONTRAST_BAND), ("_orthogonal", DISTANCE_BAND)):
        for name, level in record.items():
            if name.startswith(HEALTH) and name.endswith(suffix):
                bands[name.removeprefix(HEALTH).removesuffix(suffix)] = (low * level, high * level)
    return bands


@dataclass(frozen=True)
class RunHealth:
    """The health of a run from its log.

    Attributes:
        lamps: the sequence of lamps, from green at step 0 on.
        bands: of each loss term, the usual lowest and highest value; for the latest record.
    """

    lamps: list[Lamp]
    bands: dict[str, tuple[float, float]]

    @property
    def worst(self) -> Lamp:
        """The first lamp of the worst level."""
        return max(self.lamps, key=lambda lamp: LEVELS.index(lamp.level))


def read_health(run: Path) -> RunHealth:
    """The lamps of a run folder, finished or not, and the usual band of its losses.

    Raises:
        InputError: it has no log.
    """
    log = run / LOG
    if not log.is_file():
        raise InputError(f"{run} holds no {LOG}; give the folder of a run that has begun to train")
    lamps = [GREEN, *(_lamp_of(event) for event in health_events(log))]
    records = read_log(log)
    return RunHealth(lamps, loss_bands(records[-1]) if records else {})


def health_events(log: Path) -> list[dict[str, Any]]:
    """The changes of the lamp in a log."""
    events = []
    for line in log.read_text(errors="replace").splitlines():
        if '"event": "health"' not in line:
            continue
        try:
            events.append(json.loads(line))
        except ValueError:  # torn by a crash
            continue
    return events


def _lamp_of(event: Mapping[str, Any]) -> Lamp:
    return Lamp(event["step"], event["level"], event["sentence"], event["measure"], event["value"])
