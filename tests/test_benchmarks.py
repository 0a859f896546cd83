"""Benchmarks run by hand; here they are imported, and what they share is tried."""

import importlib
import os
import pkgutil
from pathlib import Path

import pytest

import benchmarks
from benchmarks.results import facts, in_new_process, show, write_json

NAMES = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_imported(name: str) -> None:
    assert importlib.import_module(f"benchmarks.{name}").__doc__


def test_a_new_process_may_have_children_of_its_own() -> None:
    assert in_new_process(in_new_process, os.getpid) != os.getpid()


def test_tables_are_shown_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show("a table", [{"case": "one", "some_ratio": 1.23456}])
    assert "1.235" in capsys.readouterr().out
    write_json(tmp_path / "out.json", facts("cpu"), {"rows": []})
    assert '"torch"' in (tmp_path / "out.json").read_text()
