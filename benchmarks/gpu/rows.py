"""Rows of a measurement: a CSV file that grows row by row, so that whatever ends it keeps them."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path


@cache
def machine() -> dict[str, str]:
    """What every row of `make gpu` says of where it was measured; the driver looked it up."""
    keys = ("date", "commit", "device", "driver", "torch", "triton", "transformers")
    return {key: os.environ.get(f"ERCLIP_GPU_{key.upper()}", "") for key in keys}


class Rows:
    """A CSV file with a fixed set of columns; `key` tells rows apart, `on` begins each of them."""

    def __init__(
        self,
        path: Path,
        key: Sequence[str],
        columns: Sequence[str],
        on: Mapping[str, str] | None = None,
    ):
        self.path, self.key = path, tuple(key)
        self.on = machine() if on is None else on
        self.columns = (*self.on, *key, *columns)
        self.found: list[dict[str, str]] = []
        if path.is_file():
            with path.open(newline="") as file:
                self.found = list(csv.DictReader(file))

    def has(self, *key: object) -> bool:
        """Whether an earlier call wrote this row."""
        return bool(self._of(*key))

    def measured(self, *key: object) -> bool:
        """Whether an earlier call measured this row; one that it skipped may be tried again."""
        return any(not row.get("skipped") for row in self._of(*key))

    def _of(self, *key: object) -> list[dict[str, str]]:
        wanted = [str(value) for value in key]
        return [row for row in self.found if [row[name] for name in self.key] == wanted]

    def add(self, *key: object, **values: object) -> None:
        """Write one row to the disk, and to the screen."""
        row = {**self.on, **dict(zip(self.key, key, strict=True)), **values}
        first = not self.path.is_file()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            if first:
                writer.writeheader()
            writer.writerow(row)
        self.found.append({name: str(value) for name, value in row.items()})
        shown = {name: value for name, value in values.items() if value != ""}
        print(*key, *(f"{name}={value}" for name, value in shown.items()), flush=True)
