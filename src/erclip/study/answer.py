"""The answer in three sentences, each with its numbers: what helps, what costs, what steadies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from erclip.statistics import Interval
from erclip.study.design import NO_RULE
from erclip.study.findings import Findings
from erclip.study.frontier import Frontier
from erclip.study.outcomes import OUTCOMES
from erclip.study.pooled import Effect, by_rule
from erclip.study.results import Runs, corrected, verdict
from erclip.study.texts import interval, p_text, signed, where


class _Finding(NamedTuple):
    effect: Effect
    found: Interval
    p: float

    def words(self) -> str:
        return f"{self.effect.rule} {signed(self.found)} (Holm's p {p_text(self.p)})"


def answer(findings: Findings) -> list[str]:
    """What helps and what costs in the first outcome, and what steadies; fewer if rows lack it."""
    name = findings.study.file.outcomes[0]
    ps = corrected(effect.outcomes[name] for effect in findings.pooled)
    found = [
        _Finding(effect, own, p)
        for effect, p in zip(findings.pooled, ps, strict=True)
        if effect.against == NO_RULE and isinstance(own := effect.outcomes[name], Interval)
    ]
    better = OUTCOMES[name].better is not False
    found.sort(key=lambda own: own.found.mean, reverse=better)
    said = [*_effects(found, OUTCOMES[name].label, better), *_steadiest(findings)]
    return said if found else [*_highest(findings.regimes), *_steadiest(findings)]


def _effects(found: Sequence[_Finding], label: str, higher: bool) -> list[str]:
    """The best and the worst, and what of it may be called a gain or a loss."""
    if not found:
        return []
    best, worst = found[0], found[-1]
    words = [verdict(own.found, own.p) for own in found]
    gains, losses = ("win", "loss") if higher else ("loss", "win")
    won = words.count(gains)
    helped = (
        f"{won} of {len(found)} rules help"
        if won
        else f"None of {len(found)} rules is shown to help"
    )
    said = [f"{helped}: at best {best.words()} in {label} over no rule, {_scope(best)}."]
    if len(found) > 1:
        lost = words.count(losses)
        cost = f"{lost} of them cost" if lost else "None is shown to cost anything"
        said.append(f"{cost}: at worst {worst.words()}.")
    return said


def _scope(own: _Finding) -> str:
    surrogates = len({s.surrogate for s in own.effect.strata})
    regimes = len({s.regime for s in own.effect.strata})
    parts = [f"{surrogates} surrogates"] if surrogates > 1 else []
    parts += [f"{regimes} regimes"] if regimes > 1 else []
    pooled = f"pooled over {' and '.join(parts)}, " if parts else ""
    return f"{pooled}{own.found.count} seeds"


def _steadiest(findings: Findings) -> list[str]:
    """The frontier if the study asks for one, else which rules collapse most and least."""
    fronts = [own for own in findings.fronts if own.height is not None]
    return [_frontier(fronts)] if fronts else _collapses(findings.regimes)


def _frontier(fronts: Sequence[Frontier]) -> str:
    ps = corrected([own.height for own in fronts])
    ranked = sorted(zip(fronts, ps, strict=True), key=lambda pair: -_height(pair[0]).mean)
    won = sum(verdict(own.height, p) == "win" for own, p in ranked)
    (best, p) = ranked[0]
    several = len({own.outcome for own in fronts}) > 1
    of = f" in {OUTCOMES[best.outcome].label}" if several else ""
    return (
        f"Above the frontier of no rule lie {won or 'none'} of {len(ranked)} curves: highest is "
        f"{best.method} on {best.surrogate} under {best.regime}, {signed(best.height)}{of} "
        f"(Holm's p {p_text(p)})."
    )


def _height(front: Frontier) -> Interval:
    assert front.height is not None
    return front.height


def _collapses(regimes: Mapping[str, Mapping[str, Runs]]) -> list[str]:
    counts: dict[str, list[int]] = {}
    for methods in regimes.values():
        for (_, rule), merged in by_rule(methods).items():
            fallen, count = merged.runs.collapsed
            total = counts.setdefault(rule, [0, 0])
            total[0], total[1] = total[0] + fallen, total[1] + count
    if not counts:
        return []
    if not any(fallen for fallen, _ in counts.values()):
        return [f"No run of {sum(count for _, count in counts.values())} collapses."]
    if len(counts) == 1:
        return [f"{_of(next(iter(counts.values())))} runs collapse."]
    without = "" if NO_RULE not in counts else f"{_of(counts.pop(NO_RULE))} without a rule, "
    ranked = sorted(counts, key=lambda rule: counts[rule][0] / counts[rule][1])
    least, most = ranked[0], ranked[-1]
    among = f"fewest with {least} ({_of(counts[least])}), most with {most} ({_of(counts[most])})"
    if len(ranked) == 1:
        among = f"{_of(counts[least])} with {least}"
    return [f"Collapsed runs, of all settings: {without}{among}."]


def _of(pair: Sequence[int]) -> str:
    return f"{pair[0]} of {pair[1]}"


def _highest(regimes: Mapping[str, Mapping[str, Runs]]) -> list[str]:
    """Of a study that compares nothing: the method that ends highest in each regime."""
    said = []
    for regime, methods in regimes.items():
        ends = {
            name: found
            for name, runs in methods.items()
            if (found := runs.estimate(runs.best())) is not None
        }
        if ends:
            name = max(ends, key=lambda own: ends[own].mean)
            place = f"{regime}: " if regime else ""
            best = where(methods[name].best())
            said.append(f"{place}{name} ends highest, at {interval(ends[name])} ({best}).")
    return said
