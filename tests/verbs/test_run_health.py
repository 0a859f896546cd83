"""The lamp of a whole run: on the console, in the log and in the run's facts; the same after a restart."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from regionssl import InputError, pretrain
from regionssl.engine.health import read_health
from regionssl.engine.log import read_log

TINY = str(Path(__file__).parents[1] / "tiny.yaml")


def facts(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


@pytest.fixture(scope="module")
def hot(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 steps with a learning rate that is far too high."""
    return pretrain(scenes, tmp_path_factory.mktemp("runs") / "hot", recipe=TINY, set=["optimiser.lr=20"])


def test_a_red_run_says_so_everywhere(hot: Path) -> None:
    health = read_health(hot)
    assert health.worst.level == "red"
    assert health.worst.measure == "update"
    assert facts(hot)["health"] == health.worst.to_plain()
    assert {"versions", "choices", "data"} <= facts(hot).keys(), "the rest of the facts stays"
    assert health.bands.keys() == {"image", "p4", "p3"}


def test_the_console_shows_the_lamp_and_not_the_measures(scenes: Path, tmp_path: Path, capsys: Any) -> None:
    run = pretrain(scenes, tmp_path / "run", recipe=TINY, set=["optimiser.lr=20"], steps=6)
    text = capsys.readouterr().out
    steps = [line for line in text.splitlines() if line.startswith("step ")]
    assert steps[0].endswith("health green")
    assert steps[-1].endswith("health red")
    assert not any("health/" in line for line in steps)
    lamps = re.findall(r"^health: red at step (\d): update = ", text, flags=re.MULTILINE)
    assert len(lamps) == 2, "event and end"
    assert lamps[0] == lamps[1]
    assert "health/update" in read_log(run / "log.jsonl")[0]


def test_a_resumed_run_has_the_lamps_of_the_whole_one(hot: Path, scenes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(hot, run)
    (run / "checkpoints" / "step-000000012.ckpt").unlink()
    pretrain(scenes, run, resume=True)
    assert read_health(run) == read_health(hot)
    assert facts(run)["health"] == facts(hot)["health"]


def test_a_loss_that_is_not_finite_is_red(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not finite"):
        pretrain(scenes, tmp_path / "run", recipe=TINY, set=["optimiser.lr=1e30"])
    assert read_health(tmp_path / "run").lamps[-1].level == "red"
    assert facts(tmp_path / "run")["health"]["level"] == "red"
