"""Tasks that other packages bring: the entry point group `erclip.tasks`.

A package names a factory in its pyproject.toml,

    [project.entry-points."erclip.tasks"]
    sums = "my_package:sums"

and `data.path = "sums"` then calls it as `sums(options, test_fraction=…, wording=…)`, with
`data.options` and with what a recipe adds to every prompt; it returns an `erclip.tasks.Task`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any

from erclip.errors import UserError
from erclip.machine.plugins import installed
from erclip.machine.usercode import user_code
from erclip.records import Grade, Response
from erclip.tasks.base import GradeFn, Task, Wording

GROUP = "erclip.tasks"


def installed_tasks() -> dict[str, EntryPoint]:
    """Name → entry point of every task that an installed package declares."""
    return installed(GROUP)


def plugin_task(
    point: EntryPoint, options: Mapping[str, Any] | None, test_fraction: float, wording: Wording
) -> Task:
    """Call the factory behind an entry point and check that what it returns is a task."""
    where = f"The task {point.name!r} ({point.value})"
    with user_code(f"{where} cannot be imported"):
        factory = point.load()
    with user_code(f"{where} cannot be made"):
        task = factory(dict(options or {}), test_fraction=test_fraction, wording=wording)
    if not isinstance(task, Task):
        raise UserError(
            f"The task {point.name!r} ({point.value}) returned {type(task).__name__}, "
            "not an erclip.tasks.Task."
        )
    return replace(task, grade=_checked(task.grade, where))


def _checked(grade: GradeFn, where: str) -> GradeFn:
    """The grader, held to one Grade per response."""

    def checked(responses: Sequence[Response]) -> list[Grade]:
        with user_code(f"{where} cannot grade {len(responses)} responses"):
            grades = list(grade(responses))
        if len(grades) != len(responses) or not all(isinstance(g, Grade) for g in grades):
            kinds = ", ".join(sorted({type(g).__name__ for g in grades}))
            raise UserError(
                f"{where} graded {len(responses)} responses with {len(grades)} values ({kinds}); "
                "give one erclip.records.Grade for each."
            )
        return grades

    return checked
