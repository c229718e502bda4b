"""Runs → what the tables of the report hold: facts, settings, results and sampled responses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from erclip.runs import names, series, words
from erclip.runs.read import Row, Run
from erclip.runs.series import Evaluation

OUTCOMES = ("right", "wrong", "truncated")
_SAMPLES_PER_FATE = 8  # of one rollout of one run


@dataclass(frozen=True)
class Fact:
    """One line of the facts: a value per run, or one value when all runs have the same."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """First, last and best held-out accuracy of one run on one set."""

    run: str
    held_out: str
    k: int
    count: int
    first: Evaluation
    last: Evaluation
    best: Evaluation


@dataclass(frozen=True)
class Sample:
    """One sampled response, with all of its text."""

    run: int
    anchor: str  # a name in the page's address
    rollout: int
    when: str
    outcome: str
    prompt_id: str
    prompt: str
    response: str
    reward: str
    advantage: str
    answer: str
    gold: str
    reason: str
    tokens: str


def facts(runs: Sequence[Run]) -> list[Fact]:
    """Return what each run is, with lines that no run has left out."""
    lines = {
        "recipe": lambda run: run.config.get("recipe"),
        "method": lambda run: words.method_name(run.setting("loss")),
        "loss": lambda run: words.method_details(run.setting("loss")),
        "model": lambda run: run.setting("model", "path"),
        "task": lambda run: run.setting("data", "path"),
        "seed": lambda run: run.config.get("seed"),
        "rollouts": lambda run: words.count(len(run.rollouts)),
        "updates": lambda run: words.count(len(run.updates)),
        "responses": lambda run: words.count(series.total(run.rollouts, names.RESPONSES)),
        "tokens trained on": lambda run: words.count(series.total(run.updates, names.TOKENS)),
        "wall time": lambda run: words.duration(series.elapsed_s(run)),
        "started": lambda run: run.config.get("started"),
        "hardware": lambda run: words.hardware(run.config.get("hardware")),
        "commit": lambda run: run.config.get("commit"),
        "versions": lambda run: _versions(run.config.get("versions")),
    }
    found = [Fact(name, _per_run(runs, value)) for name, value in lines.items()]
    return [fact for fact in found if any(fact.values)]


def differing_settings(runs: Sequence[Run]) -> list[Fact]:
    """Return the config keys in which several runs differ, with every run's value."""
    flats = [words.flat(run.config.get("config") or {}) for run in runs]
    keys = {key for settings in flats for key in settings}
    differing = []
    for key in sorted(keys):
        values = tuple(json.dumps(s[key]) if key in s else "–" for s in flats)
        if len(set(values)) > 1 and not set(values) <= {"–", "[]", "{}"}:
            differing.append(Fact(key, values))
    return differing


def results(runs: Sequence[Run]) -> list[Result]:
    """Return a line per held-out set and run; the earliest of equally good evaluations is best."""
    lines = []
    for run in runs:
        for (held_out, k), points in series.evaluations(run).items():
            best = max(points, key=lambda point: point.value)
            line = Result(run.label, held_out, k, len(points), points[0], points[-1], best)
            lines.append(line)
    return sorted(lines, key=lambda line: (line.held_out, line.k))


def samples(runs: Sequence[Run]) -> list[Sample]:
    """Return some responses of every run's first and last rollout: at most 8 of each outcome."""
    chosen = []
    for index, run in enumerate(runs):
        last = max((row["rollout"] for row in run.samples), default=0)
        counts: dict[int, int] = {}  # responses of each rollout seen so far
        taken: dict[tuple[int, str], int] = {}
        for row in run.samples:
            counts[row["rollout"]] = counts.get(row["rollout"], 0) + 1
            key = (row["rollout"], words.outcome(row))
            taken[key] = taken.get(key, 0) + 1
            if taken[key] <= _SAMPLES_PER_FATE:
                when = "last" if row["rollout"] == last else "first"
                anchor = f"sample-{index}-{row['rollout']}-{counts[row['rollout']]}"
                chosen.append(_sample(index, anchor, row, when))
    return chosen


def _sample(run: int, anchor: str, row: Row, when: str) -> Sample:
    def text(name: str) -> str:
        value = row.get(name)
        return words.printable(json.dumps(value) if isinstance(value, dict | list) else value)

    return Sample(
        run=run,
        anchor=anchor,
        rollout=row["rollout"],
        when=when,
        outcome=words.outcome(row),
        prompt_id=text("prompt_id"),
        prompt=text("prompt"),
        response=text("response"),
        reward=_signed(row, "reward"),
        advantage=_signed(row, "advantage"),
        answer=text("answer"),
        gold=text("gold"),
        reason=text("reason"),
        tokens=text("tokens"),
    )


def _signed(row: Row, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, int | float):
        return ""
    try:
        return f"{value:+.2f}".replace("-", "−")
    except OverflowError:  # an integer beyond every float
        return "∞" if value > 0 else "−∞"


def _per_run(runs: Sequence[Run], value: Any) -> tuple[str, ...]:
    texts = tuple(words.printable(value(run)) for run in runs)
    return texts[:1] if len(set(texts)) == 1 else texts


def _versions(versions: Any) -> str:
    if not isinstance(versions, Mapping):
        return ""
    return ", ".join(f"{name} {version}" for name, version in versions.items())
