"""Ledger → the page and the tables of `erclip ledger`: what was clipped, and what would have been.

The analysis figures of the ERC paper (2512.05591), for any run and any other rule.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erclip.diagnostics import ledger_plots, what_if
from erclip.diagnostics.what_if import Decision
from erclip.errors import UserError
from erclip.machine.files import read_json, real
from erclip.pages.sheet import Sheet, Table, percent
from erclip.runs.ledger import Ledger, read_ledger

DEFAULT_BANDS = (0.02, 0.05, 0.1, 0.2)
DEFAULT_CLIP = (0.2, 0.28)


@dataclass(frozen=True)
class Rules:
    """The two rules that the page sets against each other: an entropy band and a clip range."""

    erc: Decision
    ppo: Decision
    band: tuple[float, float]
    clip: tuple[float, float]
    trained: str  # whether they are the run's own
    own: str = ""  # the run's ERC in words, empty without one
    min_entropy_change: float = 0.0  # of the run


def ledger_sheet(
    run: Path,
    bands: Sequence[float] = (),
    clips: Sequence[tuple[float, float]] = (),
    min_entropy_change: float | None = None,
) -> Sheet:
    """Read a run's ledger and answer what these bands and clip ranges would have clipped.

    `min_entropy_change` (nats) is that of every band; None takes the run's own.
    Raises `UserError` where there is no ledger, or a band or range is not one.
    """
    ledger = read_ledger(run)
    rules = _run_rules(ledger, _loss_settings(run))
    change = rules.min_entropy_change if min_entropy_change is None else min_entropy_change
    bands = tuple(bands) or tuple(sorted({*DEFAULT_BANDS, *rules.band}))
    clips = tuple(clips) or tuple(dict.fromkeys([rules.clip, DEFAULT_CLIP]))
    try:
        decisions = _decisions(ledger, bands, clips, change)
    except ValueError as error:
        raise UserError(str(error)) from None
    return Sheet(
        title=f"Decision ledger of {real(run).name}",
        sentences=[*_sentences(ledger, rules), *_unmoved(ledger, change)],
        plots=[
            ledger_plots.share_by_band(ledger, rules.band, change),
            ledger_plots.by_entropy(ledger, rules.erc, rules.ppo),
            ledger_plots.scatter(ledger, rules.erc, rules.ppo, rules.band, rules.clip),
            ledger_plots.quadrants(ledger, rules.erc, rules.ppo),
        ],
        tables=[
            _rules_table(ledger, [*_trained(ledger, rules), *decisions], rules),
            _entropy_table(ledger, rules),
            _quadrant_table(ledger, rules),
            _words_table(ledger, rules),
        ],
    )


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers between commas.

    >>> numbers("0.02,0.05", "--beta")
    (0.02, 0.05)
    """
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UserError(f"{option} {text!r} must be numbers between commas: 0.02,0.05") from None


def ranges(text: str, option: str) -> tuple[tuple[float, float], ...]:
    """Clip ranges low:high between commas; a single number is both.

    >>> ranges("0.2:0.28,0.1", "--clip")
    ((0.2, 0.28), (0.1, 0.1))
    """
    try:
        pairs = [part.partition(":") for part in text.split(",") if part.strip()]
        return tuple((float(low), float(high or low)) for low, _, high in pairs)
    except ValueError:
        raise UserError(f"{option} {text!r} must be low:high between commas: 0.2:0.28") from None


def _loss_settings(run: Path) -> Mapping[str, Any]:
    try:
        return read_json(run / "config.json")["config"]["loss"]
    except (UserError, KeyError, TypeError):
        return {}


def _run_rules(ledger: Ledger, loss: Mapping[str, Any]) -> Rules:
    """The run's own ERC and clip range; a run without one gets the paper's, as a question."""
    trained_rules = what_if.as_trained(ledger)
    erc, ppo = trained_rules["erc"], trained_rules["ppo"]
    own = [c for c in loss.get("constraints", ()) if c.get("kind") == "entropy_ratio_clip"]
    surrogate = loss.get("surrogate", {})
    has_range = "ppo" in surrogate.get("kind", "")
    band = (own[0]["low"], own[0]["high"]) if own else (0.05, 0.05)
    clip = (surrogate["low"], surrogate["high"]) if has_range else DEFAULT_CLIP
    erc = erc if own else what_if.erc_decision(ledger, *band)
    ppo = ppo if has_range else what_if.ppo_decision(ledger, *clip)
    missing = [name for name, has in (("ERC", own), ("clip range", has_range)) if not has]
    trained = f"The run had no {' and no '.join(missing)}: what is shown would have been clipped."
    words, change = _in_words(own[0]) if own else ("", 0.0)
    return Rules(erc, ppo, band, clip, trained if missing else "", words, change)


def _in_words(constraint: Mapping[str, Any]) -> tuple[str, float]:
    """The run's own ERC as it stands in its recipe, and its smallest change of H."""
    change = float(constraint.get("min_entropy_change") or 0.0)
    words = [
        f"band −{constraint['low']:g}/+{constraint['high']:g}",
        f"{str(constraint.get('rule') or 'paper').replace('_', ' ')} rule",
        *([f"min_entropy_change {change:g}"] if change else []),
        *([f"softness {constraint['softness']:g}"] if constraint.get("softness") else []),
    ]
    return ", ".join(words), change


def _unmoved(ledger: Ledger, change: float) -> list[str]:
    """What --min-entropy-change spares, in a sentence."""
    if not change:
        return []
    moved = (ledger.measures["new_entropy"] - ledger.measures["old_entropy"]).abs()
    share = float((moved < change).double().mean())
    return [
        f"With min_entropy_change {change:g} no band clips the {percent(share, 1)} of tokens whose"
        " entropy moved by less than that; rows that say so in the table, and the curves by band,"
        " are computed with it."
    ]


def _trained(ledger: Ledger, rules: Rules) -> list[Decision]:
    """What the run's rules did; those that it did not have, and were idle, are left out."""
    found = what_if.as_trained(ledger)
    maybe = ("dual", "random") if rules.own else ("dual", "random", "erc")
    quiet = [rule for rule in maybe if not found[rule].clipped.any()]
    return [decision for rule, decision in found.items() if rule not in quiet]


def _decisions(
    ledger: Ledger, bands: Sequence[float], clips: Sequence[tuple[float, float]], change: float
) -> list[Decision]:
    erc = [
        what_if.erc_decision(ledger, band, band, rule, change)
        for rule in ("paper", "directional")
        for band in bands
    ]
    ranges = [what_if.ppo_decision(ledger, *clip) for clip in clips]
    return [*erc, *ranges, *what_if.other_rules(ledger)]


def _sentences(ledger: Ledger, rules: Rules) -> list[str]:
    updates = ledger.places["update"]
    erc, ppo = rules.erc.clipped, rules.ppo.clipped
    clipped = int(erc.sum())
    sentences = [
        f"{len(ledger):,} tokens of {len(updates.unique())} updates"
        f" ({int(updates.min())} to {int(updates.max())}).",
        f"ERC clips {percent(float(erc.double().mean()))} of them, the importance ratio's range"
        f" {percent(float(ppo.double().mean()))}.",
    ]
    if rules.trained:
        sentences.insert(1, rules.trained)
    if clipped:
        entropy = ledger.measures["old_entropy"]
        low = float((entropy[erc] < 0.01).double().mean())
        both = float((erc & ppo).sum()) / clipped
        sentences.append(
            f"Of what ERC clips, {percent(both, 1)} is past the range as well, and"
            f" {percent(low, 1)} had an old entropy below 0.01 nats; the median is"
            f" {float(entropy[erc].median()):.2g} nats, that of all tokens"
            f" {float(entropy.median()):.2g}."
        )
    return sentences


def _rules_table(ledger: Ledger, decisions: Sequence[Decision], rules: Rules) -> Table:
    entropy = ledger.measures["old_entropy"]
    rows = []
    for decision in decisions:
        hit = decision.clipped
        shown = (hit, decision.low, decision.high) if decision.two_sided else (hit,)
        shares = [percent(float(flags.double().mean())) for flags in shown]
        shares += ["–"] * (3 - len(shares))
        among = float((hit & rules.ppo.clipped).sum()) / max(int(rules.ppo.clipped.sum()), 1)
        median = f"{float(entropy[hit].median()):.2g}" if hit.any() else "–"
        rows.append((decision.label, *shares, percent(among, 1), median))
    return Table(
        "What each rule clips",
        ("rule", "clipped", "low side", "high side", "of range's", "median H"),
        rows,
        "Shares of all tokens in the ledger. “Of range's”: how many of the tokens past the run's"
        " clip range the rule clips too. “Median H”: old entropy of what it clips, in nats. Rules"
        " written like code are those of docs/rules.md as their defaults make them."
        f"{_meant(rules)} Another"
        " rule would have led to other weights from its first update on; this is what it says about"
        " the tokens that were seen.",
    )


def _meant(rules: Rules) -> str:
    """What “as trained” is beside “paper” and “directional”."""
    own = f" ({rules.own})" if rules.own else ""
    return (
        f" “As trained”: what fired during the run, by its own settings{own}. “Paper”: any token"
        " whose ρ leaves the band; “directional”: of those only the ones whose own update pushes"
        " further out. Both are applied now to the tokens that were recorded."
    )


def _entropy_table(ledger: Ledger, rules: Rules) -> Table:
    entropy = ledger.measures["old_entropy"]
    levels = what_if.by_entropy(entropy, rules.erc.clipped, rules.ppo.clipped)
    rows = [
        (level.label, f"{level.tokens:,}", percent(level.share, 1), *map(percent, level.clipped))
        for level in levels
    ]
    headings = ("old entropy (nats)", "tokens", "share", "ERC clips", "range clips")
    return Table("By entropy of the old policy", headings, rows, "Clipped: share of the row.")


def _quadrant_table(ledger: Ledger, rules: Rules) -> Table:
    rows = [
        (q.label, *(percent(v, 1) for v in (q.share, q.erc, q.ppo, q.both, q.own)))
        for q in what_if.quadrants(ledger, rules.erc, rules.ppo)
    ]
    return Table(
        "ERC against the clip range",
        ("tokens", "share", "ERC clips", "range clips", "both clip", "own push"),
        rows,
        "By sign of the advantage and by where the entropy went. “Own push”: tokens whose own"
        " update, to first order, moves their entropy that way; the directional rule clips only"
        " those. Others were moved by what the weights share.",
    )


def _words_table(ledger: Ledger, rules: Rules) -> Table:
    rows = [
        (
            json.dumps(word.text, ensure_ascii=False),
            f"{word.clipped:,}",
            f"{word.count:,}",
            percent(word.clipped / word.count, 1),
            f"{word.entropy:.3g}",
            f"{word.clipped_entropy:.3g}",
        )
        for word in what_if.most_clipped(ledger, rules.erc)
    ]
    return Table(
        "Tokens that ERC clips most",
        ("token", "clipped", "occurs", "share", "mean H old", "… of clipped"),
        rows,
        "Entropies in nats.",
    )
