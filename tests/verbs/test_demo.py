"""The README's commands exist, and the demo goes the whole way."""

import re
from pathlib import Path

import pytest

from regionssl.verbs.demo import NAMES, demo

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
    found = demo(tmp_path / "demo", scenes=32, steps=3, labelled=8)
    assert set(found.classes) == set(NAMES)
    assert [(point.start, point.images) for point in found.points] == [
        ("run", 2),
        ("run", 8),
        ("random", 2),
        ("random", 8),
    ]
    for name in (
        "run/weights.safetensors",
        "resnet18-torchvision.safetensors",
        "pictures/views.png",
        "pictures/features.png",
        "proof/proof.html",
        "proof/results.csv",
    ):
        assert (tmp_path / "demo" / name).is_file()
    verdict = (tmp_path / "demo" / "proof" / "verdict.txt").read_text().strip()
    assert " ".join(verdict.split()) in " ".join(capsys.readouterr().out.split())
