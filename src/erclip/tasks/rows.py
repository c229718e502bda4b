r"""One data row to a question and its gold answer, by the names of its fields.

The first question field that is there asks, the first answer field that is there answers (null
and blank text aside); names count in any case. `data.columns` names others, `a.b` for a field
inside a field.

| the question                                     | may be                                       |
|--------------------------------------------------|----------------------------------------------|
| prompt, messages, conversations, problem,        | text, or messages {role, content} or         |
| question, query                                  | {from, value} (ShareGPT); their content is   |
|                                                  | text or a list of text parts; closing        |
|                                                  | assistant turns are left out                 |

| the answer                                       | may be                                       |
|--------------------------------------------------|----------------------------------------------|
| reward_model.ground_truth, answer, final_answer, | a number, text, a list, a list in JSON text; |
| expected_answer, ground_truth, solution, gold    | a worked solution that ends in `#### …` or   |
|                                                  | holds a `\boxed{…}` or `<answer>…</answer>`   |

A list holds alternatives, unless OlympiadBench's `is_multiple_answer` says otherwise; `unit` and
`error` (a tolerance) beside a list are read as well. Without an answer field, the answer that
the assistant's last turn announces is the gold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple

from erclip.errors import UserError
from erclip.grading import Gold
from erclip.grading.extract import extract_answer
from erclip.records import Message

Row = Mapping[str, Any]
Field = tuple[str, Any]
"""Its name and its value."""

QUESTIONS = ("prompt", "messages", "conversations", "problem", "question", "query")
SPEAKERS = {"human": "user", "gpt": "assistant", "chatgpt": "assistant"}  # as ShareGPT names roles
ANSWERS = (
    "reward_model.ground_truth",
    "answer",
    "final_answer",
    "expected_answer",
    "ground_truth",
    "solution",
    "gold",
)
LONGEST_ANSWER = 500  # characters; beyond it, a text is a worked solution


class Item(NamedTuple):
    """What a row says: the conversation up to the answer, and the gold answer."""

    messages: tuple[Message, ...]
    gold: Gold


class _BadField(ValueError):
    """A field is there but does not hold what it should."""


def read_row(row: object, where: str, columns: Mapping[str, str] | None = None) -> Item:
    """The question and gold of one row; `where` (file and line) begins every complaint.

    >>> read_row({"question": "How much is 9 + 9?", "answer": "9+9=18 #### 18"}, "f:1").gold.answers
    ('18',)
    """
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: a row must be a JSON object, not {type(row).__name__}")
    try:
        question, answer = _roles(row, where, columns or {})
        return Item(_asked(*question), read_gold(answer[1], answer[0], row))
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def fields_of(row: Row, where: str, columns: Mapping[str, str] | None = None) -> tuple[str, str]:
    """The names of the fields that ask and that answer."""
    question, answer = _roles(row, where, columns or {})
    return question[0], answer[0]


def _roles(row: Row, where: str, columns: Mapping[str, str]) -> tuple[Field, Field]:
    """The fields that ask and that answer."""
    question = _pick(row, where, "prompt", columns, QUESTIONS)
    answer = _pick(row, where, "answer", columns, ANSWERS, lambda: _announced(*question))
    return question, answer


def _announced(name: str, turns: object) -> Field | None:
    """The answer in the assistant's last turn."""
    closing = _message(turns[-1]) if isinstance(turns, list) and turns else None
    if closing is None or closing["role"] != "assistant":
        return None
    spoken = extract_answer(_content(closing["content"], name))
    return (f"{name}, its last turn", spoken) if spoken else None


def _pick(
    row: Row,
    where: str,
    role: str,
    columns: Mapping[str, str],
    known: tuple[str, ...],
    otherwise: Callable[[], Field | None] = lambda: None,
) -> Field:
    """The field that plays a role."""
    there = ", ".join(sorted(map(str, row))) or "none"
    if (named := columns.get(role)) is not None:
        value = _field(row, named)
        if value is None:
            raise UserError(f"{where}: there is no {named!r} (data.columns); it has {there}")
        return named, value
    lowered = {str(name).lower(): value for name, value in row.items()}
    there_are = [(name, value) for name in known if (value := _field(lowered, name)) is not None]
    filled = [pair for pair in there_are if not isinstance(pair[1], str) or pair[1].strip()]
    if there_are:
        return (filled or there_are)[0]
    if (other := otherwise()) is not None:
        return other
    raise UserError(
        f"{where}: needs a field {', '.join(known[:-1])} or {known[-1]}; it has {there}: name it, "
        f'data.columns = {{ {role} = "…" }}'
    )


def _field(row: Row, path: str) -> Any:
    value: Any = row.get(path)
    if value is None and "." in path:
        outer, _, inner = path.partition(".")
        held = row.get(outer)
        return _field(held, inner) if isinstance(held, Mapping) else None
    return value


def _asked(name: str, question: object) -> tuple[Message, ...]:
    if isinstance(question, list):
        return _conversation(question, name)
    if not isinstance(question, str) or not question.strip():
        raise _BadField(f"{name} must be a non-empty string or list of messages, not {question!r}")
    return ({"role": "user", "content": question},)


def _conversation(messages: list[Any], name: str) -> tuple[Message, ...]:
    read: list[dict[str, str]] = []
    for message in map(_message, messages):
        if message is None:
            raise _BadField(f"{name} must be a list of messages with role and content")
        read.append({"role": message["role"], "content": _content(message["content"], name)})
    while read and read[-1]["role"] == "assistant":
        read.pop()
    if not read or read[-1]["role"] != "user":
        last = repr(read[-1]["role"]) if read else "nothing"
        raise _BadField(f"{name} must end with a user message, not {last}")
    return tuple(read)


def _message(message: object) -> dict[str, Any] | None:
    """Role and content of a turn, also as ShareGPT names them; None if it is no turn."""
    for role, content in (("role", "content"), ("from", "value")):
        if isinstance(message, Mapping) and {role, content} <= set(message):
            speaker = message[role]
            return {"role": SPEAKERS.get(str(speaker), speaker), "content": message[content]}
    return None


def _content(content: object, name: str) -> str:
    """Text, or a list of parts that are all text."""
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else part
            for part in content
        ]
        if parts and all(isinstance(part, str) for part in parts):
            return "".join(parts)
    if not isinstance(content, str):
        raise _BadField(f"{name} must hold text, not {type(content).__name__}")
    return content


def read_gold(answer: object, name: str = "answer", row: Row | None = None) -> Gold:
    """One answer or a list of them, with what OlympiadBench's row says beside a list.

    >>> read_gold(["1/2", 0.5]).answers, read_gold('["50"]').answers
    (('1/2', '0.5'), ('50',))
    """
    row = row or {}
    if not isinstance(answer, list):
        return Gold.of(_text_of(answer, name))
    if not answer:
        raise _BadField(f"{name} must be a non-empty list")
    golds = [Gold.of(_text_of(part, name)) for part in answer]
    gold = Gold(tuple(text for gold in golds for text in gold.answers))
    if not row.get("is_multiple_answer") and not row.get("unit") and not row.get("error"):
        return gold
    error = row.get("error")
    return replace(
        gold,
        is_multiple=bool(row.get("is_multiple_answer")),
        unit=row.get("unit") or None,
        tolerance=_tolerance(error) if error else None,
    )


def _text_of(answer: object, name: str) -> str:
    """Answers as text; JSON's 27.0 is 27, and of a worked solution its final answer.

    >>> _text_of(27.0, "answer"), _text_of(0.5, "answer"), _text_of(" x ", "answer")
    ('27', '0.5', 'x')
    """
    if isinstance(answer, Decimal):  # of a parquet file
        answer = int(answer) if answer == answer.to_integral_value() else f"{answer:f}"
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise _BadField(f"{name} must be text or a number, not {answer!r}")
    if isinstance(answer, float):
        if not math.isfinite(answer):
            raise _BadField(f"{name} must be finite, not {answer!r}")
        return str(int(answer)) if answer.is_integer() else repr(answer)
    text = str(answer).strip()
    marked = text.rpartition("####")
    if marked[1]:
        return marked[2].strip().replace(",", "")
    if len(text) <= LONGEST_ANSWER and "\n" not in text and not _speaks(text):
        return text
    if (final := extract_answer(text, formats=("boxed", "tag"))) is None:
        raise _BadField(
            rf'{name} must be an answer, or a solution that ends in "#### …" or holds a '
            rf"\boxed{{…}}: {text[:40]!r}"
        )
    return final


def _speaks(text: str) -> bool:
    r"""Whether a box or a tag stands in a sentence, so that the answer is what it holds."""
    boxed = r"\boxed" in text and not text.lstrip("$ ").startswith(r"\boxed")
    return boxed or "</answer>" in text


def _tolerance(error: object) -> float:
    try:
        return float(str(error))
    except ValueError:
        raise _BadField(f"error must be a number, not {error!r}") from None
