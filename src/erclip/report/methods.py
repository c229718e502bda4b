"""Runs → differences with intervals: over seeds where there are several, and never more than that.

Runs that differ in nothing but their seed are one method; the first run's method is what the
others are compared with. A difference whose interval holds zero is called "no difference shown".
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from erclip.errors import UserError
from erclip.pages.sheet import Sheet, Table
from erclip.report import methods_plots as compare_plots
from erclip.report import tables
from erclip.runs import names, series, words
from erclip.runs.read import Run, read_runs
from erclip.statistics import Interval, estimate, paired, unpaired

# change no result
_OWN = ("seed", "saved_samples", "every", "every_updates", "keep_last", "keep_best", "description")
ANOTHER_SEED = "The interval covers the choice of problems only: another seed may undo it."
_STEADINESS = (
    ("last entropy (nats)", lambda run: _last(series.by_rollout(run, names.ENTROPY).y)),
    ("largest grad norm", lambda run: _max(series.column(run.updates, names.GRAD_NORM))),
    ("median KL (nats)", lambda run: _median(series.column(run.updates, names.KL_OLD))),
    ("clipped by ERC (%)", lambda run: 100 * series.share(run, names.ERC[0])),
    ("past range (%)", lambda run: 100 * series.share(run, names.PPO[0])),
)


@dataclass(frozen=True)
class Method:
    """All runs with one set of settings, by seed."""

    label: str
    runs: Mapping[int, Run]


def is_run(path: Path) -> bool:
    """Whether a folder is a run directory, and not that of an evaluation."""
    return (path / "config.json").is_file() and (path / "metrics.jsonl").is_file()


def compare_sheet(paths: Sequence[Path]) -> Sheet:
    """Compare runs, seed by seed where they share seeds.

    Raises `UserError` for fewer than two methods, a seed given twice, or runs without evaluations.
    """
    methods = group(read_runs(paths))
    if len(methods) < 2:
        raise UserError(
            f"{len(paths)} run(s) with the same settings: give runs of at least two methods"
        )
    sets = sorted({key for method in methods for run in method.runs.values() for key in _sets(run)})
    if not sets:
        raise UserError("these runs hold no evaluation, so there is nothing to compare")
    differences = [
        (key, method, *difference(methods[0], method, key))
        for key in sets
        for method in methods[1:]
    ]
    return Sheet(
        title=f"{methods[0].label} against {', '.join(method.label for method in methods[1:])}",
        sentences=[_sentence(methods[0], *row) for row in differences],
        plots=[compare_plots.curves(methods, key) for key in sets]
        + [p for key in sets if (p := compare_plots.differences(methods, key)) is not None],
        tables=[_accuracy_table(methods, sets), _steadiness_table(methods), _settings(methods)],
    )


def differences_of(runs: Sequence[Run]) -> list[str]:
    """What several runs come to against the first method, a sentence each; for a report's top.

    Runs that cannot be told apart by their settings are compared one by one.
    """
    try:
        methods = group(runs)
    except UserError:  # the same run again, elsewhere
        methods = []
    if len(methods) == 1 and len(runs) > 1:
        return _spread(methods[0])
    methods = methods or [Method(run.label, {0: run}) for run in runs]
    sets = sorted({key for method in methods for run in method.runs.values() for key in _sets(run)})
    if not sets:
        return ["These runs hold no evaluation, so nothing is said of which is better."]
    rows = [(key, m, *difference(methods[0], m, key)) for key in sets for m in methods[1:]]
    said = [_outcome(methods[0], *row) for row in rows]
    alone = any(found is not None and found.count == 1 for _, _, found, _ in rows)
    return [*said, ANOTHER_SEED] if alone else said


def _spread(method: Method) -> list[str]:
    """Seeds of one method: their mean, and how far they lie apart."""
    said = [f"These are {len(method.runs)} seeds of one method, {method.label}: nothing to compare"]
    for key in sorted({key for run in method.runs.values() for key in _sets(run)}):
        ends = [point.value for point in final(method, key).values()]
        said.append(
            f"{key[0]}, avg@{key[1]} at the end: {estimate(ends).within(0.0, 1.0).text()} over "
            f"{len(ends)} seeds, from {min(ends):.3f} to {max(ends):.3f}"
        )
    return [f"{sentence}." for sentence in said]


def group(runs: Sequence[Run]) -> list[Method]:
    """Methods in the order of their first runs, each with a name that no other has."""
    groups: dict[str, dict[int, Run]] = {}
    for run in runs:
        settings = words.flat(run.config.get("config") or {})
        kept = {k: v for k, v in settings.items() if k.rpartition(".")[2] not in _OWN}
        own = groups.setdefault(json.dumps(kept, sort_keys=True, default=str), {})
        seed = int(run.config.get("seed") or 0)
        if seed in own:
            raise UserError(
                f"{own[seed].path} and {run.path} have the same settings and seed {seed}; "
                "give one of them"
            )
        own[seed] = run
    firsts = [next(iter(own.values())) for own in groups.values()]
    labels = [words.method_name(run.setting("loss")) for run in firsts]
    if len(set(labels)) < len(labels):
        labels = [f"{label} ({run.label})" for label, run in zip(labels, firsts, strict=True)]
    return [Method(label, own) for label, own in zip(labels, groups.values(), strict=True)]


def final(method: Method, key: tuple[str, int]) -> dict[int, series.Evaluation]:
    """The last evaluation on one set, by seed."""
    found = {seed: series.evaluations(run).get(key) for seed, run in method.runs.items()}
    return {seed: points[-1] for seed, points in found.items() if points}


def difference(a: Method, b: Method, key: tuple[str, int]) -> tuple[Interval | None, str]:
    """b − a at the end of training, and what its interval covers."""
    ends_a, ends_b = final(a, key), final(b, key)
    if not ends_a or not ends_b:
        return None, ""
    values = [{seed: point.value for seed, point in ends.items()} for ends in (ends_a, ends_b)]
    found = paired(*values)
    if found is not None:
        return _possible(found), f"paired over {found.count} seeds"
    found = unpaired(list(values[0].values()), list(values[1].values()))
    if found is not None:
        return _possible(found), f"{len(ends_a)} against {len(ends_b)} seeds"
    first_a, first_b = next(iter(ends_a.values())), next(iter(ends_b.values()))
    halves = [(p.high - p.low) / 2 for p in (first_a, first_b) if p.low is not None and p.high]
    half = math.hypot(*halves) if len(halves) == 2 else math.nan
    found = Interval.around(first_b.value - first_a.value, half, 1)
    return _possible(found), "one run of each"


def _possible(found: Interval) -> Interval:
    """No difference of two accuracies is beyond −1 or 1."""
    return found.within(-1.0, 1.0)


def _sentence(
    base: Method, key: tuple[str, int], method: Method, found: Interval | None, covers: str
) -> str:
    text = _outcome(base, key, method, found, covers)
    return f"{text} {ANOTHER_SEED}" if found is not None and found.count == 1 else text


def _outcome(
    base: Method, key: tuple[str, int], method: Method, found: Interval | None, covers: str
) -> str:
    where = f"{method.label} against {base.label} on {key[0]}"
    if found is None:
        return f"{where}: not both were evaluated."
    return f"{where}, avg@{key[1]}: {found.outcome}, {found.text(signed=True)} ({covers})."


def _accuracy_table(methods: Sequence[Method], sets: Sequence[tuple[str, int]]) -> Table:
    rows = []
    for key in sets:
        for index, method in enumerate(methods):
            ends = final(method, key)
            mean = estimate([point.value for point in ends.values()]) if ends else None
            found, covers = difference(methods[0], method, key) if index else (None, "")
            rows.append(
                (
                    f"{key[0]}, avg@{key[1]}",
                    method.label,
                    ", ".join(map(str, sorted(ends))),
                    mean.within(0.0, 1.0).text() if mean else "–",
                    found.text(signed=True) if found else "–",
                    f"{found.outcome}, {covers}" if found else "–",
                )
            )
    return Table(
        "Held-out accuracy at the end",
        ("set", "method", "seeds", "mean", f"minus {methods[0].label}", "verdict"),
        rows,
        "In brackets: 95 % intervals over seeds (Student's t). Differences are paired by seed where"
        " two seeds or more are shared; each has its own interval, no correction for several.",
        labels=3,
    )


def _steadiness_table(methods: Sequence[Method]) -> Table:
    measures = (*_STEADINESS, *_other_rules(methods))
    rows = []
    for method in methods:
        cells = []
        for _, value in measures:
            values = [v for run in method.runs.values() if np.isfinite(v := value(run))]
            cells.append(_with_half(estimate(values)) if values else "–")
        rows.append((method.label, *cells))
    headings = ("method", *(name for name, _ in measures))
    caption = "Means over seeds; ±: half of the 95 % interval. KL is KL(old‖new) per token."
    return Table("How training went", headings, rows, caption)


def _other_rules(methods: Sequence[Method]) -> list[tuple[str, Callable[[Run], float]]]:
    """The share clipped by each rule beside ERC and the range that acted in some run."""
    runs = [run for method in methods for run in method.runs.values()]
    metrics = {rule: found[0] for run in runs for rule, found in series.rules(run).items()}
    return [
        (f"clipped by {words.rule(rule)} (%)", lambda run, name=name: 100 * series.share(run, name))
        for rule, name in metrics.items()
        if rule not in ("erc", "ppo") and any(series.share(run, name) > 0 for run in runs)
    ]


def _settings(methods: Sequence[Method]) -> Table:
    firsts = [next(iter(method.runs.values())) for method in methods]
    facts = [f for f in tables.differing_settings(firsts) if f.name.rpartition(".")[2] not in _OWN]
    rows = [(fact.name, *fact.values) for fact in facts]
    headings = ("setting", *(method.label for method in methods))
    return Table("Settings that differ", headings, rows, labels=len(headings))


def _sets(run: Run) -> set[tuple[str, int]]:
    return set(series.evaluations(run))


def _with_half(value: Interval) -> str:
    return f"{value.mean:.3g}" + ("" if math.isnan(value.half) else f" ± {value.half:.2g}")


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _last(values: np.ndarray) -> float:
    values = _finite(values)
    return float(values[-1]) if len(values) else math.nan


def _max(values: np.ndarray) -> float:
    return float(_finite(values).max(initial=-math.inf))


def _median(values: np.ndarray) -> float:
    values = _finite(values)
    return float(np.median(values)) if len(values) else math.nan
