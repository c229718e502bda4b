r"""Reads the answer that a response commits to, in the formats that it may be announced in.

Every function is linear in the length of its input, and answers are looked for in the last
`TAIL_CHARS` characters only: responses come from a model under training and may be anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

TAIL_CHARS = 262_144
MAX_GAP = 40
THINK_END = "</think>"
DEFAULT_FORMATS = ("boxed", "tag", "gsm8k", "minerva", "dapo")

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)")
_BRACES = re.compile(r"(\\(?:boxed|fbox|framebox)\s*\{)|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\boxed\s*([^\s{}$\\A-Za-z][^\s{}$\\]*|\s[^\s{}$\\]+)")
_BETWEEN_BOXES = re.compile(
    r"(?:[\s$,;.]|\\[()\[\],;]|\\quad|\\text\{ *(?:and|or) *\}|and|or|[a-zA-Z](?:_\{?\d\}?)? ?=)*"
)
_HASHES = re.compile(r"####[ \t]*(?:\*\*)?([-+$(\\.\d−][^\n]*)")
_TAG = re.compile(r"<answer>(.{0,4000}?)</answer>", re.DOTALL)
_LINE = re.compile(r"^[ \t]*(?:Final )?Answer[ \t]*:[ \t]*(\S[^\n]*)", re.MULTILINE | re.IGNORECASE)
_MINERVA = re.compile(r"[Ff]inal [Aa]nswer:? [Tt]he final answer is:?[ \t]*([^\n]+)")
_PROSE = re.compile(
    r"(?:answer\s*(?:\*\*)?\s*(?:is|:)|答案(?:是|为|：|:))(?:\*\*|\s)*(?::\s*)?([^\n]+)",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"[-+−]?\\[dt]?frac\s?\{[^{}\n]{1,40}\}\s?\{[^{}\n]{1,40}\}"
    r"|(?:(?<![\w)}])[-+−])?\$?(?:\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+)(?:[/:]\d+)*%?"
)
_FINAL_STOP = re.compile(r"(?:\.|。)?\s*(?:I hope (?:it|this) is correct\.?)?\s*$")


class Announced(TypedDict, total=False):
    """How an answer may be announced: options of `extract_answer`."""

    formats: Sequence[str]
    after_think: bool
    last_number: bool


def extract_answer(
    response: str,
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
    after_think: bool = False,
    last_number: bool = False,
    all_boxes: bool = False,
) -> str | None:
    r"""The answer in the first of the formats that is found, else (`last_number`) the last number.

    Without `after_think`, what follows the last `</think>` counts first, then the whole response.

    formats: names of `FORMATS`, tried in their order.
    after_think: read only what follows the last `</think>`; without one there is no answer.
    all_boxes: join a run of neighbouring boxes (`\boxed{1} and \boxed{2}`) into one list; only for
        golds with several answers, because elsewhere the last box is the answer.

    >>> extract_answer(r"So \boxed{1}, no: \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    >>> extract_answer("16 - 3 = 13\n#### 13"), extract_answer("So\nAnswer: $34$.")
    ('13', '$34$')
    >>> extract_answer(r"It is \frac{3}{4} or so.", last_number=True)
    '\\frac{3}{4}'
    """
    before, marker, after = response.rpartition(THINK_END)
    if after_think and not marker:
        return None
    for text in [after] if after_think or not before else [after, response]:
        tail = text[-TAIL_CHARS:]
        for name in formats:
            if answer := FORMATS[name](tail, all_boxes):
                return answer
    tail = (after if after_think else response)[-TAIL_CHARS:]
    if last_number and (numbers := _NUMBER.findall(tail)):
        return numbers[-1].rstrip(",")
    return None


def check_formats(names: Sequence[str]) -> None:
    """Refuse a format that has no name here."""
    for name in names:
        if name not in FORMATS:
            raise ValueError(f"answer format {name!r} is not known: give {', '.join(FORMATS)}")


def _boxed(text: str, all_boxes: bool) -> str | None:
    for position, (_, start, end) in enumerate(boxes := _boxes(text)):
        if content := text[start:end].strip():
            return _join_run(text, boxes[position:]) if all_boxes else content
    bare = _BARE_BOX.findall(text)
    return bare[-1].strip().rstrip(".,") if bare else None


def _pattern(pattern: re.Pattern[str]) -> Callable[[str, bool], str | None]:
    def read(text: str, all_boxes: bool) -> str | None:
        found = pattern.findall(text)
        if not found:
            return None
        answer = found[-1].strip()
        return _boxed(answer, all_boxes) or _FINAL_STOP.sub("", answer).strip("* ") or None

    return read


FORMATS: Mapping[str, Callable[[str, bool], str | None]] = {
    "boxed": _boxed,
    "tag": _pattern(_TAG),
    "gsm8k": _pattern(_HASHES),
    "minerva": _pattern(_MINERVA),
    "dapo": _pattern(_LINE),
    "prose": _pattern(_PROSE),
}
"""`\\boxed{…}`; `<answer>…</answer>` (DeepSeek-R1); `#### …` (GSM8K); `Final Answer: The final
answer is …. I hope it is correct.` (Minerva); a line `Answer: …` (DAPO, simple-evals); and prose,
`the answer is …`, which few data sets ask for."""


def _boxes(text: str) -> list[tuple[int, int, int]]:
    r"""(start of `\boxed`, start and end of its content) of the balanced boxes, last start first.

    One pass with a stack: an unclosed brace costs its own box, not the ones around it. Of nested
    boxes the innermost comes first.
    """
    first = _BOX.search(text)
    if first is None:
        return []
    open_braces: list[tuple[int, int] | None] = []
    found: list[tuple[int, int, int]] = []
    for match in _BRACES.finditer(text, first.start()):
        mark = match.group()
        if match.group(1):
            open_braces.append((match.start(), match.end()))
        elif mark == "{":
            open_braces.append(None)
        elif mark == "}" and open_braces and (box := open_braces.pop()):
            found.append((box[0], box[1], match.start()))
    return sorted(found, reverse=True)


def _join_run(text: str, boxes: list[tuple[int, int, int]]) -> str:
    """The first of these boxes and those before it in the text, with only `,` or `and` between."""
    run = boxes[:1]
    for box in boxes[1:]:
        gap = text[box[2] + 1 : run[-1][0]]
        if box[2] >= run[-1][0] or len(gap) > MAX_GAP or not _BETWEEN_BOXES.fullmatch(gap):
            break
        run.append(box)
    return ", ".join(text[start:end].strip() for _, start, end in reversed(run))
