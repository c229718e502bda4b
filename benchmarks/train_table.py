"""The recorded rows of the trainer as the Markdown and the plot of docs/performance.md.

python benchmarks/train_table.py [docs/training-cost.png]
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator

RESULTS = Path(__file__).parent / "results"
PARTS = (("sample_s", "sampling"), ("score_s", "old policy"), ("update_s", "updates"))
COLOURS = ("#0072b2", "#e69f00", "#009e73")
AXES = {  # what is multiplied → its size at × 1, unit, degree of the fit
    "responses": (512, "responses a rollout", 1),
    "length": (24, "tokens a response, all of that length", 2),
    "vocabulary": (20, "vocabulary", 1),
}


def rows(name: str) -> list[dict]:
    with (RESULTS / name).open() as file:
        return list(csv.DictReader(file))


def systems(table: list[dict]) -> str:
    """One line per set-up and system, and each as a multiple of erclip."""
    lines = [
        "| set-up | system | rounds | CPU s a rollout (range) | × erclip "
        "| sampling, old policy, updates | tokens per CPU s | peak RSS, MiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    ours = {row["setup"]: float(row["rollout_cpu_s"]) for row in table if row["system"] == "erclip"}
    for row in table:
        if row["skipped"]:
            lines.append(
                f"| {row['setup']} | {row['system']} | 0 | skipped: {row['skipped']} | | | | |"
            )
            continue
        seconds = float(row["rollout_cpu_s"])
        spread = f"{row['rollout_cpu_min_s']}–{row['rollout_cpu_max_s']}"
        cells = (
            row["setup"],
            row["system"],
            row["rounds"],
            f"{seconds:.3g} ({spread})",
            f"{seconds / ours[row['setup']]:.2f}",
            ", ".join(f"{share:.0%}" for share in shares(row)),
            f"{float(row['tokens_per_cpu_s']):,.0f}",
            f"{float(row['peak_rss_mib']):,.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def shares(row: dict) -> list[float]:
    """Of the time of a rollout; wall seconds of one process, so shares of the same thing."""
    parts = [float(row[key]) for key, _ in PARTS]
    return [part / sum(parts) for part in parts]


def curve(table: list[dict], axis: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(sizes, CPU seconds, coefficients of the fit, lowest power first), relative errors fitted."""
    size, _, degree = AXES[axis]
    found = [row for row in table if row["change"].startswith(axis) and not row["skipped"]]
    x = np.array([size * int(row["change"].split("× ")[1]) for row in found], float)
    y = np.array([float(row["rollout_cpu_s"]) for row in found])
    powers = np.stack([x**k for k in range(degree + 1)], 1) / y[:, None]
    return x, y, np.linalg.lstsq(powers, np.ones_like(y), rcond=None)[0]


def bend(coefficients: np.ndarray) -> float:
    """Where the highest power costs as much as all below it; NaN where it never does."""
    *low, high = coefficients
    roots = np.roots([high, *(-c for c in reversed(low))])
    real = [root.real for root in roots if abs(root.imag) < 1e-9 and root.real > 0]
    return max(real, default=float("nan"))


def curves(table: list[dict]) -> str:
    lines = ["| varied | CPU s a rollout | fit | bend |", "| --- | --- | --- | --- |"]
    for axis, (_, unit, _) in AXES.items():
        x, y, fit = curve(table, axis)
        points = ", ".join(
            f"{size:,.0f}: {seconds:.3g}" for size, seconds in zip(x, y, strict=True)
        )
        terms = " + ".join(f"{c:.3g}{('', '·x', '·x²')[k]}" for k, c in enumerate(fit))
        lines.append(f"| {unit} | {points} | {terms} | {bend(fit):,.0f} |")
    return "\n".join(lines)


def plot(table: list[dict], cost: list[dict], out: Path) -> None:
    figure, axes = plt.subplot_mosaic(
        [["bars"] * len(AXES), list(AXES)],
        figsize=(11, 7.5),
        height_ratios=(1.3, 1),
        layout="constrained",
    )
    bars(axes["bars"], [row for row in table if not row["skipped"]])
    for name, (_, unit, _) in AXES.items():
        axis, (x, y, fit) = axes[name], curve(cost, name)
        dense = np.geomspace(x[0], x[-1], 100)
        axis.plot(dense, sum(c * dense**k for k, c in enumerate(fit)), color="#999", label="fit")
        axis.plot(x, y, "o", color=COLOURS[0], label="measured")
        axis.set(xscale="log", yscale="log", xlabel=unit, title=f"Cost of {name}, embedded")
        axis.set_xticks(x, [f"{size:,.0f}" for size in x], fontsize=8)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
        axis.set_ylim(y.min() / 2, y.max() * 2)
        axis.legend(frameon=False, loc="upper left")
        axis.set_ylabel("CPU s a rollout")
    for axis in axes.values():
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110, facecolor="white")


def bars(axis, table: list[dict]) -> None:
    """CPU seconds as multiples of erclip's, each split by what the time went into."""
    ours = {row["setup"]: float(row["rollout_cpu_s"]) for row in table if row["system"] == "erclip"}
    names = [f"{row['setup']}: {row['system']}" for row in table]
    multiples = np.array([float(row["rollout_cpu_s"]) / ours[row["setup"]] for row in table])
    left = np.zeros(len(table))
    for part, (colour, (_, label)) in enumerate(zip(COLOURS, PARTS, strict=True)):
        width = multiples * np.array([shares(row)[part] for row in table])
        axis.barh(names, width, left=left, color=colour, label=label)
        left += width
    for place, (multiple, row) in enumerate(zip(multiples, table, strict=True)):
        seconds = float(row["rollout_cpu_s"])
        axis.text(multiple, place, f" {multiple:.2f} ({seconds:.3g} s)", va="center", fontsize=9)
    axis.invert_yaxis()
    axis.set(xlabel="CPU time of a rollout, erclip = 1", xlim=(0, multiples.max() * 1.15))
    axis.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def main(out: Path) -> None:
    table, cost = rows("train.csv"), rows("train_curve.csv")
    for key in ("hardware", "threads", "commit", "date", "versions"):
        print(f"{key}: {'; '.join(sorted({row[key] for row in table if row[key]}))}")
    print(f"\n{systems(table)}\n\n{curves(cost)}")
    for row in rows("train_floor.csv"):
        print(f"\n{row['setup']}: of the floor {row['of_floor']}, of no ERC {row['of_no_erc']}")
    plot(table, cost, out)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/training-cost.png"))
