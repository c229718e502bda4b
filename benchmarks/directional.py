"""Does a token's own update move its entropy where the directional rule says it will?

    python benchmarks/directional.py benchmarks/results/directional.csv docs/directional.svg

Trains the embedded model off-policy without ERC. Around every update the tokens of its mini-batch
are scored before and after. Predicted is A · ⟨∇ log π(a), ∇H⟩ (exact) or −A (log π(a) + H) (from
the sampled token alone); realised is H after − H before, which the batch's other tokens move too.
Rows: how often the signs agree, by rule and by a bin of entropy, of |predicted| or of ρ, and which
share of Σ |A| (1 − π(a)), the size of the tokens' own gradients, lies in the bin.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import tempfile
from pathlib import Path

import numpy as np
import torch

from erclip.config.recipes import load_recipe
from erclip.pages import canvas
from erclip.runs import series
from erclip.training.trainer import Trainer
from machine import measured_on

RULES = ("exact", "sampled")
COLUMNS = (
    *("date", "commit", "hardware", "setting", "tokens", "by", "bin", "gradient_share"),
    *RULES,
)


def tokens(learning_rate: float, updates: int, rollouts: int) -> dict[str, np.ndarray]:
    """Every scored token of a short run, around the updates that used it."""
    settings = [
        "loss.constraints=[]",
        f"trainer.updates_per_rollout={updates}",
        f"trainer.learning_rate={learning_rate}",
        f"trainer.rollouts={rollouts}",
        "trainer.warmup_updates=0",
    ]
    found: dict[str, list[torch.Tensor]] = {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(load_recipe("quickstart", settings), Path(folder) / "run")
        policy = trainer.policy
        for number in range(1, rollouts + 1):
            trainer.producer.ask(number)
            trainer._begin_rollout()
            rollout = trainer.state.current
            assert rollout is not None
            for mini in rollout.order:
                for scored, new, after in around(trainer, policy, rollout.scored[mini]):
                    mask = scored.batch.mask
                    advantages = scored.batch.advantages[:, None].expand(mask.shape)
                    for name, values in {
                        "advantage": advantages,
                        "slope": new.slopes,
                        "logprob": new.logprobs.detach(),
                        "before": new.entropies,
                        "after": after,
                        "old": scored.old.entropies,
                    }.items():
                        found.setdefault(name, []).append(values[mask])
            trainer.state.current = None
    return {name: torch.cat(values).double().numpy() for name, values in found.items()}


def around(trainer: Trainer, policy, mini):
    """One update; (micro-batch, scores before, entropies after) of each micro-batch."""
    seen = []
    trainer.updater.update(mini, lambda scored, new, out: seen.append((scored, new)))
    with torch.no_grad():
        return [(scored, new, policy.score(scored.batch).entropies) for scored, new in seen]


def agreement(t: dict[str, np.ndarray]) -> tuple[int, list[dict]]:
    """Share of tokens whose realised change has the predicted sign, in bins."""
    exact = t["advantage"] * t["slope"]
    sampled = -t["advantage"] * (t["logprob"] + t["before"])
    realised = t["after"] - t["before"]
    rho = (t["before"] + 1e-8) / (t["old"] + 1e-8)
    use = (t["advantage"] != 0) & (realised != 0)
    size = np.abs(exact)
    gradient = np.abs(t["advantage"]) * (1 - np.exp(t["logprob"]))
    edges = np.quantile(size[use], [0, 0.25, 0.5, 0.75, 0.9, 1])
    bins = {("all", "all"): use}
    for low, high in itertools.pairwise(edges):
        bins[("|predicted|", f"{low:.1e} to {high:.1e}")] = use & (size >= low) & (size <= high)
    for low, high in ((0, 1e-3), (1e-3, 1e-2), (1e-2, 0.1), (0.1, 0.5), (0.5, 10)):
        inside = (t["before"] >= low) & (t["before"] < high)
        bins[("entropy, nats", f"{low:g} to {high:g}")] = use & inside
    bins[("ρ", "inside the band")] = use & (rho > 0.95) & (rho < 1.05)
    bins[("ρ", "below it")] = use & (rho <= 0.95)
    bins[("ρ", "above it")] = use & (rho >= 1.05)
    return int(use.sum()), [
        {
            "by": by,
            "bin": name,
            "tokens": int(where.sum()),
            "gradient_share": f"{gradient[where].sum() / gradient[use].sum():.4f}",
            "exact": f"{np.mean((exact > 0)[where] == (realised > 0)[where]):.4f}",
            "sampled": f"{np.mean((sampled > 0)[where] == (realised > 0)[where]):.4f}",
        }
        for (by, name), where in bins.items()
        if where.sum() >= 100
    ]


def picture(rows: list[dict], out: Path) -> None:
    """Agreement by entropy, one panel per setting, over the share of the gradient."""
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    with canvas.figure(len(settings), wide=True, share_y=True) as (fig, axes):
        for ax, setting in zip(axes, settings, strict=True):
            own = [r for r in rows if r["setting"] == setting and r["by"] == "entropy, nats"]
            x = np.arange(len(own), dtype=float)
            share = [float(row["gradient_share"]) for row in own]
            ax.bar(x, share, width=0.7, color=canvas.MUTED, alpha=0.35)
            for rule, color in zip(RULES, canvas.SERIES, strict=False):
                y = np.array([float(row[rule]) for row in own])
                canvas.draw(ax, series.Curve(x, y), color)
            ax.axhline(0.5, color=canvas.INK, linewidth=0.8, linestyle="--")
            ax.set_xticks(x, [row["bin"].replace(" to ", "–") for row in own], fontsize=7)
            ax.set_title(setting)
            ax.set_xlabel("entropy of the token, nats")
            ax.set_ylim(0, 1)
            canvas.percent_axis(ax)
        axes[0].set_ylabel("share")
        svg = canvas.to_svg(fig, "how often the predicted direction is the realised one")
    keys = (
        canvas.Key("exact slope: direction right", canvas.SERIES[0]),
        canvas.Key("sampled token alone: direction right", canvas.SERIES[1]),
        canvas.Key("bars: share of the gradient (dashed: a coin)", canvas.MUTED),
    )
    out.write_text(canvas.standalone(svg, keys), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("figure", type=Path)
    parser.add_argument("--rollouts", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    common = measured_on()
    everything = []
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for rate, updates in ((1e-4, 8), (1e-4, 32), (3e-4, 32)):
            count, rows = agreement(tokens(rate, updates, args.rollouts))
            setting = f"{updates} updates, learning rate {rate:g}"
            rows = [{**common, "setting": setting, **row} for row in rows]
            writer.writerows(rows)
            everything += rows
            print(f"{setting}: {count} tokens", flush=True)
    picture(everything, args.figure)


if __name__ == "__main__":
    main()
