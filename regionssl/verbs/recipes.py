"""``regionssl recipes``: what there is."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from regionssl.build import RunConfig, load_config, recipe_names
from regionssl.evaluation.tasks import protocols


def recipes() -> dict[str, RunConfig]:
    """List the recipes: method, data they were made for, source of the settings, score; and the tasks' protocols.

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
    tasks = Table("task", "protocol", "what")
    for protocol in protocols():
        tasks.add_row(protocol.evaluator.task, protocol.name, protocol.about.summary)
    Console().print(table, tasks)
    return found
