"""Any reasoning-gym task by name: `reasoning-gym:chain_sum`, generated offline, self-graded."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from erclip.errors import UserError
from erclip.extras import need
from erclip.grading.extract import THINK_END, extract_answer
from erclip.records import Grade, Prompt, Response
from erclip.tasks.base import GradeFn, Task, Wording, hash_split

PREFIX = "reasoning-gym:"
DEFAULT_SIZE = 1000
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def gym_task(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    test_fraction: float = 0.1,
    wording: Wording | None = None,
    after_think: bool = False,
) -> Task:
    """The reasoning-gym task `name`; `options` are its configuration, `size` and `seed` included.

    Questions are generated once; equal ones are kept once. A response is correct when the task's
    own `score_answer` gives full marks.
    """
    dataset = _create(name, {"size": DEFAULT_SIZE, "seed": 0, **(options or {})})
    dress = (wording or Wording()).dress
    prompts: dict[str, Prompt] = {}
    for index in range(len(dataset)):
        entry = dataset[index]
        asked = entry["question"]
        if asked not in prompts:
            where = f"{PREFIX}{name}/{index}"
            messages = dress([{"role": "user", "content": asked}], where)
            prompts[asked] = Prompt(where, messages, entry["answer"], {"entry": entry})
    train, test = hash_split(
        prompts.values(), test_fraction, key=lambda prompt: prompt.extra["entry"]["question"]
    )
    return Task(f"{PREFIX}{name}", train, test, _grader(dataset, after_think))


def _create(name: str, config: Mapping[str, Any]) -> Any:
    """The data set object, with every way of misnaming it turned into one sentence."""
    reasoning_gym = need("reasoning_gym", f"the task {PREFIX}{name}")
    known = reasoning_gym.factory.DATASETS
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"near it are {', '.join(near)}" if near else "reasoning_gym.factory lists its names"
        raise UserError(f"reasoning-gym has no task {name!r}: {hint}")
    try:
        return reasoning_gym.create_dataset(name, **config)
    except (TypeError, AssertionError, ValueError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in config.items())
        raise UserError(f"reasoning-gym's {name} refuses the options {given}: {error}") from None


def read_answer(text: str, after_think: bool = False) -> str | None:
    r"""The last <answer>…</answer>, else the last \boxed{…}, else the whole text.

    after_think: read only what follows the last `</think>`; without one there is no answer.

    >>> read_answer("Thinking. <answer> 4 </answer>"), read_answer(r"\boxed{4}"), read_answer("4")
    ('4', '4', '4')
    """
    if after_think:
        _, marker, text = text.rpartition(THINK_END)
        if not marker:
            return None
    if tagged := _TAGGED.findall(text):
        return tagged[-1].strip()
    return extract_answer(text) or text.strip() or None


def _grader(dataset: Any, after_think: bool) -> GradeFn:
    def grade(responses: Sequence[Response]) -> list[Grade]:
        return [_judge(dataset, response, after_think) for response in responses]

    return grade


def _judge(dataset: Any, response: Response, after_think: bool) -> Grade:
    answer = read_answer(response.text, after_think)
    if response.truncated or answer is None:
        return Grade(False, None, "truncated" if response.truncated else "no_answer")
    try:
        score = dataset.score_answer(answer, response.prompt.extra["entry"])
    except Exception:  # task authors' parsers meet whatever a model writes
        return Grade(False, answer, "parse_error")
    correct = score >= 1.0
    return Grade(correct, answer, "correct" if correct else "wrong")
