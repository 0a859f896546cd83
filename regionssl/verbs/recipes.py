"""``regionssl recipes``: what there is."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from regionssl.build import RunConfig, load_config, recipe_names


def recipes() -> dict[str, RunConfig]:
    """List the recipes: method, data they were made for, source of the settings, published score.

    Returns:
        The recipes by name.
    """
    found = {name: load_config(name, {}) for name in recipe_names()}
    table = Table(show_lines=True)
    for heading in ("recipe", "method", "made for", "source of the settings", "score"):
        table.add_column(heading, overflow="fold")
    for name, config in found.items():
        about = config.about
        table.add_row(name, f"{config.method.name}: {about.summary}", about.data, about.source, about.score)
    Console().print(table)
    return found
