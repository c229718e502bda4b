"""Effects pooled over surrogates and regimes: one number for a rule in the place of many.

A *stratum* is a surrogate (the method without a rule that others are compared with) in a regime.
In each a rule's methods, such as its different bands, count as one whose best one is taken. The
effect of a seed is its mean over strata, and the interval is over seeds: what a seed gives all
strata alike is then not counted as many observations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from erclip.statistics import Interval, difference_interval
from erclip.study.design import NO_RULE
from erclip.study.outcomes import OUTCOMES
from erclip.study.results import VARIANT, Point, Runs, Seeds, at_best, interval_of, over_grid


class Stratum(NamedTuple):
    """A rule's runs and those that they are compared with, of one surrogate in one regime."""

    regime: str
    surrogate: str
    own: Runs
    base: Runs


class Effect(NamedTuple):
    """A rule minus another (or none) over all strata, by outcome; the mean over the grid apart."""

    rule: str
    against: str
    strata: tuple[Stratum, ...]
    outcomes: dict[str, Interval | Interval | None]
    over_grid: Interval | None


def effects(regimes: Mapping[str, Mapping[str, Runs]], outcomes: Sequence[str]) -> list[Effect]:
    """Every rule against what its methods name in `against`, pooled."""
    return [
        Effect(
            rule,
            other,
            tuple(found),
            {name: _difference(found, name) for name in outcomes},
            interval_of(pool([over_grid(s.own, s.base, outcomes[0]) for s in found])),
        )
        for (rule, other), found in strata(regimes).items()
    ]


def _difference(found: Sequence[Stratum], name: str) -> Interval | Interval | None:
    """One outcome's pooled difference; of shares, of which every seed's may be the same, one whose
    interval has a width all the same, and no p."""
    if not OUTCOMES[name].over_grid:
        return interval_of(pool([at_best(s.own, s.base, name) for s in found]))
    differences = pool([over_grid(s.own, s.base, name) for s in found])
    return difference_interval(list(differences.values())) if len(differences) > 1 else None


def pool(differences: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """By seed the mean over the strata that have any difference, of seeds that all of them have.

    >>> pool([{0: 0.1, 1: 0.3}, {0: 0.3, 1: 0.1, 2: 0.9}, {}])
    {0: 0.2, 1: 0.2}
    """
    there = [own for own in differences if own]
    if not there:
        return {}
    shared = set.intersection(*(set(own) for own in there))
    return {seed: math.fsum(own[seed] for own in there) / len(there) for seed in sorted(shared)}


def strata(
    regimes: Mapping[str, Mapping[str, Runs]],
) -> dict[tuple[str, str], list[Stratum]]:
    """(rule, rule compared with or "no rule") → the strata in which both have runs."""
    found: dict[tuple[str, str], list[Stratum]] = {}
    for regime, methods in regimes.items():
        merged = by_rule(methods)
        for (surrogate, rule), (own, names) in merged.items():
            if rule == NO_RULE:
                continue
            for other in names:
                if (surrogate, other) in merged:
                    base = merged[surrogate, other].runs
                    stratum = Stratum(regime, surrogate, own, base)
                    found.setdefault((rule, other), []).append(stratum)
    return found


class _Merged(NamedTuple):
    runs: Runs
    against: tuple[str, ...]  # rules


def by_rule(methods: Mapping[str, Runs]) -> dict[tuple[str, str], _Merged]:
    """(surrogate, rule) → the runs of all its methods, and the rules they are compared with."""
    groups: dict[tuple[str, str], list[Runs]] = {}
    for name, runs in methods.items():
        key = surrogate_of(name, methods), runs.method.rule
        groups.setdefault(key, []).append(runs)
    return {key: _Merged(_merge(own), _against(own, methods)) for key, own in groups.items()}


def surrogate_of(name: str, methods: Mapping[str, Runs]) -> str:
    """The method without a rule that this one is built on: the first that it is compared with."""
    seen: list[str] = []
    while name in methods and methods[name].method.rule != NO_RULE and name not in seen:
        seen.append(name)
        name = next(iter(methods[name].method.against), name)
    return name


def _merge(group: Sequence[Runs]) -> Runs:
    if len(group) == 1:
        return group[0]
    points: dict[Point, Seeds] = {}
    tuning: dict[Point, Seeds] = {}
    for runs in group:
        name = (VARIANT, runs.method.name)
        points.update({(name, *point): seeds for point, seeds in runs.points.items()})
        tuning.update({(name, *point): seeds for point, seeds in runs.tuning.items()})
    return replace(group[0], points=points, tuning=tuning)


def _against(group: Sequence[Runs], methods: Mapping[str, Runs]) -> tuple[str, ...]:
    own = group[0].method.rule
    rules = (
        methods[base].method.rule
        for runs in group
        for base in runs.method.against
        if base in methods
    )
    return tuple(rule for rule in dict.fromkeys(rules) if rule != own)
