"""A run directory → `Run`, one frozen record. The only module here that reads files."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from erclip.errors import UserError
from erclip.machine.files import read_json, real
from erclip.runs import names
from erclip.runs.columns import COUNTERS, Collector, Row, Rows, decode
from erclip.text import printable

MOST_ROLLOUTS = 10**9
MOST_NOTES = 5  # on single lines of a file


@dataclass(frozen=True)
class Run:
    """What a run directory holds.

    `rollouts`, `updates` and `evals` are the lines of metrics.jsonl by kind, in order of time, one
    per rollout or update; `samples` are the sampled responses of the first and the last rollout
    that has any; `tokens` the responses whose tokens were recorded. `notes` are whole sentences on
    what is missing or odd, for the reader's eyes.
    """

    path: Path
    label: str
    config: Mapping[str, Any]
    rollouts: Rows
    updates: Rows
    evals: Rows
    samples: tuple[Row, ...]
    notes: tuple[str, ...]
    tokens: tuple[Row, ...] = ()

    def setting(self, *keys: str) -> Any:
        """Return the value at this path of the resolved config, None where there is none."""
        value: Any = self.config.get("config")
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


def read_run(path: Path) -> Run:
    """Read one run directory; a run that was interrupted is read as far as it got.

    Raises `UserError` when the folder holds no readable config.json.
    """
    config = _read_config(path)
    rows, notes = _read_metrics(path / "metrics.jsonl")
    rollouts, repeated = rows["rollout"].last_of_each("rollout")
    updates, repeated_updates = rows["update"].last_of_each("rollout", "update_in_rollout")
    samples, sample_notes = _read_samples(path / "samples.jsonl")
    run = Run(
        path=path,
        label=printable(real(path).name),
        config=config,
        rollouts=rollouts,
        updates=updates,
        evals=rows["eval"].merged("rollout"),
        samples=samples,
        tokens=_read_tokens(path / "tokens.jsonl"),
        notes=(),
    )
    if repeated or repeated_updates:
        notes.append(
            f"{repeated} rollouts and {repeated_updates} updates were recorded more than once, as"
            " after a resume; the last record of each counts."
        )
    notes += [*_unfinished(run), *_skipped(run), *_not_finite(rows.values()), *sample_notes]
    return replace(run, notes=tuple(notes))


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read several runs and give each a label that no other one has.

    Raises `UserError` when there are none, or when one folder is named twice.
    """
    if not paths:
        raise UserError("no run directory was given; name at least one")
    resolved = [real(path) for path in paths]
    for path, count in Counter(resolved).items():
        if count > 1:
            raise UserError(f"the run directory {path} was given {count} times; name it once")
    runs = [read_run(path) for path in paths]
    depth = 1
    labels = [printable("/".join(path.parts[-depth:])) for path in resolved]
    while len(set(labels)) < len(labels):
        depth += 1
        labels = [printable("/".join(path.parts[-depth:])) for path in resolved]
    return [replace(run, label=label) for run, label in zip(runs, labels, strict=True)]


def _read_config(path: Path) -> Mapping[str, Any]:
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise UserError(f"{path} {what}; give the folder that `erclip train` wrote")
    if not (path / "config.json").is_file():
        raise UserError(f"{path} is not a run directory: it holds no config.json")
    return read_json(path / "config.json")


def _read_metrics(file: Path) -> tuple[dict[str, Rows], list[str]]:
    """Return the rows by kind, and notes on lines that are none."""
    found = {kind: Collector(kind) for kind in ("rollout", "update", "eval")}
    lines = _Lines(file)
    for row in lines:
        kind = row.pop("kind", None)
        if isinstance(kind, str) and kind in found:
            found[kind].add(row)
    return {kind: collector.rows() for kind, collector in found.items()}, lines.notes()


def _read_samples(file: Path) -> tuple[tuple[Row, ...], list[str]]:
    """Return the responses of the first and the last rollout that has any."""
    first: list[Row] = []
    last: list[Row] = []
    lines = _Lines(file)
    for row in lines:
        for ends, better in ((first, operator.lt), (last, operator.gt)):
            if ends and better(row["rollout"], ends[0]["rollout"]):
                ends.clear()
            if not ends or row["rollout"] == ends[0]["rollout"]:
                ends.append(row)
    same = bool(first) and first[0]["rollout"] == last[0]["rollout"]
    return tuple(first if same else [*first, *last]), lines.notes()


def _read_tokens(file: Path) -> tuple[Row, ...]:
    """Return the responses of tokens.jsonl; a run resumed after a stop may have some twice."""
    rows = [row for row in _Lines(file) if _has_pieces(row)]
    return tuple({(row["rollout"], str(row.get("number"))): row for row in rows}.values())


def _has_pieces(row: Row) -> bool:
    pieces = row.get("pieces")
    return isinstance(pieces, list) and bool(pieces) and all(isinstance(p, str) for p in pieces)


def _is_rollout(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST_ROLLOUTS


class _Lines:
    """The records of a JSON-lines file, and what is said about the lines that are none."""

    def __init__(self, file: Path):
        self._file = file
        self._bad: list[int] = []
        self._number = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self._file.is_file():
            return
        with self._file.open("rb") as lines:
            for self._number, line in enumerate(lines, start=1):
                try:
                    row = decode(line)
                except (ValueError, RecursionError):
                    row = None
                if isinstance(row, dict) and _is_rollout(row.get("rollout")):
                    yield row
                elif line.strip():
                    self._bad.append(self._number)

    def notes(self) -> list[str]:
        """Whole sentences, a few."""
        name, bad = self._file.name, self._bad
        if not self._file.is_file():
            return [f"There is no {name}."]
        notes = []
        if bad and bad[-1] == self._number:
            bad = bad[:-1]
            notes.append(
                f"The last line of {name} (line {self._number}) is incomplete, as when a run is"
                " interrupted; it is left out."
            )
        if len(bad) > MOST_NOTES:
            return [
                f"{len(bad)} lines of {name} are no records of a run, the first of them line"
                f" {bad[0]}; they are left out.",
                *notes,
            ]
        return [
            f"Line {number} of {name} is not a record of a run; it is left out." for number in bad
        ] + notes


def _unfinished(run: Run) -> Iterator[str]:
    planned = run.setting("trainer", "rollouts")
    done = len(run.rollouts)
    if not run.updates and not run.rollouts:
        yield "No rollout was finished, so there is nothing to plot yet."
    elif isinstance(planned, int) and done < planned:
        yield f"The run has {done} of the {planned} rollouts that were planned."


def _skipped(run: Run) -> Iterator[str]:
    count = int(np.nansum(run.updates.column(names.GRAD_SKIPPED) != 0)) if run.updates else 0
    missing = int(np.isnan(run.updates.column(names.GRAD_SKIPPED)).sum())
    if count - missing:
        yield (
            f"{count - missing} of {len(run.updates)} updates were skipped, because their gradient"
            " was not finite."
        )


def _not_finite(kinds: Iterable[Rows]) -> Iterator[str]:
    """Yield a sentence for each metric with values that are none (null means: not measured)."""
    found: dict[str, tuple[int, Row]] = {}
    for rows in kinds:
        for name, column in rows.columns.items():
            places = np.flatnonzero(np.isinf(column))
            if len(places) and name not in COUNTERS:
                count, first = found.get(name, (0, rows[int(places[0])]))
                found[name] = count + len(places), first
    for name, (count, row) in found.items():
        where = f"rollout {row['rollout']}"
        if row.get("kind") == "update":
            where += f", update {row.get('update_in_rollout', '?')}"
        values = "value that is" if count == 1 else "values that are"
        yield (
            f"{printable(name)} has {count} {values} NaN or infinite, first in {where};"
            " the curves have a gap there."
        )
