"""What a start cost before anyone fine-tuned it."""

from __future__ import annotations

from pathlib import Path

from regionssl.engine.log import read_log
from regionssl.evaluation.start import Start

LOG = "log.jsonl"


def pretraining_hours(start: Start) -> float | None:
    """Hours of the steps in the logs of a run and its stages; 0 for random weights, None where they are not known.

    Time at which a run stood still, and the making of regions and correspondences, are in no log.
    """
    if start.source == "random":
        return 0.0
    run = Path(start.source)
    logs = sorted([run / LOG, *run.glob(f"stage*/{LOG}")]) if run.is_dir() else []
    seconds = [logged_seconds(log) for log in logs if log.is_file()]
    return sum(seconds) / 3600 if seconds else None


def logged_seconds(log: Path) -> float:
    """Seconds of all steps: between two records each took as long as the later says."""
    seconds, last = 0.0, -1
    for record in read_log(log):
        seconds += (record["step"] - last) * record.get("seconds_per_step", 0.0)
        last = record["step"]
    return seconds
