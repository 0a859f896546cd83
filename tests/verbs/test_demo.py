"""The README's commands exist, and the demo goes the whole way."""

import re
from pathlib import Path

import pytest
from rich.console import Console

from regionssl.evaluation.probes import ProbeResult
from regionssl.verbs.demo import NAMES, demo, report

ROOT = Path(__file__).parents[2]


def test_the_readme_names_what_there_is() -> None:
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = re.findall(r"^    make ([a-z-]+)", readme, re.MULTILINE)
    assert commands == ["demo", "test"]
    assert set(commands) <= targets
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "make test"
    for linked in re.findall(r"\]\(([^)]+)\)", readme):
        assert (ROOT / linked).is_file(), linked


def test_the_demo_goes_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = demo(tmp_path / "demo", scenes=32, steps=3, labelled=8)
    assert before.per_class.keys() == after.per_class.keys() == set(NAMES)
    for name in (
        "run/weights.safetensors",
        "resnet18-torchvision.safetensors",
        "pictures/views.png",
        "pictures/features.png",
    ):
        assert (tmp_path / "demo" / name).is_file()
    assert "On these scenes pre-training" in capsys.readouterr().out


@pytest.mark.parametrize(("gain", "word"), [(0.05, "helped"), (-0.05, "hurt"), (0.0, "made no difference")])
def test_the_verdict_says_what_happened(gain: float, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = ProbeResult(0.2, dict.fromkeys(NAMES, 0.2), 0.5)
    after = ProbeResult(0.2 + gain, dict.fromkeys(NAMES, 0.2 + gain), 0.5)
    report(before, after, Console(width=200))
    assert word in capsys.readouterr().out
