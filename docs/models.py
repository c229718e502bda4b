"""Write the table of models.md from the rows of `tests/models/measure.py`; run by `make docs`."""

from __future__ import annotations

import csv
import re
from pathlib import Path

PAGE = Path(__file__).with_name("models.md")
ROWS = Path(__file__).with_name("models.csv")
MARKER = re.compile(r"<!-- models -->\n(?:\n?\|[^\n]*)*")


def table() -> str:
    """The marker and a row per architecture, in the order in which they were measured."""
    with ROWS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([row[name] for name in names] for row in rows)]
    return "\n".join(["<!-- models -->", "", *(f"| {' | '.join(line)} |" for line in lines)])


def filled(page: str) -> str:
    """The page with the table as the rows have it."""
    return MARKER.sub(lambda _: table(), page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
