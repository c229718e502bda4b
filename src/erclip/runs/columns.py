"""Lines of metrics.jsonl as columns: a run of a million lines must fit into memory.

Letters: N rows of one kind. In a column NaN means "not measured" (absent or null), ±inf "measured,
but no number that can be drawn" (NaN, infinite, text, beyond 1e100).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
from jaxtyping import Float, Int

LARGEST = 1e100  # beyond it, the sums and margins of a plot overflow
COUNTERS = ("rollout", "update", "update_in_rollout")
_CHUNK = 4096  # rows that wait as objects before they become columns

Row = Mapping[str, Any]

decode = json.JSONDecoder(parse_constant=lambda name: math.inf).decode
"""JSON with every NaN as infinity, so that it is told from null."""


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
    """Takes the rows of one kind one after another."""

    def __init__(self, kind: str):
        self.kind = kind
        self._keys: dict[tuple[str, ...], int] = {}
        self._waiting: dict[tuple[str, ...], tuple[list[int], list[Any]]] = {}
        self._parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        self._which: list[tuple[np.ndarray, int]] = []
        self._count = 0

    def add(self, row: dict[str, Any]) -> None:
        """Take over one row, without its `kind`."""
        keys = tuple(row)
        places, values = self._waiting.setdefault(keys, ([], []))
        places.append(self._count)
        values.append(row.values())
        self._count += 1
        if len(places) == _CHUNK:
            self._pack(keys)

    def rows(self) -> Rows:
        """Everything that was added."""
        for keys in list(self._waiting):
            self._pack(keys)
        columns = {}
        while self._parts:
            name, parts = self._parts.popitem()
            columns[name] = np.full(self._count, math.nan)
            while parts:
                places, values = parts.pop()
                columns[name][places] = values
        which = np.zeros(self._count, dtype=np.int32)
        for places, number in self._which:
            which[places] = number
        return Rows(self.kind, columns, list(self._keys), which)

    def _pack(self, keys: tuple[str, ...]) -> None:
        places, values = self._waiting.pop(keys)
        where = np.array(places, dtype=np.int64)
        self._which.append((where, self._keys.setdefault(keys, len(self._keys))))
        for name, column in zip(keys, _matrix(values), strict=True):
            self._parts.setdefault(name, []).append((where, column.copy()))


def _matrix(values: list[Any]) -> Float[np.ndarray, "K n"]:
    """Values of rows with the same K keys as numbers."""
    try:
        found = np.array([tuple(row) for row in values], dtype=np.float64).T
    except (TypeError, ValueError, OverflowError):  # a text, a list, an integer without end
        found = np.array([[_number(value) for value in row] for row in values]).T
    return np.where(np.abs(found) > LARGEST, math.inf, found)


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
