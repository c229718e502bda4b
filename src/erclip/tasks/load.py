"""From what a recipe's data section says to a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erclip.errors import UserError
from erclip.grading import Grader
from erclip.grading.extract import DEFAULT_FORMATS
from erclip.records import Grade, Response
from erclip.tasks.base import GradeFn, Task, Wording
from erclip.tasks.countdown import countdown
from erclip.tasks.files import Source, file_task
from erclip.tasks.gym import PREFIX, gym_task
from erclip.tasks.plugins import installed_tasks, plugin_task
from erclip.tasks.sources import SUFFIXES


def load_task(
    path: str,
    *,
    split: str = "train",
    test_path: str | None = None,
    test_split: str | None = None,
    test_fraction: float = 0.1,
    instruction: str = "",
    system_prompt: str = "",
    after_think: bool = False,
    last_number: bool = False,
    answer_formats: Sequence[str] = DEFAULT_FORMATS,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Task:
    """The task that `path` names; the arguments are the keys of a recipe's `data` section.

    path: "countdown", "reasoning-gym:NAME", a task that another package installed (the entry
        point group `erclip.tasks`), a .jsonl, .json, .csv, .tsv (also .gz) or .parquet file, or a
        hub id `owner/name[:config]`; `split` and `test_split` are for hub ids.
    A setting that would have no effect on that kind of task is refused.

    >>> load_task("countdown").name
    'countdown'
    """
    plugins = installed_tasks()
    generated = path == "countdown" or path.startswith(PREFIX) or path in plugins
    wording = Wording(instruction, system_prompt)
    if generated:
        files_only = {"test_path": test_path, "test_split": test_split, "last_number": last_number}
        other_formats = tuple(answer_formats) != DEFAULT_FORMATS
        _refuse(path, {**files_only, "split": split != "train"})
        _refuse(path, {"answer_formats": other_formats, "columns": columns})
    if path == "countdown":
        _refuse(path, {"after_think": after_think})
        return countdown(options, test_fraction=test_fraction, wording=wording)
    if path in plugins:
        _refuse(path, {"after_think": after_think})
        return plugin_task(plugins[path], options, test_fraction, wording)
    if generated:
        return gym_task(
            path.removeprefix(PREFIX),
            options,
            test_fraction=test_fraction,
            wording=wording,
            after_think=after_think,
        )
    if _is_bare_name(path):
        known = ("countdown", f"{PREFIX}NAME", *sorted(plugins))
        raise UserError(
            f"There is no task {path!r}: installed are {', '.join(known)}; "
            f"a data file ends in {', '.join(SUFFIXES)}, a hub id is owner/name."
        )
    _refuse(path, {"options": options})
    test = None
    if test_path is not None or test_split is not None:
        test = Source(test_path or path, test_split or split)
    return file_task(
        Source(path, split),
        math_grader(after_think, last_number, answer_formats),
        test=test,
        test_fraction=test_fraction,
        wording=wording,
        columns=columns,
    )


def math_grader(
    after_think: bool = False, last_number: bool = False, formats: Sequence[str] = DEFAULT_FORMATS
) -> GradeFn:
    """Grades with one pool of worker processes, which start when algebra is first needed."""
    grader = Grader()

    def grade(responses: Sequence[Response]) -> list[Grade]:
        return grader.grade_batch(
            [(response.text, response.prompt.gold) for response in responses],
            formats=formats,
            after_think=after_think,
            last_number=last_number,
            truncated=[response.truncated for response in responses],
        )

    return grade


def _is_bare_name(path: str) -> bool:
    """A word that is neither a file nor owner/name: most likely a task's name, mistyped."""
    return path.replace("-", "_").isidentifier() and not Path(path).exists()


def _refuse(path: str, settings: Mapping[str, object]) -> None:
    for name, value in settings.items():
        if value:
            raise UserError(f"data.{name} has no effect on {path}: leave it out")
