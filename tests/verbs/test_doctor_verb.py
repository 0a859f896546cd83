"""The command as a user meets it: findings, their file, exit codes."""

import json
import sys
from pathlib import Path

import pytest

from regionssl.cli import main
from regionssl.verbs.doctor import diagnose, fails

RECIPE = str(Path(__file__).parents[1] / "tiny.yaml")


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["regionssl", "doctor", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_good_images_pass_and_are_written_down(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "findings.json"
    out = tmp_path / "runs" / "first"
    assert run([str(scenes), "--recipe", RECIPE, "--out", str(out), "--json", str(file)], monkeypatch) == 0
    printed = capsys.readouterr().out
    kept = json.loads(file.read_text())
    assert kept["counts"]["fault"] == 0
    assert sum(kept["counts"].values()) == len(kept["findings"])
    assert all(finding["found"] in printed for finding in kept["findings"])
    assert {"builds", "processor", "disk", "libraries", "images", "copies", "amount", "speed"} <= {
        finding["about"] for finding in kept["findings"]
    }
    assert not out.exists()


def test_faults_end_with_exit_code_1_and_mistakes_with_2(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    (few / "one.jpg").write_bytes(next(path for path in scenes.rglob("*") if path.is_file()).read_bytes())
    (few / "two.png").write_bytes(b"no picture")
    arguments = ["--recipe", RECIPE, "--out", str(tmp_path)]
    assert run([str(few), *arguments], monkeypatch) == 1
    assert "two.png: is not a JPEG" in capsys.readouterr().out
    assert run([str(tmp_path / "absent"), *arguments], monkeypatch) == 2
    assert run([str(few), *arguments, "--look", "1"], monkeypatch) == 2


def test_from_python_the_findings_come_back(tmp_path: Path) -> None:
    findings = diagnose(out=tmp_path, recipe=RECIPE, batch_size=16, size=48, workers=2)
    assert not fails(findings)
    assert all(finding.mend for finding in findings if finding.level in ("warning", "fault"))
