"""Write the tables of metrics.md from `erclip.runs.metrics.METRICS`; run by `make docs`."""

from __future__ import annotations

import re
from pathlib import Path

from erclip.runs.metrics import METRICS

PAGE = Path(__file__).with_name("metrics.md")
# A marker names the areas whose metrics follow it, up to the next empty line.
MARKER = re.compile(r"<!-- ([a-z_ ]+) -->\n(?:\|[^\n]*\n)*")


def table(areas: str) -> str:
    """The marker and the rows of these areas, in the order in which they are declared."""
    rows = ["| metric | unit | of many values | meaning |", "|---|---|---|---|"]
    for name, metric in METRICS.items():
        area = name.partition("/")[0] if "/" in name else "eval"
        if area in areas.split():
            meaning = metric.meaning.replace("|", "\\|")
            rows.append(f"| `{name}` | {metric.unit} | {metric.reduction} | {meaning} |")
    return "\n".join([f"<!-- {areas} -->", *rows, ""])


def filled(page: str) -> str:
    """The page with every table as the code has it."""
    return MARKER.sub(lambda found: table(found[1]), page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
