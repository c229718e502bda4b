"""Lines of metrics.jsonl as columns: a run of a million lines must fit into memory.

Letters: N rows of one kind. In a column NaN means "not measured" (absent or null), ±inf "measured,
but no number that can be drawn" (NaN, infinite, text, beyond 1e100).
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
from jaxtyping import Float, Int
from pydantic_core import from_json

LARGEST = 1e100  # beyond it, the sums and margins of a plot overflow
COUNTERS = ("rollout", "update", "update_in_rollout")
_BLOCK = 4096  # rows of a table that become columns at once: they fit into a processor's cache

Row = Mapping[str, Any]

_patient = json.JSONDecoder(parse_constant=lambda name: math.inf).decode


def decode(line: bytes) -> Any:
    """A line of JSON with every NaN as infinity, so that it is told from null.

    pydantic's reader is three times as fast as Python's, which takes what that refuses: bytes that
    are no UTF-8, halves of a surrogate pair. Raises ValueError or RecursionError.
    """
    if b"NaN" not in line:
        try:
            return from_json(line)
        except ValueError:
            pass
    return _patient(line.decode("utf-8-sig", errors="replace"))


class Rows(Sequence[Row]):
    """Rows of one kind, read one by one as mappings or whole as columns."""

    def __init__(
        self,
        kind: str,
        columns: Mapping[str, Float[np.ndarray, " N"]],
        keys: Sequence[tuple[str, ...]],
        which: Int[np.ndarray, " N"],
    ):
        """`keys[which[i]]` are the names that row i has, with a value or null."""
        self.kind, self.columns = kind, columns
        self._keys, self._which = keys, which

    def __len__(self) -> int:
        return len(self._which)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Row | Rows:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        row: dict[str, Any] = {"kind": self.kind}
        for name in self._keys[self._which[index]]:
            value = float(self.columns[name][index])
            row[name] = _plain(name, value)
        return row

    def __iter__(self) -> Iterator[Row]:
        return (self[i] for i in range(len(self)))

    def column(self, name: str) -> Float[np.ndarray, " N"]:
        """A metric of every row; see the module for NaN and infinity."""
        found = self.columns.get(name)
        return np.full(len(self), math.nan) if found is None else found

    def take(self, rows: Int[np.ndarray, " M"]) -> Rows:
        """Some of the rows, in the order that is asked for."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Rows(self.kind, columns, self._keys, self._which[rows])

    def last_of_each(self, *keys: str) -> tuple[Rows, int]:
        """The last row for each value of `keys` in order, and how many values had more than one.

        A key that is missing counts as 1.
        """
        values = [np.nan_to_num(self.column(key), nan=1.0, posinf=1.0, neginf=1.0) for key in keys]
        order = np.lexsort((np.arange(len(self)), *reversed(values)))
        changes = np.ones(len(self), dtype=bool)  # where, in this order, another value begins
        if len(self):
            changes[1:] = np.any([np.diff(value[order]) != 0 for value in values], axis=0)
        last = order[np.roll(changes, -1)] if len(self) else order
        counts = np.diff([*np.flatnonzero(changes), len(self)])
        repeated = int((counts > 1).sum())
        if len(last) == len(self) and bool(np.all(last == np.arange(len(self)))):
            return self, repeated
        return self.take(last), repeated

    def merged(self, key: str) -> Rows:
        """One row for each value of `key` in order; of what several have, the last value counts."""
        values, place = np.unique(self.column(key), return_inverse=True)
        if len(values) == len(self):
            return self.take(np.argsort(self.column(key), kind="stable"))
        columns = {}
        for name, column in self.columns.items():
            known = ~np.isnan(column)
            columns[name] = np.full(len(values), math.nan)
            columns[name][place[known]] = column[known]
        names = tuple(columns)
        return Rows(self.kind, columns, [names], np.zeros(len(values), dtype=np.int32))


class Collector:
    """Takes the rows of one kind one after another, those with the same names as one table."""

    def __init__(self, kind: str):
        self.kind = kind
        self._tables: dict[tuple[str, ...], tuple[array[int], array[float]]] = {}
        self._count = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Take over one row, without its `kind`."""
        keys = tuple(row)
        table = self._tables.get(keys)
        if table is None:
            table = self._tables[keys] = array("q"), array("d")
        places, numbers = table
        before = len(numbers)
        try:
            numbers.extend([math.nan if value is None else value for value in row.values()])
        except (TypeError, OverflowError):  # a text, a list, an integer without end
            del numbers[before:]
            numbers.extend(map(_number, row.values()))
        places.append(self._count)
        self._count += 1

    def rows(self) -> Rows:
        """Everything that was added."""
        names = dict.fromkeys(name for keys in self._tables for name in keys)
        columns = {name: np.full(self._count, math.nan) for name in names}
        which = np.zeros(self._count, dtype=np.int32)
        for number, (keys, (places, numbers)) in enumerate(self._tables.items()):
            where = np.frombuffer(places, dtype=np.int64)
            which[where] = number
            table = np.frombuffer(numbers).reshape(len(where), len(keys))
            for start in range(0, len(where), _BLOCK):
                block, rows = table[start : start + _BLOCK], where[start : start + _BLOCK]
                block = np.where(np.abs(block) > LARGEST, math.inf, block)
                for name, values in zip(keys, block.T, strict=True):
                    columns[name][rows] = values
        return Rows(self.kind, columns, list(self._tables), which)


def _plain(name: str, value: float) -> float | int | None:
    if math.isnan(value):
        return None
    return int(value) if name in COUNTERS and math.isfinite(value) else value


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if not isinstance(value, int | float):
        return math.inf
    try:
        return float(value)
    except OverflowError:
        return math.inf
