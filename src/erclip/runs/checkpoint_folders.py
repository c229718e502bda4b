"""Checkpoint folders that survive anything: complete or absent, checked before they are believed.

    rollout_00003             a checkpoint: its manifest.json holds the SHA-256 of every file
    rollout_00003.partial     being written; renamed when all of it is on the disk
    rollout_00003.old         about to be replaced by another one of its name
    rollout_00003.removed     being removed
    rollout_00003.aside-1     was in the way and is not known to be this run's: never touched again

Only a folder with such a name, a sound manifest and this run's id counts. Nothing else is counted,
removed or moved, whatever it is called.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from erclip.errors import UserError
from erclip.machine.files import parsed, sync, sync_tree, write_json

MANIFEST = "manifest.json"
STATE = "state.json"
PARTIAL, OLD, REMOVED = ".partial", ".old", ".removed"

_NAME = re.compile(r"rollout_(\d{5,})(?:_update_(\d{6,}))?")


def checkpoint_name(rollouts: int, updates: int | None) -> str:
    """Finished rollouts, and updates if the next rollout is under way.

    >>> checkpoint_name(3, None), checkpoint_name(3, 20)
    ('rollout_00003', 'rollout_00003_update_000020')
    """
    name = f"rollout_{rollouts:05d}"
    return name if updates is None else f"{name}_update_{updates:06d}"


class Checkpoints:
    """The folder `checkpoints/` of the run with this id; older runs have none."""

    def __init__(self, folder: Path, run: str | None = None):
        self.folder, self.run = folder, run
        self._checked: dict[str, tuple[Any, str | None]] = {}

    def names(self) -> list[str]:
        """Folders that are called like checkpoints, in the order of the run."""
        if not self.folder.is_dir():
            return []
        found = [p.name for p in self.folder.iterdir() if _NAME.fullmatch(p.name) and _is_dir(p)]
        return sorted(found, key=_moment)

    def sound(self) -> list[str]:
        """Those of `names` that are this run's, whole and undamaged."""
        return [name for name in self.names() if self.problem(name) is None]

    def problem(self, name: str) -> str | None:
        """Why a folder does not count, None if it does; its files are read once, and if changed."""
        print_ = _fingerprint(self.folder / name)
        known = self._checked.get(name)
        if known is None or known[0] != print_:
            problem = damage(self.folder / name)
            known = self._checked[name] = print_, problem
        return known[1] or self._stranger(name)

    def write(self, name: str, fill: Callable[[Path], None]) -> Path:
        """A new checkpoint, complete or not there at all.

        Raises UserError if the disk is full or read-only; the checkpoints before it are untouched.
        """
        target, scratch = self.folder / name, self.folder / f"{name}{PARTIAL}"
        try:
            fill_folder(scratch, fill)
            self._make_way(target)
            scratch.rename(target)
            sync(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(scratch, ignore_errors=True)
            self._put_back(name)
            raise UserError(self._failure(target, error)) from error
        shutil.rmtree(self.folder / f"{name}{OLD}", ignore_errors=True)
        return target

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest checkpoint that counts, and a sentence for each newer one that does not."""
        complaints = []
        for name in reversed(self.names()):
            problem = self.problem(name)
            if problem is None:
                return self.folder / name, complaints
            verdict = "is damaged" if self._checked[name][1] else "is not used"
            complaints.append(f"Checkpoint {self.folder / name} {verdict} ({problem}).")
        return None, complaints

    def prune(self, keep_last: int, keep_best: int) -> None:
        """Remove all but the newest `keep_last` and the `keep_best` of highest score."""
        names = self.sound()
        scores = {name: _score(self.folder / name) for name in names}
        scored = [name for name in names if scores[name] is not None]
        best = sorted(scored, key=lambda name: scores[name] or 0.0, reverse=True)[:keep_best]
        for name in set(names) - {*names[-keep_last:], *best}:
            self._remove(name)

    def remove_all(self) -> None:
        """Remove every checkpoint that counts, and the folder if nothing else is in it."""
        for name in self.sound():
            self._remove(name)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def sweep(self) -> None:
        """Finish what a killed process was doing: writing, replacing or removing a checkpoint."""
        if not self.folder.is_dir():
            return
        for path in list(self.folder.iterdir()):
            name, suffix = path.stem, path.suffix
            if not _NAME.fullmatch(name) or not _is_dir(path):
                continue
            if suffix == PARTIAL:
                if not (self.folder / name).exists() and self.problem(path.name) is None:
                    path.rename(self.folder / name)
                else:
                    shutil.rmtree(path, ignore_errors=True)
            elif suffix == REMOVED:
                shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.glob(f"*{OLD}"):
            if _NAME.fullmatch(path.stem) and _is_dir(path):
                self._put_back(path.stem)
                shutil.rmtree(path, ignore_errors=True)

    def set_aside(self, name: str) -> None:
        """Move a folder out of the way under a name that nothing here looks at again."""
        for number in count(1):
            aside = self.folder / f"{name}.aside-{number}"
            if not aside.exists():
                (self.folder / name).rename(aside)
                return

    def _stranger(self, name: str) -> str | None:
        """Why a sound folder is not a checkpoint of this run under its own name."""
        state = read_state(self.folder / name)
        if state.get("run") != self.run:
            return "it is another run's"
        own = state.get("name")
        if own is not None and own != name.removesuffix(PARTIAL):
            return f"it is a copy of {own}"
        return None

    def _make_way(self, target: Path) -> None:
        if not target.is_symlink() and not target.exists():
            return
        if _is_dir(target) and self.problem(target.name) is None and not _added(target):
            shutil.rmtree(target.with_name(f"{target.name}{OLD}"), ignore_errors=True)
            target.rename(target.with_name(f"{target.name}{OLD}"))
        else:
            self.set_aside(target.name)

    def _put_back(self, name: str) -> None:
        old = self.folder / f"{name}{OLD}"
        if old.is_dir() and not (self.folder / name).exists():
            old.rename(self.folder / name)

    def _remove(self, name: str) -> None:
        """Under another name first, so that half a checkpoint never has its name."""
        if _added(self.folder / name):
            return
        discarded = self.folder / f"{name}{REMOVED}"
        shutil.rmtree(discarded, ignore_errors=True)
        (self.folder / name).rename(discarded)
        shutil.rmtree(discarded, ignore_errors=True)

    def _failure(self, target: Path, error: Exception) -> str:
        reason = error.strerror if isinstance(error, OSError) else None
        names = [name for name in self.sound() if name != target.name]
        good = f"the last good one is {self.folder / names[-1]}" if names else "there is no other"
        return f"Checkpoint {target} could not be written ({reason or error}); {good}"


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, None if every file is as it was written."""
    manifest = _manifest(folder)
    if manifest is None:
        there = (folder / MANIFEST).is_file()
        return f"{MANIFEST} {'cannot be read' if there else 'is missing'}"
    for name, digest in manifest.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        try:
            if _digest(file) != digest:
                return f"{name} has changed"
        except OSError as error:
            return f"{name} cannot be read, {error.strerror}"
    if STATE not in manifest or not read_state(folder):
        return f"it has no {STATE}"
    return None


def read_state(folder: Path) -> dict[str, Any]:
    """state.json of a checkpoint; empty if it cannot be read."""
    return _object(folder / STATE) or {}


def fill_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder anew, with a manifest, and bring all of it to the disk."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    fill(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(
        folder / MANIFEST, {path.relative_to(folder).as_posix(): _digest(path) for path in files}
    )
    sync_tree(folder)


def _moment(name: str) -> tuple[int, int]:
    match = _NAME.fullmatch(name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)


def _manifest(folder: Path) -> dict[str, str] | None:
    found = _object(folder / MANIFEST)
    if found is None or not all(isinstance(digest, str) for digest in found.values()):
        return None
    return found


def _object(path: Path) -> dict[str, Any] | None:
    try:
        value = parsed(path.read_bytes())
    except OSError:
        return None
    return value if isinstance(value, dict) else None


def _score(folder: Path) -> float | None:
    score = read_state(folder).get("score")
    return float(score) if isinstance(score, int | float) else None


def _added(folder: Path) -> bool:
    """Whether there is something in a checkpoint that was not written with it."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return not names <= {MANIFEST, *(_manifest(folder) or ())}


def _fingerprint(folder: Path) -> list[tuple[str, int, int]]:
    """What changes when a file does, without reading it."""
    found = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [(str(path.relative_to(folder)), s.st_size, s.st_mtime_ns) for path, s in found]


def _is_dir(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
