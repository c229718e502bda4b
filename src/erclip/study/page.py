"""What a study says: sentences, tables and plots, for the terminal and for report.html."""

from __future__ import annotations

import math
from collections.abc import Mapping

from erclip.diagnostics.seeds import Estimate
from erclip.report.sheet import Sheet, Table
from erclip.study.plots import study_plots
from erclip.study.results import Against, Point, Runs, against, read, verdict
from erclip.study.rows import Results, number

STEADINESS = (
    ("entropy, first → last", ("first_entropy", "final_entropy")),
    ("gradient norm", ("grad_norm",)),
    ("largest", ("grad_norm_max",)),
    ("KL(old‖new)", ("kl_old",)),
    ("largest ", ("kl_old_max",)),
)
SHARES = (
    ("clipped by ERC", "clip_erc_frac"),
    ("past PPO's range", "clip_ppo_frac"),
    ("dropped at random", "clip_random_frac"),
)
INTERVALS = "In brackets: 95 % intervals over seeds (Student's t)."


def study_sheet(results: Results) -> Sheet:
    """The whole study, as far as it has got."""
    found = read(results)
    compared = {
        name: against(runs, found[runs.method.against])
        for name, runs in found.items()
        if runs.method.against in found
    }
    count = sum(runs.collapsed[1] for runs in found.values())
    total = len(results.study.cells())
    sentences = [f"{count} of {total} runs are there."] if count < total else []
    sentences += [_sentence(found[name], difference) for name, difference in compared.items()]
    tables = [_best(found, compared), _grid(found, compared), _steadiness(found), _points(found)]
    return Sheet(
        results.study.description or results.study.name,
        sentences,
        [plot for _, plot in study_plots(results, found)],
        tables if found else [],
    )


def _sentence(runs: Runs, difference: Against) -> str:
    name = f"{runs.method.name} against {runs.method.against}"
    if difference.at_best is None:
        return f"{name}: fewer than two seeds are shared."
    text = (
        f"{name}: {verdict(difference.at_best)} at the best setting of each "
        f"({signed(difference.at_best)}, {difference.at_best.count} seeds)"
    )
    if difference.over_grid is not None and len(runs.points) > 1:
        won, tied, lost = difference.counts
        text += (
            f", {verdict(difference.over_grid)} across the grid ({signed(difference.over_grid)}; "
            f"settings won {won}, tied {tied}, lost {lost})"
        )
    return text + "."


def _best(found: Mapping[str, Runs], compared: Mapping[str, Against]) -> Table:
    rows = []
    for name, runs in found.items():
        best, difference = runs.best(), compared.get(name)
        own = difference.at_best if difference else None
        rows.append(
            (
                name,
                where(best),
                str(len(runs.values(best))),
                interval(runs.estimate(best)),
                interval(runs.estimate(best, "best_accuracy")),
                interval(runs.estimate(best, "final_pass_at_k")),
                runs.method.against or "",
                signed(own),
                verdict(own) if own else "",
            )
        )
    k = next((f"{number(r, 'k'):g}" for r in _rows(found)), "k")
    return Table(
        "Each method at its own best setting",
        (
            *("method", "best setting", "seeds", f"final avg@{k}", f"highest avg@{k}"),
            *(f"final pass@{k}", "against", "difference", "verdict"),
        ),
        rows,
        f"{INTERVALS} Held-out accuracy. The setting is the one of highest mean final accuracy, "
        "chosen for every method alike from the same grid. Differences are paired by seed and "
        "not corrected for their number.",
        labels=2,
    )


def _grid(found: Mapping[str, Runs], compared: Mapping[str, Against]) -> Table:
    rows = []
    for name, runs in found.items():
        values = list(runs.over_grid().values())
        difference = compared.get(name)
        own = difference.over_grid if difference else None
        counts = "/".join(map(str, difference.counts)) if difference else ""
        mean = f"{math.fsum(values) / len(values):.3f}" if values else "–"
        collapsed, all_runs = runs.collapsed
        rows.append(
            (
                *(name, mean, runs.method.against or "", signed(own)),
                *(verdict(own) if own else "", counts, f"{collapsed} of {all_runs}"),
            )
        )
    headings = ("method", "mean", "against", "difference", "verdict", "won/tied/lost", "collapsed")
    return Table(
        "Across the grid",
        headings,
        rows,
        f"{INTERVALS} Final held-out accuracy, mean over every setting of the grid. Collapsed: "
        "the run ended below where it began, intervals apart, or diverged.",
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
    """A mean with its interval, if there is one."""
    if found is None:
        return "–"
    if math.isnan(found.half):
        return f"{found.mean:.3f}"
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


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
