"""What the documents say of the command line, recipes, files and the example is true."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from regionssl.build import recipe_names
from regionssl.cli import app
from regionssl.evaluation.tasks import protocol_names

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)


def commands(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Verb and words of every command in the page's indented blocks and code; continued lines are joined."""
    text = path.read_text().replace("\\\n", " ")
    for found in re.finditer(r"(?:^ {4,}(?:\S+ )*?|`)regionssl ([a-z]+)\b(?! \d)([^\n`]*)", text, re.MULTILINE):
        yield found[1], re.split(r"\s{2,}#", found[2])[0].split()


@page
def test_commands_have_the_options_that_they_are_shown_with(path: Path) -> None:
    for verb, words in commands(path):
        assert verb in COMMANDS, f"regionssl {verb}"
        known = {option for one in COMMANDS[verb].params for option in one.opts} | {"--help"}
        for word in words:
            if word.startswith("--"):
                assert word.rstrip(".,;:)") in known, f"regionssl {verb} {word}"


def test_commands_are_found() -> None:
    assert sum(1 for path in PAGES for _ in commands(path)) > 50


@page
def test_recipes_that_are_named_exist(path: Path) -> None:
    for verb, words in commands(path):
        if "--recipe" in words:
            name = words[words.index("--recipe") + 1]
            known = recipe_names() if verb in ("pretrain", "show") else protocol_names()
            assert name in known or not name.islower() or "/" in name, f"{verb} --recipe {name}"


@page
def test_links_lead_to_files(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_the_example_stands_in_the_page_as_it_is() -> None:
    shown = (ROOT / "docs" / "own-method.md").read_text()
    for name in ("own_method.py", "own_method.yaml"):
        assert f"\n{(ROOT / 'examples' / name).read_text()}```" in shown
