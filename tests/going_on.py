"""Stopping trainings of evaluators, and what must be equal once they have gone on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regionssl.engine.checkpoint import load_checkpoint, write_state
from regionssl.evaluation import saved
from regionssl.evaluation.outcome import Outcome
from regionssl.evaluation.saved import SavedTraining
from regionssl.evaluation.start import Start
from regionssl.labels.sets import Split


class PowerCut(Exception):
    pass


def stop_after(iterations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write after every iteration, and stop all trainings after one of them."""
    known = SavedTraining.keep

    def keep(self: SavedTraining, model: Any, optimiser: Any, done: int, *others: Any) -> None:
        known(self, model, optimiser, done, *others)
        if done == iterations:
            raise PowerCut

    monkeypatch.setattr(saved, "EVERY", 0.0)
    monkeypatch.setattr(SavedTraining, "keep", keep)


def evidence_of(outcome: Outcome, path: Path) -> dict[str, np.ndarray]:
    outcome.evidence.save(path)
    with np.load(path) as parts:
        return dict(parts)


def check_goes_on(
    task: Any, start: Start, data: Split[Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> Outcome:
    """Run a task at once, and stopped in the middle, after its end, and with another seed in the same folder."""
    whole = task.run(start, data, folder / "whole")
    assert not (folder / "whole" / saved.FILE).exists()
    last = task.iterations
    for done, heard in ((last // 2, ""), (last, f"goes on after iteration {last // 2}")):
        with pytest.MonkeyPatch.context() as patched:
            stop_after(done, patched)
            with pytest.raises(PowerCut):
                task.run(start, data, folder / "parts")
        assert heard in capsys.readouterr().err
    path = folder / "parts" / saved.FILE
    state = load_checkpoint(path)
    assert state["seconds"] > 0
    write_state(path, {**state, "seconds": 1000.0})
    outcome: Outcome = task.run(start, data, folder / "parts")
    assert f"goes on after iteration {last}" in capsys.readouterr().err
    assert outcome.seconds > 1000, "the time before a stop counts"
    assert outcome.metrics == whole.metrics
    expected = evidence_of(whole, folder / "whole.npz")
    for name, array in evidence_of(outcome, folder / "parts.npz").items():
        np.testing.assert_array_equal(array, expected[name])
    task.run(start, data, folder / "parts", seed=1)
    assert "goes on" not in capsys.readouterr().err
    saved.forget(folder / "parts")
    assert not (folder / "parts" / saved.FILE).exists()
    return outcome
