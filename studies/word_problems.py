"""Write small arithmetic word problems in GSM8K's format, the same ones every time.

    python studies/word_problems.py word-problems.jsonl

One step of addition, subtraction or multiplication of numbers from 2 to 20 (factors to 9).
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Ida", "Jon", "Kim")
THINGS = ("apples", "books", "cards", "coins", "eggs", "pens", "shells", "stamps")
ROWS = 1_500


def problem(draw: random.Random) -> dict[str, str]:
    """One row: a question, and its answer behind "####"."""
    small, large = sorted(draw.sample(range(2, 21), 2))
    left, right = draw.randint(2, 9), draw.randint(2, 9)
    said, worked, answer = draw.choice(
        (
            ("has {1} {0} and buys {2} more", f"{large}+{small}", large + small),
            ("had {1} {0} and lost {2}", f"{large}-{small}", large - small),
            ("has {3} boxes with {4} {0} each", f"{left}*{right}", left * right),
        )
    )
    name, things = draw.choice(NAMES), draw.choice(THINGS)
    said = said.format(things, large, small, left, right)
    return {
        "question": f"{name} {said}. How many {things} does {name} have now?",
        "answer": f"{worked}={answer}\n#### {answer}",
    }


def main(out: Path) -> None:
    """Write `ROWS` different problems."""
    draw = random.Random(0)
    rows: dict[str, dict[str, str]] = {}
    while len(rows) < ROWS:
        row = problem(draw)
        rows[row["question"]] = row
    out.write_text("".join(json.dumps(row) + "\n" for row in rows.values()), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
