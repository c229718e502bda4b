"""The tables of docs/performance.md and docs/numerics.md, from a results folder of `make gpu`.

python benchmarks/gpu/tables.py benchmarks/results/gpu/nvidia-h200_b831fb5
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from statistics import median

Row = dict[str, str]
SHOWN = (
    *("bare matmul", "bare matmul, out in float32", "erclip", "erclip, logits kept"),
    *("erclip, policy loss", "erclip, cuBLAS and an epilogue", "naive", "TRL", "verl, kernel"),
    *("verl, torch", "Liger, chunked log-probs", "Liger, mean cross entropy", "cut-cross-entropy"),
)


def read(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def op_tables(rows: list[Row]) -> None:
    def shape(row: Row) -> tuple[str, ...]:
        return row["dtype"], row["n"], row["d"], row["v"]

    names = ("", "forward, ms", "× bare", "both, ms", "extra MiB", "gradient error", "wrong ERC")
    for key, group in groupby(rows, shape):
        cells = {(row["op"], row["case"]): row for row in group}
        lines = []
        for op in SHOWN:
            forward, both = cells.get((op, "forward"), {}), cells.get((op, "0.0"), {})
            if not (forward.get("median_ms") or both.get("median_ms")):
                continue
            wrong = forward.get("wrong_erc_frac")
            lines.append(
                (
                    op,
                    forward.get("median_ms", "–") or "–",
                    forward.get("of_floor", "") or "–",
                    both.get("median_ms", "–") or "–",
                    both.get("peak_extra_mib", "–") or "–",
                    both.get("gradient_error", "–") or "–",
                    f"{100 * float(wrong):.1f} %" if wrong else "–",
                )
            )
        print(f"\n{' × '.join(key[1:])}, {key[0]}\n\n{table(names, lines)}")
        clipped = [
            cells.get(("erclip", case), {}).get("median_ms") for case in ("0.0", "0.2", "0.6")
        ]
        print(f"\n0, 20 and 60 % of the rows clipped: {clipped}")


def noise_table(rows: list[Row]) -> None:
    names = ("trunk", "head", "lr", "clipped (true)", "wrong", "wrong, H < 0.1")

    def percent(row: Row, name: str) -> str:
        return f"{100 * float(row[name]):.1f} %"

    lines = [
        (
            *(row["trunk"], row["head"], row["lr"]),
            f"{percent(row, 'clipped_frac')} ({percent(row, 'clipped_float64_frac')})",
            *(percent(row, "wrong_frac"), percent(row, "wrong_low_entropy_frac")),
        )
        for row in rows
    ]
    print(f"\n{table(names, lines)}")


def training_table(rows: list[Row]) -> None:
    names = ("method", "trunk", "decoding", "rollouts", "s", "sampling", "old policy", "updates")

    def run(row: Row) -> tuple[str, str, str]:
        return row["method"], row["trunk"], row["decoding"]

    lines = []
    for key, group in groupby(rows, run):
        found = list(group)
        speeds = (
            f"{median(float(row[f'{phase}_tokens_per_s']) for row in found):,.0f}"
            for phase in ("sample", "score", "update")
        )
        seconds = f"{median(float(row['rollout_s']) for row in found):.1f}"
        lines.append((*key, str(len(found)), seconds, *speeds))
    print(f"\n{table(names, lines)}")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    op_tables(read(folder / "head.csv"))
    noise_table(read(folder / "noise.csv"))
    training_table(read(folder / "training.csv"))
