"""The results folder as one page of tables."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from rows import machine

TITLES = {
    "steps": "Steps",
    "unit_tests": "Tests",
    "head": "The head",
    "noise": "Wrong ERC decisions by head and trunk (SmolLM2 against float64)",
    "training": "SmolLM2 on word problems, rollout by rollout",
    "against_trl": "SmolLM2 in TRL and in erclip, seconds per rollout",
    "processes": "Two processes against one",
}


def table(rows: list[dict[str, str]]) -> list[str]:
    """Without the columns that are empty everywhere or that the page's head has."""
    shared = {*machine(), "hardware", "model"}
    names = [n for n in rows[0] if n not in shared and any(row[n] for row in rows)]
    lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    cells = ([row[n].replace("|", "\\|") for n in names] for row in rows)
    return lines + [f"| {' | '.join(row)} |" for row in cells]


def tests_in_short(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """How many ended how, and each one that did not pass."""
    last = {row["test"]: row for row in rows}.values()
    counts = Counter(row["outcome"] for row in last)
    sums = [{"test": "", "outcome": f"{n} {what}", "reason": ""} for what, n in counts.items()]
    rest = [row for row in last if row["outcome"] != "passed"]
    return sums + [{name: row[name] for name in ("test", "outcome", "reason")} for row in rest]


def write_page(out: Path) -> None:
    facts = ", ".join(f"{name} {value}" for name, value in machine().items() if value)
    lines = ["# make gpu", "", facts]
    for name, title in TITLES.items():
        path = out / f"{name}.csv"
        if not path.is_file():
            continue
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        if name == "unit_tests":
            rows = tests_in_short(rows)
        if rows:
            lines += ["", f"## {title}", "", *table(rows)]
    (out / "page.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
