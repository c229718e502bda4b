"""runs.csv, a row per finished run, and curves.csv, a row per evaluation of one.

Rows are appended as runs finish, the curve first, so that a row in runs.csv is a run that is all
there; a line that was cut by a kill is left out. The last row of a cell counts: a run whose
settings have changed since is made again and appended. A file from before a column was there is
read as if it were empty in it, and gets it with the next row.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from erclip.errors import UserError
from erclip.machine.files import append, write_text
from erclip.study.design import Cell, Study
from erclip.study.outcomes import Row

VALUES = (
    *("settings", "status", "k", "first_accuracy", "final_accuracy", "best_accuracy"),
    *("best_rollout", "final_pass_at_k", "collapsed", "first_entropy", "final_entropy"),
    *("kl_old", "kl_old_max", "grad_norm", "grad_norm_max", "clip_erc_frac", "clip_ppo_frac"),
    *("clip_random_frac", "kl_start", "final_reward", "first_greedy", "final_greedy"),
    *("updates", "skipped_updates"),
    *("cpu_s", "wall_s", "commit", "hardware", "cpu", "versions", "finished"),
)
CURVE = (
    *("rollout", "accuracy", "pass_at_k", "train_accuracy", "entropy", "kl_old"),
    *("grad_norm", "grad_norm_max", "clip_erc_frac", "clip_ppo_frac", "clip_random_frac"),
    *("kl_start", "greedy"),
)
ADDED = ("kl_start", "final_reward", "first_greedy", "final_greedy", "greedy", "cpu")
"""Columns that older files do not have."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Results:
    """The two files of a study in its folder, and what they hold."""

    def __init__(self, study: Study, folder: Path):
        self.study, self.folder = study, folder
        self._columns: tuple[str, ...] = ("method", *study.columns.values(), "seed")

    @property
    def runs(self) -> Path:
        """The file with a row per run."""
        return self.folder / "runs.csv"

    @property
    def curves(self) -> Path:
        """The file with a row per evaluation."""
        return self.folder / "curves.csv"

    @property
    def _files(self) -> tuple[Path, Path]:
        return self.runs, self.curves

    def check(self) -> None:
        """Refuse a folder whose rows belong to another grid: they would be lost."""
        for path in self._files:
            held = _columns(path)
            keys = held[: held.index("seed") + 1] if "seed" in held else held
            if held and keys != self._columns:
                raise UserError(
                    f"{path} has rows of another grid ({', '.join(keys)}; this study has "
                    f"{', '.join(self._columns)}): give --out a new folder."
                )

    def rows(self) -> dict[Cell, Row]:
        """The last row of every cell of the study that has one."""
        known = {self._key(cell): cell for cell in self.study.cells()}
        found = {
            tuple(row[name] for name in self._columns): row
            for row in _read(self.runs, (*self._columns, *VALUES))
        }
        return {known[key]: row for key, row in found.items() if key in known}

    def curve(self) -> dict[Cell, list[Row]]:
        """The evaluations of every cell in order; of several runs of a cell the last one's."""
        known = {self._key(cell): cell for cell in self.study.cells()}
        found: dict[Cell, list[Row]] = {}
        for row in _read(self.curves, (*self._columns, *CURVE)):
            cell = known.get(tuple(row[name] for name in self._columns))
            if cell is None:
                continue
            points = found.setdefault(cell, [])
            if points and int(row["rollout"]) <= int(points[-1]["rollout"]):
                points.clear()
            points.append(row)
        return found

    def add(self, cell: Cell, values: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]) -> Row:
        """Append a run; it is on the disk when this returns."""
        now = (*self._columns, *VALUES), (*self._columns, *CURVE)
        if any(_columns(path) not in ((), own) for path, own in zip(self._files, now, strict=True)):
            self.tidy()
        key = dict(zip(self._columns, self._key(cell), strict=True))
        lines = [{**key, **_texts(point)} for point in curve]
        _append(self.curves, (*self._columns, *CURVE), lines)
        row = {**key, **_texts(values)}
        _append(self.runs, (*self._columns, *VALUES), [row])
        return row

    def tidy(self) -> None:
        """Rewrite both files in the order of the study, each cell once."""
        rows, curves = self.rows(), self.curve()
        order = [cell for cell in self.study.cells() if cell in rows]
        _replace(self.runs, (*self._columns, *VALUES), (rows[cell] for cell in order))
        lines = (point for cell in order for point in curves.get(cell, ()))
        _replace(self.curves, (*self._columns, *CURVE), lines)

    def _key(self, cell: Cell) -> tuple[str, ...]:
        return (_text(cell.method), *(_text(value) for _, value in cell.point), str(cell.seed))


def _text(value: Any) -> str:
    """A value as a cell; a text that a spreadsheet would run as a formula is quoted.

    >>> _text("=HYPERLINK(1)"), _text(-0.5), _text("+ERC")
    ("'=HYPERLINK(1)", '-0.5', "'+ERC")
    """
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA) else value
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: "" if value is None or value != value else _text(value)
        for name, value in values.items()
    }


def _read(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Whole lines only: a kill may have cut the last one."""
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    needed = set(columns) - set(ADDED)
    for row in csv.DictReader(io.StringIO(whole)):
        if None not in row and needed <= set(row) and None not in row.values():
            yield {**dict.fromkeys(ADDED, ""), **row}


def _columns(path: Path) -> tuple[str, ...]:
    """The heading of a file; of none, nothing."""
    if not path.is_file():
        return ()
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(next(csv.reader(file), ()))


def _append(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    held = path.read_bytes() if path.is_file() else b""
    whole = held.rfind(b"\n") + 1
    if whole < len(held):  # a kill cut the last line, or the first
        os.truncate(path, whole)
    if not whole:
        writer.writeheader()
    writer.writerows(rows)
    append(path, buffer.getvalue(), durable=True)


def _replace(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())
