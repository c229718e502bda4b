"""The tables of a study: pooled effects, frontiers, best settings, differences, all settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from erclip.pages.sheet import Table
from erclip.statistics import p_value
from erclip.study.design import NO_RULE
from erclip.study.file import StudyFile
from erclip.study.frontier import Frontier
from erclip.study.outcomes import OUTCOMES
from erclip.study.pooled import Effect
from erclip.study.results import (
    PASS,
    Against,
    Point,
    Runs,
    against,
    corrected,
    share,
    verdict,
)
from erclip.study.texts import interval, marked, p_text, signed, where, with_p

Regimes = Mapping[str, Mapping[str, Runs]]

STEADINESS = (
    ("entropy, first → last", ("first_entropy", "final_entropy")),
    ("gradient norm", ("grad_norm",)),
    ("largest", ("grad_norm_max",)),
    ("KL(old‖new)", ("kl_old",)),
    ("largest", ("kl_old_max",)),
)
SHARES = (
    ("clipped by ERC", "clip_erc_frac"),
    ("past PPO's range", "clip_ppo_frac"),
    ("dropped at random", "clip_random_frac"),
)
INTERVALS = "In brackets: 95 % intervals over seeds (Student's t)."
CORRECTED = (
    "p: of that interval's t test; Holm: corrected for all comparisons of the column. A verdict is "
    "win or loss where Holm's p is below 0.05, else tie."
)


def study_tables(
    regimes: Regimes, pooled: Sequence[Effect], fronts: Sequence[Frontier], file: StudyFile
) -> dict[str, Table]:
    """Name → table, in the order of the page; those that would be empty are left out."""
    if not regimes:
        return {}
    tables = {
        "pooled": _pooled(pooled, outcomes_of(file)),
        "frontier": _frontier(fronts),
        "best": _best(regimes, outcomes_of(file)),
        "differences": _differences(regimes),
        "settings": _points(regimes),
        "training": _steadiness(regimes),
    }
    return {name: _tidy(table) for name, table in tables.items() if table is not None}


def _pooled(pooled: Sequence[Effect], outcomes: Sequence[str]) -> Table | None:
    if not pooled:
        return None
    columns = [[effect.outcomes[name] for effect in pooled] for name in outcomes]
    columns.append([effect.over_grid for effect in pooled])
    texts = [
        [with_p(own, p) for own, p in zip(column, corrected(column), strict=True)]
        for column in columns
    ]
    rows = []
    for index, effect in enumerate(pooled):
        lead = effect.over_grid
        seeds = str(lead.count) if lead else "–"
        cells = (column[index] for column in texts)
        rows.append((effect.rule, effect.against, _strata(effect), seeds, *cells))
    labels = [OUTCOMES[name].label for name in outcomes]
    return Table(
        "Effects of the rules, pooled over surrogates and regimes",
        ("rule", "against", "surrogates", "seeds", *labels, f"{labels[0]}, mean of the grid"),
        rows,
        f"{INTERVALS} Each rule at its best setting minus the other at its own; a seed counts "
        "once, with its mean over surrogates and regimes. Collapsed: over all settings, the "
        "interval with an invented win of each side. p is Holm's, over the rows of the column.",
        labels=3,
    )


def _strata(effect: Effect) -> str:
    surrogates = len({stratum.surrogate for stratum in effect.strata})
    regimes = len({stratum.regime for stratum in effect.strata})
    return f"{surrogates} in {regimes} regimes" if regimes > 1 else str(surrogates)


def _frontier(fronts: Sequence[Frontier]) -> Table | None:
    compared = [own for own in fronts if own.rule != NO_RULE]
    if not compared:
        return None
    ps = corrected([own.height for own in compared])
    several = len({own.outcome for own in compared}) > 1
    rows = []
    for own, holm_p in zip(compared, ps, strict=True):
        chosen = [where(s.point) for s in sorted(own.settings, key=lambda s: s.x) if s.front]
        span = f"{own.span[0]:.3f} to {own.span[1]:.3f}" if own.span else "none"
        p = "–" if own.height is None else p_text(p_value(own.height))
        cells = (signed(own.height), p, p_text(holm_p), signed(own.area, 4))
        words = verdict(own.height, holm_p) if own.height else "–"
        label = [OUTCOMES[own.outcome].label] if several else []
        name = (*label, own.regime, own.method, own.surrogate)
        rows.append((*name, "; ".join(chosen), span, *cells, words))
    return Table(
        "Does a rule move the frontier?",
        (
            *(["outcome"] if several else []),
            *("regime", "method", "surrogate", "settings on its curve", "accuracy in common"),
            *("height over no rule", "p", "Holm", "area", "verdict"),
        ),
        rows,
        "Accuracy kept in the regime over accuracy in the clean one, above the curve of "
        "the same surrogate without a rule: the mean height where both curves are, and height × "
        f"width. 95 % intervals by jackknife over seeds. {CORRECTED}",
        labels=4 + several,
    )


def _best(regimes: Regimes, outcomes: Sequence[str]) -> Table:
    rows = []
    for regime, found in regimes.items():
        for name, runs in found.items():
            best, grid = runs.best(), list(runs.over_grid().values())
            cells = [_outcome(runs, best, outcome) for outcome in outcomes]
            mean = f"{math.fsum(grid) / len(grid):.3f}" if grid else "–"
            rows.append(
                (
                    *(regime, name, marked(runs, best), str(len(runs.points[best])), *cells),
                    mean,
                )
            )
    labels = [OUTCOMES[name].label for name in outcomes]
    return Table(
        "Each method at its own best setting, and across the grid",
        (
            *("regime", "method", "best setting", "seeds", *labels),
            "mean of the grid",
        ),
        rows,
        f"{INTERVALS} Held-out accuracy. The setting is the one that is best in the first column, "
        "chosen for every method alike from the same grid, on the tuning seeds where the study has "
        "them; “edge”: it is the grid's first or last, and the best may lie beyond. Collapsed, of "
        "the runs of all settings: ended below where it began, intervals apart, or diverged.",
        labels=3,
    )


def _outcome(runs: Runs, point: Point, name: str) -> str:
    if name == "collapsed":
        fallen, count = runs.collapsed
        ends = share(fallen, count)
        return f"{fallen} of {count} [{ends.low:.2f}, {ends.high:.2f}]"
    found = runs.estimate(point, name)
    if name in ("final_accuracy", "final_greedy", "final_reward", PASS):
        return interval(found)
    if found is None:
        return "–"
    half = "" if math.isnan(found.half) else f" ± {found.half:.2g}"
    return f"{found.mean:.3g}{half}"


def _differences(regimes: Regimes) -> Table:
    compared, lead = compare(regimes), lead_of(regimes)
    grid = any(len(own.points) > 1 for own in compared.values())
    columns = [[own.at_best for own in compared.values()]]
    columns += [[own.pass_at_best for own in compared.values()]]
    columns += [[own.over_grid for own in compared.values()]] if grid else []
    ps = [corrected(column) for column in columns]
    counts = _counts(compared)
    rows = []
    for index, (key, own) in enumerate(compared.items()):
        seeds = str(own.at_best.count) if own.at_best else "–"
        cells: list[str] = []
        for column, holm_p in zip(columns, ps, strict=True):
            found = column[index]
            raw = "–" if found is None else p_text(p_value(found))
            cells += [signed(found), raw, p_text(holm_p[index])]
        last = [verdict(own.at_best, ps[0][index]), *([counts[key]] if grid else [])]
        rows.append((*key, seeds, *cells, *last))
    titles = ("at the best setting of each", "pass@k there", "across the grid")[: len(columns)]
    headings = [text for title in titles for text in (title, "p", "Holm")]
    return Table(
        f"Differences in {OUTCOMES[lead].label}, and in pass@k",
        (
            *("regime", "method", "against", "seeds", *headings, "verdict"),
            *(["settings won/tied/lost"] if grid else []),
        ),
        rows,
        f"{INTERVALS} Paired by seed, within one machine. {CORRECTED} The verdict is that at the "
        "best settings; settings are corrected for all settings of the table.",
        labels=3,
    )


def compare(regimes: Regimes) -> dict[tuple[str, str, str], Against]:
    """(regime, method, compared with) → the differences."""
    return {
        (regime, name, base): against(runs, found[base])
        for regime, found in regimes.items()
        for name, runs in found.items()
        for base in runs.method.against
        if base in found
    }


def _counts(compared: Mapping[tuple[str, str, str], Against]) -> dict[tuple[str, str, str], str]:
    """Settings won, tied and lost of each comparison, corrected for all settings of all of them."""
    places = [(key, point) for key, own in compared.items() for point in own.points]
    ps = corrected(compared[key].points[point] for key, point in places)
    words: dict[tuple[str, str, str], list[str]] = {key: [] for key in compared}
    for (key, point), p in zip(places, ps, strict=True):
        words[key].append(verdict(compared[key].points[point], p))
    return {
        key: "/".join(str(own.count(word)) for word in ("win", "tie", "loss"))
        for key, own in words.items()
    }


def _steadiness(regimes: Regimes) -> Table:
    rows = []
    for regime, found in regimes.items():
        for name, runs in found.items():
            best = runs.best()
            cells = [" → ".join(_mean(runs, best, c) for c in columns) for _, columns in STEADINESS]
            cells += [_mean(runs, best, column, share=True) for _, column in SHARES]
            rows.append((regime, name, *cells, _mean(runs, best, "cpu_s")))
    headings = (*(h for h, _ in STEADINESS), *(h for h, _ in SHARES), "CPU s")
    return Table(
        "How training went at that setting",
        ("regime", "method", *headings),
        rows,
        "Means over updates and seeds; largest: the largest of a run, mean over seeds. Entropy and "
        "KL in nats per token.",
        labels=2,
    )


def lead_of(regimes: Regimes) -> str:
    """The study's first outcome."""
    return next(runs.lead for found in regimes.values() for runs in found.values())


def _points(regimes: Regimes) -> Table:
    lead = lead_of(regimes)
    points = list(
        dict.fromkeys(p for found in regimes.values() for r in found.values() for p in r.points)
    )
    rows = []
    for regime, found in regimes.items():
        for name, runs in found.items():
            cells = []
            for point in points:
                text, fallen = interval(runs.estimate(point, lead)), runs.collapsed_at(point)[0]
                cells.append(f"{text}, {fallen} collapsed" if fallen else text)
            rows.append((regime, name, *cells))
    headings = ("regime", "method", *map(where, points))
    title = f"The {OUTCOMES[lead].label} at every setting"
    return Table(title, headings, rows, INTERVALS, labels=2)


def outcomes_of(file: StudyFile) -> list[str]:
    """Those of the study, and pass@k."""
    return list(dict.fromkeys((*file.outcomes, PASS)))


def _tidy(table: Table) -> Table:
    """Without the column of regimes where there are none, and columns that say nothing."""
    kept = [
        i
        for i, heading in enumerate(table.headings)
        if (i < table.labels or any(row[i] != "–" for row in table.rows))
        and not (heading == "regime" and all(not row[i] for row in table.rows))
    ]
    gone = sum(i not in kept for i in range(table.labels))
    return Table(
        table.title,
        tuple(table.headings[i] for i in kept),
        [tuple(row[i] for i in kept) for row in table.rows],
        table.caption,
        table.labels - gone,
    )


def _mean(runs: Runs, point: Point, column: str, share: bool = False) -> str:
    found = runs.estimate(point, column)
    if found is None:
        return "–"
    return f"{100 * found.mean:.2g} %" if share else f"{found.mean:.3g}"
