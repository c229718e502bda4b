"""Write the tables of results.md and README.md from `results/`; run by `make docs`.

A marker names a study and one of its tables, and perhaps the methods (all, if none is named):

    <!-- core-8 differences: ERC-DAPO; directional ERC-DAPO -->
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from erclip.report.sheet import Table, markdown_table
from erclip.study.design import read_study
from erclip.study.page import study_tables
from erclip.study.results import read
from erclip.study.rows import Results

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "docs" / "results.md", ROOT / "README.md")
TABLES = ("best", "differences", "settings", "training")
MARKER = re.compile(rf"<!-- ([\w.-]+) ({'|'.join(TABLES)})(?:: ([^\n]+))? -->\n(?:\|[^\n]*\n)*")


@cache
def tables(study: str) -> Mapping[str, Table]:
    """A study's tables by name."""
    results = Results(read_study(ROOT / "studies" / f"{study}.toml"), ROOT / "results" / study)
    return dict(zip(TABLES, study_tables(read(results)), strict=True))


def table(found: re.Match[str]) -> str:
    """The marker and its table, as the rows of the study have it."""
    study, name, methods = found.groups()
    whole = tables(study)[name]
    chosen = methods.split("; ") if methods else [row[0] for row in whole.rows]
    rows = [row for method in dict.fromkeys(chosen) for row in whole.rows if row[0] == method]
    marker = found[0].splitlines()[0]
    return f"{marker}\n{markdown_table(replace(whole, rows=rows))}\n"


def filled(page: str) -> str:
    """The page with every table as the rows have it."""
    return MARKER.sub(table, page)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
