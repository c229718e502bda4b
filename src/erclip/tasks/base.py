"""What a task is: prompts to train on, prompts held out, and a way to grade responses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from erclip.errors import UserError
from erclip.records import Grade, Message, Prompt, Response

GradeFn = Callable[[Sequence[Response]], list[Grade]]


@dataclass(frozen=True)
class Task:
    """Prompts and their grader; everything the trainer knows about the data.

    `train` and `test` share no problem. Both are in a fixed order that has nothing to do with
    difficulty, so a prefix is a fair sample. `grade` returns one verdict per response, in order.
    `remarks` are sentences that a reader of the run should know.
    """

    name: str
    train: Sequence[Prompt]
    test: Sequence[Prompt]
    grade: GradeFn
    remarks: tuple[str, ...] = ()


class Wording(NamedTuple):
    """What a recipe adds to every prompt: text after the question, a system message before it."""

    instruction: str = ""
    system_prompt: str = ""

    def dress(self, messages: Sequence[Message], where: str) -> tuple[Message, ...]:
        """The messages with both added.

        >>> Wording("Be brief.").dress([{"role": "user", "content": "2+2?"}], "row 1")
        ({'role': 'user', 'content': '2+2?\\nBe brief.'},)
        """
        dressed = [dict(message) for message in messages]
        if self.instruction:
            dressed[-1]["content"] += f"\n{self.instruction}"
        if self.system_prompt:
            if dressed[0]["role"] == "system":
                raise UserError(
                    f"{where}: there is a system message already: leave out data.system_prompt"
                )
            dressed.insert(0, {"role": "system", "content": self.system_prompt})
        return tuple(dressed)


def unit_hash(key: str) -> float:
    """A number in [0, 1) that depends on `key` alone: the same on every machine, every run.

    >>> unit_hash("countdown/3-7-12=33") == unit_hash("countdown/3-7-12=33")
    True
    >>> 0 <= unit_hash("x") < 1
    True
    """
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def hash_split(
    prompts: Iterable[Prompt], fraction: float, key: Callable[[Prompt], str]
) -> tuple[list[Prompt], list[Prompt]]:
    """(train, test): a prompt is held out iff unit_hash(key) < fraction.

    A rule on the problem's own text, not on its position: rows added, removed or reordered never
    move another problem across the line, and two copies of a problem land on the same side.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"test_fraction is {fraction}: give a number from 0 to below 1")
    train: list[Prompt] = []
    test: list[Prompt] = []
    for prompt in prompts:
        (test if unit_hash(key(prompt)) < fraction else train).append(prompt)
    return train, test
