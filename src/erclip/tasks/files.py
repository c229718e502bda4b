"""A task from data rows: read, recognise, split, grade with the mathematics grader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from erclip.errors import UserError
from erclip.records import Prompt
from erclip.tasks.base import GradeFn, Task, Wording, hash_split
from erclip.tasks.repeats import Identifier, first_of_each, repeats_remark
from erclip.tasks.rows import read_row
from erclip.tasks.sources import name_of, read_rows


class Source(NamedTuple):
    """A file or hub id, and the split of the hub data set."""

    path: str
    split: str = "train"


def file_task(
    source: Source,
    grade: GradeFn,
    *,
    test: Source | None = None,
    test_fraction: float = 0.1,
    wording: Wording | None = None,
    columns: Mapping[str, str] | None = None,
) -> Task:
    """Rows of a file or hub data set; held out is the named test set, else a hash split.

    Exactly one rule applies: with `test` all rows of `source` are for training (a test problem
    among them is refused); without, a row is held out iff the hash of its question is below
    `test_fraction`. A repeated problem is held out once; in training, its copies stay.
    """
    wording = wording or Wording()
    prompts = read_prompts(source, wording, columns)
    if test is None:
        train, held_out = hash_split(prompts, test_fraction, key=lambda p: p.extra["asked"])
    else:
        train, held_out = prompts, read_prompts(test, wording, columns)
        _refuse_overlap(train, held_out)
    repeated = repeats_remark(train)
    remarks = (f"{source.path}: {repeated}; each copy is trained on.",) if repeated else ()
    return Task(name_of(source.path), train, first_of_each(held_out), grade, remarks)


def read_prompts(
    source: Source, wording: Wording, columns: Mapping[str, str] | None = None
) -> list[Prompt]:
    """The rows as prompts; a prompt's id is the hash of its question, numbered when repeated."""
    identify = Identifier(name_of(source.path))
    prompts: list[Prompt] = []
    for row, where in read_rows(source.path, source.split):
        item = read_row(row, where, columns)
        asked = "\n".join(message["content"] for message in item.messages)
        messages = wording.dress(item.messages, where)
        extra = {"asked": asked, "where": where}
        prompts.append(Prompt(identify(asked), messages, item.gold, extra))
    if not prompts:
        raise UserError(f"{source.path} holds no rows: give a file with at least one")
    return prompts


def _refuse_overlap(train: list[Prompt], test: list[Prompt]) -> None:
    held_out = {prompt.extra["asked"] for prompt in test}
    shared = [prompt for prompt in train if prompt.extra["asked"] in held_out]
    if shared:
        raise UserError(
            f"{shared[0].extra['where']}: this problem is also in the test set (so are "
            f"{len(shared) - 1} more): remove them from training"
        )
