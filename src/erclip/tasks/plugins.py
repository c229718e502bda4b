"""Tasks that other packages bring: the entry point group `erclip.tasks`.

A package names a factory in its pyproject.toml,

    [project.entry-points."erclip.tasks"]
    sums = "my_package:sums"

and `data.path = "sums"` then calls it as `sums(options, test_fraction=…, wording=…)`, with
`data.options` and with what a recipe adds to every prompt; it returns an `erclip.tasks.Task`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import Any

from erclip.errors import UserError
from erclip.plugins import PluginError, installed, load_point
from erclip.tasks.base import Task, Wording

GROUP = "erclip.tasks"


def installed_tasks() -> dict[str, EntryPoint]:
    """Name → entry point of every task that an installed package declares."""
    return installed(GROUP)


def plugin_task(
    point: EntryPoint, options: Mapping[str, Any] | None, test_fraction: float, wording: Wording
) -> Task:
    """Call the factory behind an entry point and check that what it returns is a task."""
    try:
        factory = load_point(point)
    except PluginError as error:
        raise UserError(f"The task {point.name!r} {error}.") from error
    task = factory(dict(options or {}), test_fraction=test_fraction, wording=wording)
    if not isinstance(task, Task):
        raise UserError(
            f"The task {point.name!r} ({point.value}) returned {type(task).__name__}, "
            "not an erclip.tasks.Task."
        )
    return task
