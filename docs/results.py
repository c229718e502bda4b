"""Write the tables of results.md and README.md from `results/`; run by `make docs`.

A marker names a study and one of its tables, and perhaps the methods (all, if none is named):

    <!-- core-8 differences: ERC-DAPO; directional ERC-DAPO -->
"""

from __future__ import annotations

import re
from pathlib import Path

from erclip.report.sheet import Sheet, Table, markdown
from erclip.study.design import read_study
from erclip.study.page import study_tables
from erclip.study.rows import Results

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "docs" / "results.md", ROOT / "README.md")
TABLES = ("best", "differences", "settings", "training")
MARKER = re.compile(rf"<!-- ([\w.-]+) ({'|'.join(TABLES)})(?:: ([^\n]+))? -->\n(?:\|[^\n]*\n)*")


def table(found: re.Match[str]) -> str:
    """The marker and its table, as the rows of the study have it."""
    study, name, methods = found.groups()
    results = Results(read_study(ROOT / "studies" / f"{study}.toml"), ROOT / "results" / study)
    whole = study_tables(results)[TABLES.index(name)]
    chosen = methods.split("; ") if methods else [row[0] for row in whole.rows]
    rows = [row for method in dict.fromkeys(chosen) for row in whole.rows if row[0] == method]
    text = markdown(Sheet("", [], [], [Table("", whole.headings, rows, labels=whole.labels)]))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return "\n".join([found[0].splitlines()[0], *lines, ""])


def filled(page: str) -> str:
    """The page with every table as the rows have it."""
    return MARKER.sub(table, page)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
