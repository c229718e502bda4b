"""Draw docs/erc-plot.svg from docs/erc-plot.csv (`make docs`); given runs, write the rows first.

python docs/erc_plot.py runs/float32 runs/bfloat16 runs/far
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from erclip.pages import canvas
from erclip.runs.names import RATIO_QUANTILES
from erclip.runs.read import read_run
from erclip.runs.series import median_by_step

ROWS = Path(__file__).with_name("erc-plot.csv")
PICTURE = ROWS.with_suffix(".svg")
TITLES = {
    "healthy": "float32, 1e-4, 8 updates: what it is made for",
    "noise": "the same in bfloat16: rounding",
    "far": "3e-4, 32 updates: too far",
}
BANDS = ((1, 99), (5, 95), (25, 75))
"""Pairs of quantiles, from the outermost."""
COLOR = canvas.SERIES[0]

Rows = dict[str, dict[int, dict[str, float]]]
"""Run → update → quantile or share clipped."""


def record(folders: Sequence[Path]) -> None:
    """One row per run and update: quantiles of ρ and the share that ERC clips, over rollouts."""
    columns = {f"q{q:02d}": name for q, name in RATIO_QUANTILES.items()}
    columns["clipped"] = "clip/erc_frac"
    with ROWS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["run", "update", *columns])
        for name, folder in zip(TITLES, folders, strict=True):
            run = read_run(folder)
            curves = [median_by_step(run, metric) for metric in columns.values()]
            for update, *values in zip(curves[0].x, *(curve.y for curve in curves), strict=True):
                writer.writerow([name, int(update), *(f"{value:.5g}" for value in values)])


def rows() -> Rows:
    """What was recorded."""
    found: Rows = {}
    with ROWS.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            name, update = row.pop("run"), int(row.pop("update"))
            found.setdefault(name, {})[update] = {key: float(value) for key, value in row.items()}
    return found


def drawn() -> str:
    """The picture: the bands of ρ above, the share that ERC clips below, a column per run."""
    found = rows()
    with canvas.figure(6, wide=True) as (fig, axes):
        for column, (name, title) in enumerate(TITLES.items()):
            curves = found[name]
            updates = np.array(list(curves), dtype=float)
            _trumpet(axes[column], updates, list(curves.values()))
            axes[column].set_title(title, loc="left")
            _clipped(axes[column + 3], updates, [row["clipped"] for row in curves.values()])
        axes[0].set_ylabel("entropy ratio ρ")
        axes[3].set_ylabel("tokens that ERC clips")
        for ax, number, update in (
            (axes[0], 1, 1),
            (axes[0], 2, 7),
            (axes[1], 3, 2),
            (axes[2], 4, 20),
        ):
            _mark(ax, number, update)
        svg = canvas.to_svg(fig, "entropy ratios of three runs by update within a rollout")
    legend = (
        canvas.Key("median", COLOR),
        canvas.Key("25–75 %, 5–95 %, 1–99 % of the tokens", COLOR, "middle"),
        canvas.Key("ERC's band", canvas.INK, "dashed"),
    )
    return canvas.standalone(svg, legend)


def _trumpet(ax: Axes, updates: np.ndarray, curves: list[dict[str, float]]) -> None:
    for low, high in BANDS:
        bottom, top = (np.array([row[f"q{q:02d}"] for row in curves]) for q in (low, high))
        canvas.band(ax, updates, bottom, top, COLOR)
    ax.plot(updates, [row["q50"] for row in curves], color=COLOR, linewidth=1.8)
    for edge in (0.95, 1.05):
        ax.axhline(edge, color=canvas.INK, linestyle=canvas.DASHES["dashed"], linewidth=1.1)
    canvas.rollout_axis(ax, 1, float(updates.max()), "update within a rollout")
    ax.set_ylim(0.7, 1.3)


def _clipped(ax: Axes, updates: np.ndarray, shares: list[float]) -> None:
    ax.plot(updates, shares, color=COLOR, linewidth=1.8)
    canvas.rollout_axis(ax, 1, float(updates.max()), "update within a rollout")
    canvas.percent_axis(ax)
    ax.set_ylim(0, 1)


def _mark(ax: Axes, number: int, update: int) -> None:
    """The number of a paragraph of the page, where it looks."""
    box = {"boxstyle": "circle", "facecolor": "none", "edgecolor": canvas.INK}
    ax.text(update, 1.24, str(number), ha="center", va="center", color=canvas.INK, bbox=box)
    ax.axvline(
        update, ymax=0.84, color=canvas.MUTED, linewidth=0.8, linestyle=canvas.DASHES["dotted"]
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        record([Path(folder) for folder in sys.argv[1:]])
    PICTURE.write_text(drawn(), encoding="utf-8")
