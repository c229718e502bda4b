"""Write the tables of rules.md from the docstrings of parts and the studies' rows, draw rules.png.

Run by `make docs`.
"""

from __future__ import annotations

import csv
import functools
import inspect
import re
import textwrap
from collections import defaultdict
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

import erclip
from erclip import MiniBatchRule, policy_loss, reinforce
from erclip.config import LossConfig
from erclip.study.design import Study, read_study

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path(__file__).with_name("rules.md")
PICTURE = Path(__file__).with_name("rules.png")
MARKER = re.compile(r"<!-- ([a-z]+) -->\n(?:\|[^\n]*\n)*")
ROLES = {
    "surrogates": erclip.Surrogate,
    "constraints": erclip.Constraint,
    "importance": erclip.Importance,
    "terms": erclip.Term,
}
REQUIRED = {  # what a part without a default is shown with
    "rate": 0.2, "weight": 0.1, "threshold": 0.1, "target": 0.2, "step": 0.005, "low": 0.0,
    "high": 0.1,
}  # fmt: skip
SHIPPED = {
    "ppo_clip": "everywhere", "gppo_clip": "–", "ce_gppo_clip": "–", "gspo_clip": "most",
    "cispo_clip": "most", "sapo": "verl, TRL", "reinforce": "everywhere",
    "spo": "torchrl (to do)", "drpo": "UniRL", "truncated_reinforce": "verl, SkyRL",
    "dgpo": "its authors", "aspo": "its authors", "gmpo": "verl, TRL", "vespo": "TRL, unsloth",
    "bandpo": "its authors", "entropy_ratio_clip": "–", "random_mask": "–",
    "shuffled_erc": "–",
    "dppo_tv": "verl, SkyRL, prime-rl", "dppo_kl": "verl, SkyRL", "ipo": "prime-rl",
    "kpop": "AReaL", "m2po": "AReaL, Trinity", "sequence_mask": "verl, SkyRL",
    "off_policy_sequence_mask": "TRL, slime", "top_entropy": "TRL, ms-swift",
    "clip_cov": "verl, SkyRL", "clip_b": "Trinity", "clip_v": "Trinity",
    "truncated_importance": "most", "masked_importance": "most",
    "icepop": "prime-rl, OpenRLHF, NeMo-RL", "positive_nll": "ERC's reference code",
    "kl_penalty": "everywhere", "entropy_bonus": "everywhere",
    "log_ratio_penalty": "prime-rl, Kimi", "kl_cov": "verl, SkyRL", "adaptive_entropy": "TRL",
    "score_centering": "prime-rl, torchtitan, NeMo-RL",
}  # fmt: skip
PUBLISHED = {
    "dppo_tv": "SkyRL: better overall than dual clip with clip-higher",
    "m2po": "1.22 → 0.06 % clipped at staleness 256; others saw it fail on long MoE runs",
    "sequence_mask": "SkyRL: held where truncated importance weights blew up",
    "dgpo": "its own table, 1.5B: GRPO 48.4, GPPO 45.6, CE-GPPO 49.2, DGPO 52.7",
    "score_centering": "0.6B to 30B: as good as importance weights or better under quantisation, "
    "and better with them when stale; about a tie at SkyRL",
    "entropy_ratio_clip": "its paper's, at 1.5B and 7B",
}
"""What others measured, where we have read it; every paper finds its own rule good."""


def parts(role: type) -> list[type]:
    """The parts of a role, in the order of their names."""
    found = [getattr(erclip, name) for name in erclip.__all__]
    return sorted(
        (
            p
            for p in found
            if isinstance(p, type) and issubclass(p, role) and not inspect.isabstract(p)
        ),
        key=lambda part: part.__name__,
    )


def example(part: type) -> Any:
    """The part as its defaults make it; the k2_max mask and the like need no example here."""
    given = {
        f.name: REQUIRED[f.name]
        for f in fields(part)
        if f.init and f.default is MISSING and f.default_factory is MISSING
    }
    return part(**given)


def cost(part: Any) -> str:
    """What it takes beyond log-probs: other inputs, statistics, a forward pass."""
    if "top_logprobs" in part.needs:
        return "the sampler's likeliest tokens, kept and scored again"
    if isinstance(part, MiniBatchRule):
        return "a forward pass" if part.measures_current else "once per mini-batch"
    return "–"


@functools.cache
def studies_of_rules() -> dict[str, set[str]]:
    """Rule → studies that have rows in results/ of a loss with it."""
    found: dict[str, set[str]] = defaultdict(set)
    for rows in sorted((ROOT / "results").glob("*/runs.csv")):
        file = ROOT / "studies" / f"{rows.parent.name}.toml"
        if not file.exists():
            continue
        study = read_study(file)
        kinds = {method.name: kinds_of(study, method.name) for method in study.methods}
        with rows.open(encoding="utf-8", newline="") as lines:
            for method in {row["method"] for row in csv.DictReader(lines)}:
                for kind in kinds.get(method, ()):
                    found[kind].add(rows.parent.name)
    return found


def kinds_of(study: Study, method: str) -> set[str]:
    """The rules in the loss of a study's method."""
    cell = next(cell for cell in study.cells() if cell.method == method)
    loss: LossConfig = study.config(cell, 0.1).loss
    terms = {"positive_nll": loss.positive_nll, "kl_penalty": loss.kl}
    terms |= {"entropy_bonus": loss.entropy_bonus}
    own = {name for name, value in terms.items() if value}
    rules = [loss.surrogate, *loss.constraints, *loss.terms]
    return own | {rule.kind for rule in [*rules, loss.importance] if rule is not None}


def evidence(studies: set[str]) -> str:
    """Where we have run a rule."""
    if len(studies) > 4:
        return f"{len(studies)} studies"
    return ", ".join(sorted(studies)) or "none"


def table(role: str) -> str:
    """The marker and a row per part."""
    rows = [
        "| rule | what it does | needs | costs | ships in | published | our studies |",
        "|---|---|---|---|---|---|---|",
    ]
    studies = studies_of_rules()
    for part in parts(ROLES[role]):
        made = example(part)
        line = (part.__doc__ or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
        line = re.sub(r"\s+", " ", line).strip()
        names = sorted(n for n in made.needs if n != "live_entropies")
        needs = ", ".join(f"`{name}`" for name in names) or "–"
        name = part.__name__
        told = f"{SHIPPED[name]} | {PUBLISHED.get(name, '–')} | {evidence(studies[name])}"
        rows.append(f"| `{name}` | {line} | {needs} | {cost(made)} | {told} |")
    return "\n".join([f"<!-- {role} -->", *rows, ""])


def filled(page: str) -> str:
    """The page with every table as the code has it."""
    return MARKER.sub(lambda found: table(found[1]), page)


# The picture --------------------------------------------------------------------------------------

SIZE = 160
GRID = torch.linspace(0.004, 0.996, SIZE, dtype=torch.float64)
SHOWN = [
    erclip.ppo_clip(), erclip.gppo_clip(), erclip.ce_gppo_clip(), erclip.cispo_clip(0.2, 0.28),
    erclip.sapo(), erclip.spo(), erclip.drpo(0.2, anchor="old"), erclip.dgpo(), erclip.aspo(),
    erclip.bandpo("tv"), erclip.bandpo("kl"), erclip.truncated_reinforce(20.0, anchor="old"),
    erclip.dppo_tv(anchor="old"), erclip.dppo_kl(anchor="old"), erclip.ipo(anchor="old"),
    erclip.kpop(anchor="old"), erclip.entropy_ratio_clip(0.2, 0.2),
    erclip.entropy_ratio_clip(0.2, 0.2, rule="directional"),
    erclip.entropy_ratio_clip(0.2, 0.2, rule="directional", softness=0.2),
]  # fmt: skip


def weights(part: Any, sign: float) -> torch.Tensor:
    """d objective / d log π divided by A, [now, before]: probabilities, or entropies for ERC."""
    before, now = torch.meshgrid(GRID, GRID, indexing="xy")
    erc = isinstance(part, erclip.entropy_ratio_clip)
    surrogate = isinstance(part, erclip.Surrogate)
    flat = torch.full_like(now, 0.5)
    logprobs = (flat if erc else now).log().requires_grad_()
    loss_fn = policy_loss(part) if surrogate else policy_loss(reinforce(), [part])
    out = loss_fn(
        logprobs=logprobs,
        old_logprobs=(flat if erc else before).log(),
        advantages=torch.full_like(now, sign),
        mask=torch.ones_like(now, dtype=torch.bool),
        entropies=2 * now,
        old_entropies=2 * before,
        entropy_slopes=torch.ones_like(now),  # an update on A > 0 raises the entropy
        num_tokens=1,
    )
    out.loss.backward()
    assert logprobs.grad is not None
    return -logprobs.grad * sign


def draw() -> None:
    """One pair of maps per rule: A > 0 and A < 0."""
    columns = 4
    rows = -(-(len(SHOWN) + 1) // columns)
    figure = plt.figure(figsize=(13, 2.55 * rows), layout="constrained")
    cells = list(figure.subfigures(rows, columns).flat)
    for cell, part in zip(cells, SHOWN, strict=False):
        cell.suptitle(title(part), fontsize=8.5, family="monospace")
        erc = isinstance(part, erclip.entropy_ratio_clip)
        for axis, sign in zip(cell.subplots(1, 2, sharey=True), (1.0, -1.0), strict=True):
            end = 2 if erc else 1
            shown = axis.imshow(
                weights(part, sign), origin="lower", extent=(0, end, 0, end), cmap="RdBu",
                vmin=-2, vmax=2, aspect="equal",
            )  # fmt: skip
            axis.plot([0, end], [0, end], color="black", lw=0.5, ls=":")
            axis.set_title("A > 0" if sign > 0 else "A < 0", fontsize=8)
            axis.set_xlabel("H before" if erc else "π before", fontsize=7)
            axis.tick_params(labelsize=6)
        cell.axes[0].set_ylabel("H now" if erc else "π now", fontsize=7)
    bar = cells[-1].add_axes((0.1, 0.5, 0.8, 0.06))
    figure.colorbar(shown, cax=bar, orientation="horizontal", label="weight of the gradient")
    figure.savefig(PICTURE, dpi=110)


def title(part: Any) -> str:
    """How it is written, in lines that fit."""
    text = re.sub(r",? ?anchor='old'|, min_entropy_change=0.0", "", repr(part))
    return "\n".join(textwrap.wrap(text, 36))


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    draw()
