"""Draw docs/loop.svg: who does what when, in turns, behind, and beside each other; `make docs`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

PICTURE = Path(__file__).with_name("loop.svg")
SAMPLE_S, TRAIN_S = 1.0, 1.4
INK, COLORS = "#444444", {"samples": "#8fb8de", "trains": "#f0b37e"}


class Block(NamedTuple):
    """Rollout `number` is sampled or trained on from `start` on; `version` is what samples it."""

    work: str
    number: int
    start: float
    version: int = 0


def in_turns(staleness: int, rollouts: int) -> list[Block]:
    """One after the other; rollout n + staleness + 1 follows the updates of rollout n."""
    blocks, now = [], 0.0
    for number in range(1, rollouts + 1):
        ahead = range(1, staleness + 2) if number == 1 else [number + staleness]
        for sampled in ahead:
            if sampled <= rollouts:
                blocks.append(Block("samples", sampled, now, number - 1))
                now += SAMPLE_S
        blocks.append(Block("trains", number, now))
        now += TRAIN_S
    return blocks


def beside(staleness: int, rollouts: int) -> list[Block]:
    """Both at once; rollout n + staleness waits until rollout n is begun."""
    blocks, free, done = [], 0.0, {0: 0.0}
    begun: dict[int, float] = {}
    for number in range(1, rollouts + 1):
        start = max(free, begun.get(number - staleness, 0.0))
        free = start + SAMPLE_S
        version = max(n for n, end in done.items() if end <= start)
        blocks.append(Block("samples", number, start, version))
        begun[number] = max(free, done[number - 1])
        done[number] = begun[number] + TRAIN_S
        blocks.append(Block("trains", number, begun[number]))
    return blocks


def draw(ax: Axes, blocks: list[Block], title: str) -> None:
    """One schedule: the sampler's lane above the trainer's."""
    for block in blocks:
        samples = block.work == "samples"
        length, y = (SAMPLE_S, 1.0) if samples else (TRAIN_S, 0.0)
        ax.barh(y, length, 0.8, block.start, color=COLORS[block.work], edgecolor="white")
        text = (
            f"{block.number}\nby θ{block.version}"
            if samples
            else f"{block.number} → θ{block.number}"
        )
        ax.text(block.start + length / 2, y, text, ha="center", va="center", fontsize=8, color=INK)
    ax.set_title(title, loc="left", fontsize=9, color=INK)
    ax.set_yticks([1.0, 0.0], ["samples", "trains"], fontsize=8, color=INK)
    ax.set_xticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.tick_params(length=0)


def main() -> None:
    """Write the picture; the same bytes every time."""
    plt.rcParams |= {"svg.hashsalt": "loop", "svg.fonttype": "none", "font.family": "sans-serif"}
    rows = (
        (in_turns(0, 5), "staleness = 0: in turns, every rollout by the newest weights"),
        (
            in_turns(1, 5),
            "staleness = 1: in turns, but one rollout behind; the same bits every time",
        ),
        (beside(1, 5), "staleness = 1, overlap = true: both at once"),
    )
    figure, axes = plt.subplots(len(rows), 1, figsize=(8.6, 4.2), sharex=True)
    for ax, (blocks, title) in zip(axes, rows, strict=True):
        draw(ax, blocks, title)
    axes[-1].set_xlabel("time; θn are the weights after rollout n's updates", fontsize=8, color=INK)
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
