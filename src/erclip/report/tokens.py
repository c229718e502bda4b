"""tokens.jsonl → what the page's token view shows: one JSON text per response.

The numbers stay numbers: the script colours tokens, so the page holds each response once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from erclip.runs import words
from erclip.runs.metrics import CORE_RULES
from erclip.runs.read import Row, Run

TOKENS_SHOWN = 400_000  # of one page: about 16 MB of numbers and text
_NUMBERS = {"old_entropies": "h", "old_logprobs": "p", "new_entropies": "h2", "new_logprobs": "p2"}


@dataclass(frozen=True)
class TokenView:
    """Responses as JSON that is safe inside <script>, and the words above them."""

    responses: Sequence[Markup]
    left_out: int
    more_rules: bool  # than those that every run has


def token_view(runs: Sequence[Run]) -> TokenView:
    """Choose responses until the page is full: the last rollout, the first, then the others."""
    found = [(index, row) for index, run in enumerate(runs) for row in run.tokens]
    shown, total = [], 0
    for index, row in sorted(found, key=lambda pair: _rank(runs[pair[0]], pair[1])):
        total += len(row["pieces"])
        if total <= TOKENS_SHOWN:
            shown.append((index, row))
    shown.sort(key=lambda pair: (pair[0], pair[1]["rollout"]))
    return TokenView(
        responses=[htmlsafe_json_dumps(_response(index, row)) for index, row in shown],
        left_out=len(found) - len(shown),
        more_rules=any(row.get("rules") for _, row in shown),
    )


def _are_numbers(values: Any) -> TypeGuard[list[float]]:
    return isinstance(values, list) and all(isinstance(value, int | float) for value in values)


def _rank(run: Run, row: Row) -> int:
    rollouts = [other["rollout"] for other in run.tokens]
    return {max(rollouts): 0, min(rollouts): 1}.get(row["rollout"], 2)


def _response(index: int, row: Row) -> dict[str, object]:
    pieces = [words.printable(piece) for piece in row["pieces"]]
    fired = row.get("fired") if _are_numbers(row.get("fired")) else None
    item: dict[str, object] = {
        "run": index,
        "rollout": row["rollout"],
        "update": row.get("update_in_rollout"),
        "outcome": words.outcome(row),
        "id": words.printable(row.get("prompt_id")),
        "prompt": words.printable(row.get("prompt")),
        "answer": words.printable(row.get("answer")),
        "gold": words.printable(row.get("gold")),
        "reward": row.get("reward"),
        "advantage": row.get("advantage"),
        "clipped": sum(map(bool, fired)) / len(fired) if fired else None,
        "t": pieces,
    }
    for name, short in _NUMBERS.items():
        values = row.get(name)
        if _are_numbers(values) and len(values) == len(pieces):
            item[short] = values
    if fired and len(fired) == len(pieces):
        item["f"] = fired
        item["r"] = [words.rule(name) for name in row.get("rules") or CORE_RULES]
    return item
