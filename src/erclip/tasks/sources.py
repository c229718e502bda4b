"""Rows from a local file or from the Hugging Face hub, each with the place it came from."""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from erclip.errors import UserError
from erclip.extras import need
from erclip.machine.hub import from_hub

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")
COMPRESSED = ".gz"
_HUB_ID = re.compile(r"(?:[\w.-]+/)?[\w.-]+(?::[\w.-]+)?")


class Located(NamedTuple):
    """A row and where it stands, such as `train.jsonl:17`."""

    row: Any
    where: str


def read_rows(path: str, split: str) -> Iterator[Located]:
    """The rows of a file with one of `SUFFIXES` (text also as .gz), or of a hub id.

    A path with one of the suffixes is always a file, so that a mistyped name is reported as a
    missing file, not looked for on the network. `split` names a split of a hub data set
    `owner/name[:config]`.
    """
    file = Path(path)
    suffix = suffix_of(file)
    if suffix not in SUFFIXES:
        if file.exists():
            raise UserError(
                f"{path} is not a data file: give a {', '.join(SUFFIXES)} file (or {COMPRESSED})"
            )
        return _hub(path, split)
    if not file.is_file():
        raise UserError(f"there is no file {path}: check the data path")
    readers = {".json": _json, ".parquet": _parquet, ".csv": _csv, ".tsv": _csv}
    return readers.get(suffix, _jsonl)(file)


def suffix_of(file: Path) -> str:
    """What kind of data file this is, whether compressed or not.

    >>> suffix_of(Path("rows.jsonl.gz")), suffix_of(Path("rows.csv"))
    ('.jsonl', '.csv')
    """
    return (Path(file.stem).suffix if file.suffix == COMPRESSED else file.suffix).lower()


def name_of(path: str) -> str:
    """The file's name without its suffixes: the name of its set."""
    return Path(Path(path).name.removesuffix(COMPRESSED)).stem


def _open(file: Path) -> IO[str]:
    """The text without a byte-order mark, line ends as they are."""
    if file.suffix == COMPRESSED:
        return gzip.open(file, "rt", encoding="utf-8-sig", newline="")
    return file.open(encoding="utf-8-sig", newline="")


def _lines(lines: IO[str], file: Path) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text ({error.reason}): convert it first") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file} cannot be read ({error}): fetch it again") from None


def _jsonl(file: Path) -> Iterator[Located]:
    with _open(file) as lines:
        for number, line in enumerate(_lines(lines, file), start=1):
            if line.strip():
                yield Located(_parsed(line, f"{file}:{number}"), f"{file}:{number}")


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON ({error}): fix or remove it") from None


def _json(file: Path) -> Iterator[Located]:
    """A list of rows, or (as many data sets name it) a row a line."""
    with _open(file) as lines:
        text = "".join(_lines(lines, file))
    if not text.lstrip().startswith("["):
        yield from _jsonl(file)
        return
    for number, row in enumerate(_parsed(text, str(file)), start=1):
        yield Located(row, f"{file} row {number}")


def _csv(file: Path) -> Iterator[Located]:
    """Rows by the names of the first line; a cell that holds a JSON list or object is one."""
    delimiter = "\t" if suffix_of(file) == ".tsv" else ","
    limit = csv.field_size_limit(1 << 27)
    try:
        with _open(file) as lines:
            reader = csv.DictReader(_lines(lines, file), delimiter=delimiter, strict=True)
            for row in reader:
                where = f"{file}:{reader.line_num}"
                if None in row or None in row.values():
                    raise UserError(f"{where}: has other columns than the first line: fix it")
                yield Located({name: _cell(value) for name, value in row.items()}, where)
    except csv.Error as error:
        raise UserError(f"{file} is not a readable {suffix_of(file)} file ({error})") from None
    finally:
        csv.field_size_limit(limit)


def _cell(text: str) -> Any:
    """A column of messages or of an object comes as JSON; everything else is text."""
    if text[:2] in ("[{", '{"'):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text


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
    name, _, config = path.partition(":")
    try:
        with from_hub("The data set", name, "give a local .jsonl file, or connect"):
            datasets = need("datasets", asking, ", or give a local .jsonl file")
            rows = datasets.load_dataset(name, config or None, split=split)
    except UserError:
        raise
    except Exception as error:  # the library raises dozens of types for "not there" and "offline"
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the hub data set {path!r}, split {split!r}, could not be loaded "
            f"({type(error).__name__}: {reason}): check the name, the split and the connection, "
            "or give a local .jsonl file"
        ) from error
    for number, row in enumerate(rows, start=1):
        yield Located(row, f"{path}[{split}] row {number}")
