"""Recorded rows of the head as Markdown: one table for each dtype and shape of each file.

python benchmarks/op_table.py benchmarks/results/op/*.csv
"""

from __future__ import annotations

import csv
import sys
from itertools import groupby
from pathlib import Path


def work(row: dict) -> tuple[str, ...]:
    return row["dtype"], row["n"], row["d"], row["v"]


def key(row: dict) -> tuple[str, str]:
    return row["case"], row["clipped_frac"]


def table(rows: list[dict]) -> str:
    timed = [row for row in rows if not row["skipped"]]
    naive = {key(row): row for row in timed if row["op"] == "naive"}
    first = timed[0]
    lines = [
        f"{first['dtype']}, N = {first['n']}, D = {first['d']}, V = {first['v']}; "
        f"{first['hardware']}, {first['threads']} thread, torch {first['torch']}, "
        f"{first['rounds']} rounds, commit {first['commit']}, {first['date']}",
        "",
        "| op | pass | clipped | CPU s, median (quartiles) | of naive | peak extra MiB | H |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in timed:
        base = naive.get((row["case"], row["clipped_frac"] and "0.0"))
        ratio = float(row["cpu_median_s"]) / float(base["cpu_median_s"]) if base else float("nan")
        clipped = f"{float(row['clipped_frac']):.0%}" if row["clipped_frac"] else ""
        spread = f"{row['cpu_median_s']} ({row['cpu_q25_s']}–{row['cpu_q75_s']})"
        name = f"{row['op']} {row['version']}" if row["op"] not in ("naive",) else row["op"]
        entropy = "yes" if row["entropy"] == "True" else "no"
        cells = (name, row["case"], clipped, spread, f"{ratio:.2f}", row["peak_extra_mib"], entropy)
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"Skipped: {r['op']} ({r['skipped']})" for r in rows if r["skipped"])]
    return "\n".join(lines)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        lines = Path(name).read_text().splitlines()
        for _, rows in groupby(csv.DictReader(lines), work):
            print(table(list(rows)), end="\n\n")
