"""Why training breaks: which tokens carry the gradient, what a rule takes of it, how a run drifts.

    python benchmarks/mechanism.py benchmarks/results

Trains the embedded model as studies/frontier.toml does at one learning rate, with right verdicts
and with coin flips, and watches every token of every update. `mechanism.csv` has a row per run and
quarter of the tokens, by the sign of the advantage A and of dH = A · ⟨∇ log π(a), ∇H⟩, where the
token's own update moves its entropy: their share of the tokens, of Σ |A| (1 − π(a)), the size of
their gradients, and of that what ERC and the directional rule would take (`back`: what ERC alone
would); `predicted` is dH as a share of Σ |dH|. `drift.csv` has a row per run and rollout: how far
the weights are from the start, how long their way was, and KL.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from erclip.config.recipes import load_recipe
from erclip.losses import entropy_ratio_clip
from erclip.losses.types import LossInputs
from erclip.training.trainer import Trainer
from machine import measured_on

REGIMES = {"clean": 0.0, "coin flips": 0.5}
RULES = {
    "DAPO": [],
    "ERC-DAPO": ["loss.constraints=['entropy_ratio_clip']"],
    "directional ERC-DAPO": [
        "loss.constraints=[{kind = 'entropy_ratio_clip', rule = 'directional'}]"
    ],
    "DAPO, KL 0.1": ["loss.kl={weight = 0.1}"],
}
SETTINGS = (
    *("rollout.prompts=32", "rollout.dynamic_sampling=off", "trainer.updates_per_rollout=16"),
    *("trainer.rollouts=12", "trainer.saved_samples=0", "loss.constraints=[]"),
    *("eval.every=4", "eval.prompts=0", "eval.responses=4"),
)
QUARTERS = tuple(itertools.product(("A > 0", "A < 0"), ("H up", "H down")))
ERC = {"paper": entropy_ratio_clip(), "directional": entropy_ratio_clip(rule="directional")}
RUN = ("date", "commit", "hardware", "regime", "method", "learning_rate", "seed")
TOKENS = ("advantage", "entropy", "tokens", "gradient", *ERC, "back", "predicted")
DRIFT = ("rollout", "distance", "path", "turn", "entropy", "kl_old")


class Watcher:
    """Sums over a run's tokens by quarter, and the way of its weights."""

    def __init__(self, policy) -> None:
        self.policy = policy
        self.sums = {quarter: dict.fromkeys(TOKENS[2:], 0.0) for quarter in QUARTERS}
        self.start = self.last = self.weights()
        self.path, self.step, self.way = 0.0, None, []

    def weights(self) -> Tensor:
        """All trained weights in one vector."""
        trained = (p for p in self.policy.model.parameters() if p.requires_grad)
        return torch.cat([p.detach().flatten().clone() for p in trained])

    def begin(self, rollout) -> None:
        """A rollout is about to be trained on."""
        self.before = self.last
        self.entropy, self.kl, self.count = 0.0, 0.0, 0

    @contextmanager
    def update(self, update: int, update_in_rollout: int) -> Generator[Callable[..., None]]:
        """Around every update."""
        yield self.see
        now = self.weights()
        self.path += float((now - self.last).norm())
        self.last = now

    def end(self) -> None:
        """The rollout's last update is done."""
        step = self.last - self.before
        turn = ""
        if self.step is not None:
            turn = f"{float(torch.cosine_similarity(step, self.step, dim=0)):.4f}"
        self.step = step
        self.way.append(
            {
                "rollout": len(self.way) + 1,
                "distance": f"{float((self.last - self.start).norm()):.5g}",
                "path": f"{self.path:.5g}",
                "turn": turn,
                "entropy": f"{self.entropy / self.count:.5g}",
                "kl_old": f"{self.kl / self.count:.5g}",
            }
        )

    @torch.no_grad()
    def see(self, scored, new, out) -> None:
        """The tokens of a micro-batch, before the update that they make."""
        mask = scored.batch.mask
        inputs = LossInputs(
            logprobs=new.logprobs.detach(),
            old_logprobs=scored.old.logprobs,
            advantages=scored.batch.advantages[:, None].expand(mask.shape),
            mask=mask,
            ratio=out.ratio,
            entropies=new.entropies,
            old_entropies=scored.old.entropies,
            entropy_slopes=new.slopes,
        )
        taken = {
            name: sides["erc_low"] | sides["erc_high"]
            for name, sides in ((name, rule(inputs).clipped) for name, rule in ERC.items())
        }
        self.entropy += float(new.entropies[mask].sum())
        self.kl += float((out.ratio - 1 - out.ratio.log())[mask].sum())
        self.count += int(mask.sum())
        gain = inputs.advantages * new.slopes
        size = inputs.advantages.abs() * (1 - inputs.logprobs.exp())
        for (sign, direction), sums in self.sums.items():
            own = (inputs.advantages > 0) if sign == "A > 0" else (inputs.advantages < 0)
            own = mask & own & ((gain > 0) if direction == "H up" else (gain < 0))
            sums["tokens"] += int(own.sum())
            sums["gradient"] += float(size[own].sum())
            sums["predicted"] += float(gain[own].sum())
            for name, tokens in taken.items():
                sums[name] += float(size[own & tokens].sum())
            sums["back"] += float(size[own & taken["paper"] & ~taken["directional"]].sum())


def watch(settings: list[str]) -> Watcher:
    """One whole run."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(load_recipe("quickstart", settings), Path(folder) / "run")
        trainer.recorder = watcher = Watcher(trainer.policy)
        trainer.train()
    return watcher


def shares(watcher: Watcher) -> list[dict]:
    """Of all tokens, of all gradient, and of all that moves an entropy: each quarter's part."""
    tokens = sum(sums["tokens"] for sums in watcher.sums.values())
    gradient = sum(sums["gradient"] for sums in watcher.sums.values())
    moved = sum(abs(sums["predicted"]) for sums in watcher.sums.values())
    whole = {"tokens": tokens, "predicted": moved}
    return [
        {
            "advantage": sign,
            "entropy": direction,
            **{key: f"{sums[key] / whole.get(key, gradient):.5f}" for key in TOKENS[2:]},
        }
        for (sign, direction), sums in watcher.sums.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    with (
        (args.out / "mechanism.csv").open("w", newline="", encoding="utf-8") as tokens_file,
        (args.out / "drift.csv").open("w", newline="", encoding="utf-8") as drift_file,
    ):
        tokens = csv.DictWriter(tokens_file, (*RUN, *TOKENS), lineterminator="\n")
        drift = csv.DictWriter(drift_file, (*RUN, *DRIFT), lineterminator="\n")
        tokens.writeheader()
        drift.writeheader()
        runs = itertools.product(range(args.seeds), REGIMES.items(), RULES.items())
        for seed, (regime, flip), (method, loss) in runs:
            rate = args.learning_rate
            row = {**measured_on(), "regime": regime, "method": method, "seed": seed}
            row["learning_rate"] = f"{rate:g}"
            changes = (f"reward.flip={flip}", f"trainer.learning_rate={rate}")
            watcher = watch([*SETTINGS, *changes, f"trainer.seed={seed}", *loss])
            tokens.writerows({**row, **share} for share in shares(watcher))
            drift.writerows({**row, **way} for way in watcher.way)
            print(regime, method, f"seed {seed}", sep=", ", flush=True)


if __name__ == "__main__":
    main()
