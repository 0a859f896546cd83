"""The import directions of docs/design.md."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "regionssl"
BASE = {"geometry", "counted", "config", "errors", "run_lengths"}
ALLOWED = {
    "geometry": BASE,
    "counted": BASE,
    "config": BASE,
    "errors": BASE,
    "run_lengths": set(),
    "stores": BASE | {"stores"},
    "data": BASE | {"stores", "data"},
    "regions": BASE | {"stores", "regions"},
    "backbones": BASE | {"backbones"},
    "methods": BASE | {"data", "regions", "backbones", "methods"},
    "engine": BASE | {"data", "methods.base", "engine"},
    "labels": BASE | {"data", "labels"},
    "evaluation": BASE | {"data", "labels", "regions", "backbones", "engine", "export.run_weights", "evaluation"},
    "proof": BASE | {"data", "labels", "regions", "backbones", "engine", "export.run_weights", "evaluation", "proof"},
    "export": BASE | {"data.photometric", "backbones", "export", "engine.checkpoint"},
    "report": BASE | {"report"},
    "doctor": BASE | {"data", "engine", "doctor"},
    "build": BASE | {"stores", "data", "labels", "regions", "backbones", "methods", "engine", "evaluation", "export"},
    "verbs": BASE
    | {
        "stores",
        "data",
        "labels",
        "regions",
        "backbones",
        "methods",
        "engine",
        "evaluation",
        "proof",
        "export",
        "report",
        "doctor",
        "build",
        "verbs",
    },
    "cli": {"errors", "verbs"},
    "__init__": {"errors", "verbs", "export"},
    "__main__": {"cli"},
}


def imported(path: Path) -> set[str]:
    """Dotted names below the package that a module imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.removeprefix("regionssl.") for name in names if name.startswith("regionssl.")}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    allowed = ALLOWED[room]
    for name in imported(path):
        assert any(name == place or name.startswith(f"{place}.") for place in allowed), f"{room} imports {name}"
