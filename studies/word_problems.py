"""Write small arithmetic word problems in GSM8K's format, the same ones every time.

    python studies/word_problems.py word-problems.jsonl

Two steps of addition, subtraction or multiplication with numbers up to 12, no negative number on
the way: about what SmolLM2-135M-Instruct solves once in a few tries within 32 tokens.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Ida", "Jon", "Kim")
THINGS = ("apples", "books", "cards", "coins", "eggs", "pens", "shells", "stamps")
FIRST = {  # the question's first sentence → what there is after it
    "{name} has {a} {things} and buys {b} more.": lambda a, b: a + b,
    "{name} has {a} boxes with {b} {things} each.": lambda a, b: a * b,
    "{name} had {a} {things} and lost {b}.": lambda a, b: a - b,
}
SECOND = {
    "A friend gives {name} {c} more.": lambda n, c: n + c,
    "Then {name} gives away {c}.": lambda n, c: n - c,
}


def problem(draw: random.Random, largest: int) -> dict[str, str]:
    """One row: a question, and its answer behind "####"."""
    while True:
        a, b, c = (draw.randint(2, largest) for _ in range(3))
        first, second = draw.choice(list(FIRST)), draw.choice(list(SECOND))
        before = FIRST[first](a, b)
        after = SECOND[second](before, c)
        if before > 0 and after > 0:
            break
    words = {"name": draw.choice(NAMES), "things": draw.choice(THINGS), "a": a, "b": b, "c": c}
    question = f"{first} {second} How many {{things}} does {{name}} have now?".format(**words)
    return {"question": question, "answer": f"{before}\n#### {after}"}


def main(out: Path, rows: int = 2_000, largest: int = 12) -> None:
    """Write `rows` different problems."""
    draw = random.Random(0)
    found: dict[str, dict[str, str]] = {}
    while len(found) < rows:
        row = problem(draw, largest)
        found[row["question"]] = row
    lines = (json.dumps(row) + "\n" for row in found.values())
    out.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
