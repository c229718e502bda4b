"""What a study says: sentences, tables and plots, for the terminal and for report.html."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from erclip.diagnostics.seeds import Estimate
from erclip.report.cards import Plot
from erclip.report.sheet import Sheet, Table
from erclip.study.results import Against, Point, Runs, against, read, verdict
from erclip.study.rows import Results, number

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


def study_sheet(results: Results, plots: Sequence[Plot] = ()) -> Sheet:
    """The whole study, as far as it has got, with these pictures of it."""
    found = read(results)
    count = sum(runs.collapsed[1] for runs in found.values())
    total = len(results.study.cells())
    return Sheet(
        results.study.description or results.study.name,
        [f"{count} of {total} runs are there."] if count < total else [],
        plots,
        study_tables(found),
    )


def study_tables(found: Mapping[str, Runs]) -> list[Table]:
    """Best settings, differences, every setting, and how training went."""
    if not found:
        return []
    compared = {
        (name, base): against(runs, found[base])
        for name, runs in found.items()
        for base in runs.method.against
        if base in found
    }
    return [_best(found), _differences(compared), _points(found), _steadiness(found)]


def _best(found: Mapping[str, Runs]) -> Table:
    rows = []
    for name, runs in found.items():
        best, grid = runs.best(), list(runs.over_grid().values())
        collapsed, all_runs = runs.collapsed
        rows.append(
            (
                name,
                where(best),
                str(len(runs.values(best))),
                interval(runs.estimate(best)),
                interval(runs.estimate(best, "best_accuracy")),
                interval(runs.estimate(best, "final_pass_at_k")),
                f"{math.fsum(grid) / len(grid):.3f}" if grid else "–",
                f"{collapsed} of {all_runs}",
            )
        )
    k = next((f"{number(r, 'k'):g}" for r in _rows(found)), "k")
    return Table(
        "Each method at its own best setting, and across the grid",
        (
            *("method", "best setting", "seeds", f"final avg@{k}", f"highest avg@{k}"),
            *(f"final pass@{k}", "mean of the grid", "collapsed"),
        ),
        rows,
        f"{INTERVALS} Held-out accuracy. The setting is the one of highest mean final accuracy, "
        "chosen for every method alike from the same grid. Collapsed, of all runs of the grid: "
        "ended below where it began, intervals apart, or diverged.",
        labels=2,
    )


def _differences(compared: Mapping[tuple[str, str], Against]) -> Table:
    grid = any(len(difference.points) > 1 for difference in compared.values())
    rows = []
    for (name, base), difference in compared.items():
        found = [difference.at_best, difference.pass_at_best]
        found += [difference.over_grid] if grid else []
        ends = [text for own in found for text in (signed(own), verdict(own) if own else "")]
        seeds = str(difference.at_best.count) if difference.at_best else "–"
        counts = ["/".join(map(str, difference.counts))] if grid else []
        rows.append((name, base, seeds, *ends, *counts))
    headings = ["avg@k", "verdict", "pass@k", "verdict"]
    if grid:
        headings = ["at the best setting of each", "verdict", "pass@k there", "verdict"]
        headings += ["across the grid", "verdict", "settings won/tied/lost"]
    return Table(
        "Differences in final avg@k, and in pass@k",
        ("method", "against", "seeds", *headings),
        rows,
        f"{INTERVALS} Paired by seed; an interval that holds 0 is a tie. Not corrected for their "
        "number: of twenty, expect one to err.",
        labels=2,
    )


def _steadiness(found: Mapping[str, Runs]) -> Table:
    rows = []
    for name, runs in found.items():
        best = runs.best()
        cells = [" → ".join(_mean(runs, best, c) for c in columns) for _, columns in STEADINESS]
        cells += [_mean(runs, best, column, share=True) for _, column in SHARES]
        rows.append((name, *cells, _mean(runs, best, "cpu_s")))
    headings = (*(h for h, _ in STEADINESS), *(h for h, _ in SHARES), "CPU s")
    return Table(
        "How training went at that setting",
        ("method", *headings),
        rows,
        "Means over updates and seeds; largest: the largest of a run, mean over seeds. Entropy and "
        "KL in nats per token.",
    )


def _points(found: Mapping[str, Runs]) -> Table:
    points = list(dict.fromkeys(point for runs in found.values() for point in runs.points))
    rows = []
    for name, runs in found.items():
        cells = []
        for point in points:
            text = interval(runs.estimate(point))
            fallen = sum(r["collapsed"] == "True" for r in runs.points.get(point, {}).values())
            cells.append(f"{text}, {fallen} collapsed" if fallen else text)
        rows.append((name, *cells))
    return Table("Final accuracy at every setting", ("method", *map(where, points)), rows)


def where(point: Point) -> str:
    """A point in words.

    >>> where((("learning_rate", 1e-4), ("updates_per_rollout", 8)))
    'learning rate 0.0001, updates per rollout 8'
    """
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in point) or "as given"


def interval(found: Estimate | None) -> str:
    """The mean of shares with its interval, if there is one."""
    if found is None:
        return "–"
    if math.isnan(found.half):
        return f"{found.mean:.3f}"
    return f"{found.mean:.3f} [{max(found.low, 0.0):.3f}, {min(found.high, 1.0):.3f}]"


def signed(found: Estimate | None) -> str:
    """A difference with its interval."""
    if found is None:
        return "–"
    mean, low, high = (
        f"{value:+.3f}".replace("-", "−") for value in (found.mean, found.low, found.high)
    )
    return f"{mean} [{low}, {high}]"


def _mean(runs: Runs, point: Point, column: str, share: bool = False) -> str:
    found = runs.estimate(point, column)
    if found is None:
        return "–"
    return f"{100 * found.mean:.2g} %" if share else f"{found.mean:.3g}"


def _rows(found: Mapping[str, Runs]):
    return (
        row for runs in found.values() for rows in runs.points.values() for row in rows.values()
    )
