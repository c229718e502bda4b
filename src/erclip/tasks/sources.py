"""Rows from a local file or from the Hugging Face hub, each with the place it came from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from erclip.errors import UserError
from erclip.extras import need

SUFFIXES = (".jsonl", ".json", ".parquet")
_HUB_ID = re.compile(r"(?:[\w.-]+/)?[\w.-]+(?::[\w.-]+)?")


class Located(NamedTuple):
    """A row and where it stands, such as `train.jsonl:17`."""

    row: Any
    where: str


def read_rows(path: str, split: str) -> Iterator[Located]:
    """The rows of a .jsonl, .json or .parquet file, or of a hub id `owner/name[:config]`.

    A path with one of the three suffixes is always a file, so that a mistyped name is reported
    as a missing file, not looked for on the network. `split` names a split of a hub data set.
    """
    file = Path(path)
    if file.suffix not in SUFFIXES:
        if file.exists():
            raise UserError(f"{path} is not a data file: give a {', '.join(SUFFIXES)} file")
        return _hub(path, split)
    if not file.is_file():
        raise UserError(f"there is no file {path}: check the data path")
    return {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}[file.suffix](file)


def _jsonl(file: Path) -> Iterator[Located]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(_decoded(lines, file), start=1):
            if line.strip():
                yield Located(_parsed(line, f"{file}:{number}"), f"{file}:{number}")


def _decoded(lines: Iterator[str], file: Path) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text ({error.reason}): convert it first") from None


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON ({error}): fix or remove it") from None


def _json(file: Path) -> Iterator[Located]:
    with file.open(encoding="utf-8-sig") as lines:
        rows = _parsed("".join(_decoded(lines, file)), str(file))
    if not isinstance(rows, list):
        raise UserError(f"{file} must hold a JSON list of rows: use .jsonl for one row a line")
    for number, row in enumerate(rows, start=1):
        yield Located(row, f"{file} row {number}")


def _parquet(file: Path) -> Iterator[Located]:
    pyarrow, parquet = (need(f"pyarrow{part}", f"reading {file}") for part in ("", ".parquet"))
    try:
        table = parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file} is not a readable parquet file ({reason})") from None
    for number, row in enumerate(table.to_pylist(), start=1):
        yield Located(row, f"{file} row {number}")


def _hub(path: str, split: str) -> Iterator[Located]:
    if not _HUB_ID.fullmatch(path):
        raise UserError(f"no data at {path!r}: give a data file or a hub id such as openai/gsm8k")
    asking = f"the hub data set {path!r}"
    datasets = need("datasets", asking, ", or give a local .jsonl file")
    name, _, config = path.partition(":")
    try:
        rows = datasets.load_dataset(name, config or None, split=split)
    except Exception as error:  # the library raises dozens of types for "not there" and "offline"
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the hub data set {path!r}, split {split!r}, could not be loaded "
            f"({type(error).__name__}: {reason}): check the name, the split and the connection, "
            "or give a local .jsonl file"
        ) from error
    for number, row in enumerate(rows, start=1):
        yield Located(row, f"{path}[{split}] row {number}")
