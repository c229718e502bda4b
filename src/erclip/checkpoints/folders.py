"""Checkpoint folders that survive anything: complete or absent, checked before they are believed.

A checkpoint is filled under the name `….partial`, every file and folder is brought to the disk, and
then it is renamed. `manifest.json` holds the SHA-256 of every file, so that damage is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from erclip.errors import UserError

MANIFEST = "manifest.json"
STATE = "state.json"


class Checkpoints:
    """The folder `checkpoints/` of a run; names sort in the order of the run."""

    def __init__(self, folder: Path):
        self.folder = folder

    def names(self) -> list[str]:
        """Finished checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(p.name for p in self.folder.iterdir() if p.is_dir() and not p.suffix)

    def write(self, name: str, fill: Callable[[Path], None]) -> Path:
        """A new checkpoint, complete or not there at all.

        Raises UserError if the disk is full or read-only; the checkpoints before it are untouched.
        """
        target, scratch = self.folder / name, self.folder / f"{name}.partial"
        try:
            _fill(scratch, fill)
            shutil.rmtree(target, ignore_errors=True)  # a damaged one that the run has overtaken
            scratch.rename(target)
            _sync(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(scratch, ignore_errors=True)
            raise UserError(self._failure(target, error)) from error
        return target

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest sound checkpoint, and a sentence for each damaged one that is newer."""
        complaints = []
        for name in reversed(self.names()):
            problem = damage(self.folder / name)
            if problem is None:
                return self.folder / name, complaints
            complaints.append(f"Checkpoint {self.folder / name} is damaged ({problem}).")
        return None, complaints

    def prune(self, keep_last: int, keep_best: int) -> None:
        """Remove all but the newest `keep_last` and the `keep_best` of highest score."""
        names = self.names()
        scores = {name: read_state(self.folder / name).get("score") for name in names}
        scored = [name for name in names if scores[name] is not None]
        best = sorted(scored, key=lambda name: float(scores[name] or 0), reverse=True)[:keep_best]
        for name in set(names) - {*names[-keep_last:], *best}:
            doomed = self.folder / f"{name}.partial"  # so that half a checkpoint never has its name
            shutil.rmtree(doomed, ignore_errors=True)
            (self.folder / name).rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what was being written or removed when a run was killed."""
        for leftover in self.folder.glob("*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _failure(self, target: Path, error: Exception) -> str:
        reason = error.strerror if isinstance(error, OSError) else None
        names = [name for name in self.names() if name != target.name]
        good = f"the last good one is {self.folder / names[-1]}" if names else "there is no other"
        return f"Checkpoint {target} could not be written ({reason or error}); {good}"


def save_elsewhere(fill: Callable[[Path], None], folder: Path) -> Path | None:
    """Fill a folder in another place, so that a trained model is not lost; None if that fails."""
    try:
        _fill(folder, fill)
    except (OSError, SafetensorError):
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return folder


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, None if every file is as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, digest in manifest.items():
            if _digest(folder / name) != digest:
                return f"{name} has changed"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, AttributeError):
        return f"{MANIFEST} cannot be read"
    return None


def read_state(folder: Path) -> dict[str, Any]:
    """state.json of a checkpoint; empty if it cannot be read."""
    try:
        return json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, complete or not there."""
    scratch = path.with_suffix(".partial")
    scratch.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    _sync(scratch)
    scratch.replace(path)


def _fill(folder: Path, fill: Callable[[Path], None]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    fill(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {str(path.relative_to(folder)): _digest(path) for path in files}
    write_json(folder / MANIFEST, digests)
    for path in _deepest_first(folder):
        _sync(path)


def _deepest_first(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _deepest_first(path)
        else:
            yield path
    yield folder


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
