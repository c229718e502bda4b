"""The folder of one evaluation: what was asked, every response, the numbers.

    evaluation.json       settings, weights and texts (as hashes), versions, hardware
    responses/<set>.jsonl a line per response, in the order of the problems
    times.jsonl           a line per process that worked on it
    result.json           the numbers; there only when nothing is missing

A stopped evaluation is continued by the same command. Lines are only kept by whole chunks, so the
files of a continued evaluation are those of an uninterrupted one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from erclip.errors import UserError
from erclip.machine.files import append as append_text
from erclip.machine.files import leftovers, parsed, read_json, write_json
from erclip.machine.locks import LOCK
from erclip.training.outcomes import Outcome

ABOUT, RESULT, TIMES = "evaluation.json", "result.json", "times.jsonl"

Line = dict[str, Any]

_KEYS = {"prompt_id", "index", *Outcome.__dataclass_fields__}

_WORDS = {
    "weights_sha256": "model (its weights differ)",
    "max_tokens": "limit of tokens",
    "texts": "text of the problems",
}


def is_evaluation(path: Path) -> bool:
    """Whether a folder is that of an evaluation, finished or not."""
    return (path / ABOUT).is_file()


def response_file(path: Path, name: str) -> Path:
    """Where the responses to one set are."""
    return path / "responses" / f"{name}.jsonl"


def claim(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a folder that is no place for this evaluation, before anything slow happens."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; --out must name a folder for the evaluation.")
    if is_evaluation(path):
        _refuse_difference(path, read_about(path)["settings"], settings)
    elif _foreign(path):
        raise UserError(f"{path} holds other files; give --out a new folder.")


def sweep(path: Path) -> None:
    """Remove what was being written when a process was killed; for who holds the lock."""
    for scratch in leftovers(path):
        scratch.unlink()


def begin(path: Path, about: Mapping[str, Any]) -> None:
    """Write evaluation.json, or check that the one there is about the same weights and texts."""
    if is_evaluation(path):
        there = read_about(path)
        for key, words in _WORDS.items():
            if there[key] != about[key]:
                raise UserError(
                    f"{path} holds an evaluation with another {words}; give --out a new folder."
                )
        return
    write_json(path / ABOUT, about)
    (path / "responses").mkdir(exist_ok=True)


def read_about(path: Path) -> dict[str, Any]:
    """evaluation.json, or one sentence on what is wrong with it."""
    about = read_json(path / ABOUT, "put it back, or give --out a new folder")
    if not {"settings", *_WORDS} <= about.keys() or not isinstance(about["settings"], dict):
        raise UserError(f"{path / ABOUT} is not the description of an evaluation.")
    return about


def read_responses(path: Path, name: str) -> list[Line]:
    """The lines that are whole, up to the first that is not."""
    file = response_file(path, name)
    if not file.exists():
        return []
    lines: list[Line] = []
    for text in file.read_bytes().split(b"\n")[:-1]:
        line = parsed(text)
        if not isinstance(line, dict) or not line.keys() >= _KEYS:
            break
        lines.append(line)
    return lines


def keep_whole_chunks(path: Path, name: str, chunks: Sequence[Sequence[tuple[str, int]]]) -> int:
    """How many chunks are there in full; what follows them is cut off.

    A chunk is the (prompt id, index) of its responses; lines that don't match are another
    evaluation's, or edited, and are refused.
    """
    there = [(line.get("prompt_id"), line.get("index")) for line in read_responses(path, name)]
    done, position = 0, 0
    for chunk in chunks:
        end = position + len(chunk)
        if end > len(there):
            break
        if there[position:end] != list(chunk):
            raise UserError(
                f"{response_file(path, name)} does not hold the responses that its evaluation.json "
                "describes; give --out a new folder."
            )
        done, position = done + 1, end
    _cut(response_file(path, name), position)
    return done


def append(path: Path, name: str, lines: Iterable[Line]) -> None:
    """Add one chunk, in one write."""
    file = response_file(path, name)
    file.parent.mkdir(exist_ok=True)
    append_text(file, "".join(json.dumps(line) + "\n" for line in lines), durable=True)


def _cut(file: Path, lines: int) -> None:
    """Keep the first lines; a file only ever gets shorter here, so a kill leaves whole chunks."""
    if file.exists():
        kept = file.read_bytes().split(b"\n")[:lines]
        size = sum(len(line) + 1 for line in kept)
        if size < file.stat().st_size:
            os.truncate(file, size)


def _foreign(path: Path) -> bool:
    """Whether a folder holds what no evaluation has left there."""
    if not path.is_dir():
        return False
    own = {LOCK, *(scratch.name for scratch in leftovers(path))}
    return any(entry.name not in own for entry in path.iterdir())


def _refuse_difference(path: Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for key in {**wanted, **there}:
        if there.get(key) != wanted.get(key):
            raise UserError(
                f"{path} holds an evaluation with {key} = {there.get(key)!r}, not "
                f"{wanted.get(key)!r}; give --out a new folder, or the old setting to continue."
            )
