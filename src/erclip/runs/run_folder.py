"""The folder of a run before and between its lives: claimed, locked, swept, set aside."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import datetime
from itertools import count
from pathlib import Path

from erclip.errors import UserError
from erclip.machine.files import leftovers, read_json, sync
from erclip.machine.locks import LOCK, Lock, lock_new_folder
from erclip.machine.places import check_folder
from erclip.runs.checkpoint_folders import Checkpoints

LINES = ("metrics.jsonl", "samples.jsonl", "tokens.jsonl")
HISTORY = (*LINES, "ledger", "failed_batches")
COMMAND = "erclip train"


def new_run_lock(recipe_name: str) -> Lock:
    """A lock on runs/<recipe>-<date>-<time>, a folder that is this process's alone."""
    return lock_new_folder(Path("runs"), f"{recipe_name}-{datetime.now():%Y%m%d-%H%M%S}", COMMAND)


def claim(path: Path) -> None:
    """Refuse a folder that is no place for a new run, before anything slow happens."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; --out must name a folder for the run.")
    if path.is_dir() and not os.access(path, os.W_OK):
        raise UserError(f"Cannot write to the run folder {path}; give --out another place.")
    for name in ("config.json", *HISTORY, "checkpoints"):
        place = path / name
        if place.exists() and not (place.is_dir() and not any(place.iterdir())):
            what = "another run" if name in ("config.json", "metrics.jsonl") else f"{name} already"
            raise UserError(f"{path} holds {what}; give --out a new folder.")
    foreign = sorted(place.name for place in path.glob("*") if not _is_nothing(place))
    if foreign:
        raise UserError(f"{path} holds other files ({foreign[0]}); give --out a new folder.")
    check_folder(path)


def _is_nothing(place: Path) -> bool:
    """What an earlier try to begin a run has left: a lock, scratch files, empty folders."""
    empty = place.is_dir() and not any(place.iterdir())
    return empty or place.name == LOCK or place in set(leftovers(place.parent))


def lock_run(path: Path, resume: bool) -> Lock:
    """The right to write to a run's folder, new or resumed; whatever a kill has left is removed."""
    if not resume:
        claim(path)
    lock = Lock(path, COMMAND)
    try:
        if not resume:
            claim(path)  # another run may have come and gone since
        for folder in (path, path / "ledger", path / "failed_batches"):
            for scratch in leftovers(folder):
                scratch.unlink()
    except BaseException:
        lock.release()
        raise
    return lock


def run_id(path: Path) -> str | None:
    """The id in a run's config.json; None of a run from before there were any."""
    return read_json(path / "config.json").get("id")


def set_aside(path: Path, log: Callable[[str], None], copy: bool = False) -> None:
    """Keep what a run has written up to here under another name; nothing if it is nothing.

    Files are moved, which `log` hears of, or with `copy` copied.
    """
    there = [path / name for name in HISTORY if _holds_something(path / name)]
    damaged = [] if copy else Checkpoints(path / "checkpoints", run_id(path)).names()
    if not there and not damaged:
        return
    aside = next(p for n in count(1) if not (p := path / f"before-resume-{n}").exists())
    aside.mkdir()
    for place in there:
        if not copy:
            place.rename(aside / place.name)
        elif place.is_file():
            shutil.copy2(place, aside / place.name)
    if damaged:
        (aside / "checkpoints").mkdir()
        for name in damaged:
            (path / "checkpoints" / name).rename(aside / "checkpoints" / name)
    sync(path)
    if not copy:
        log(f"What the run had written before is in {aside}.")


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.is_file() and path.stat().st_size > 0
