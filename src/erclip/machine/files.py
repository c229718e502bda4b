"""Files that are whole or not there: the one place that writes, appends and reads what is kept."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from erclip.errors import UserError, as_user_error
from erclip.machine.locks import LOCK, Lock

_SCRATCH = re.compile(r"\..*\.\d+\.partial")


def real(path: Path) -> Path:
    """The path without links, absolute; of links in a circle, the one that was met first.

    `Path.resolve` raises RuntimeError there, in some releases of Python.
    """
    return Path(os.path.realpath(path))


@contextmanager
def whole_file(path: Path) -> Generator[Path]:
    """Yield a scratch file that takes the place of `path` at the end, when it is on the disk.

    A reader sees the old file or the new one. A link is followed; a device or a pipe is written to
    as it is.
    """
    target = real(path) if path.is_symlink() else path
    if target.exists() and not target.is_file() and not target.is_dir():
        with _named(path, target):
            yield target
        return
    scratch = target.parent / f".{target.name[:40]}.{os.getpid()}.partial"
    try:
        with _named(path, scratch):
            yield scratch
            sync(scratch)
            os.replace(scratch, target)
            sync(target.parent)
    except BaseException:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise


@contextmanager
def _named(path: Path, written: Path) -> Generator[None]:
    """An error of the disk names the file that a user knows; a failed write names none itself."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(written), written):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8; what UTF-8 cannot hold becomes a question mark."""
    with whole_file(path) as scratch:
        scratch.write_bytes(text.encode("utf-8", "replace"))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def append(path: Path, text: str, *, durable: bool = False) -> None:
    """Add whole lines at the end of a file; if that fails, the file is as it was.

    The kernel has them when this returns; with `durable` the disk has.
    """
    data = memoryview(text.encode("utf-8", "replace"))
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            with _named(path, path):
                while data:
                    data = data[file.write(data) :]
                if durable:
                    os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                file.truncate(size)
            raise


def cut(path: Path, size: int) -> bool:
    """Cut a file of lines back to `size` bytes, or before that to the end of a line.

    True if the file was shorter, or had no end of a line there.
    """
    with path.open("r+b") as file:
        file.truncate(min(size, file.seek(0, os.SEEK_END)))
        whole = _end_of_last_line(file)
        file.truncate(whole)
        os.fsync(file.fileno())
    return whole < size


def _end_of_last_line(file: Any) -> int:
    end, step = file.seek(0, os.SEEK_END), 1 << 16
    while end > 0:
        start = max(0, end - step)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def read_json(path: Path, remedy: str = "") -> dict[str, Any]:
    """The object in a JSON file; one sentence on whatever is wrong with it."""
    with as_user_error(f"{path} cannot be read", remedy):
        value = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(value, dict):
            raise TypeError(f"it holds a {type(value).__name__}, not an object")
    return value


def parsed(line: str | bytes) -> Any:
    """A line of JSON, None if it is none, however it is broken."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems cannot do it with folders
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Bring a folder and all that is in it to the disk, the innermost first."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            sync_tree(path)
        elif path.is_file():
            sync(path)
    sync(folder)


def leftovers(folder: Path) -> Iterable[Path]:
    """Scratch files of killed processes; only for a folder that is locked."""
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if _SCRATCH.fullmatch(path.name)]


@contextmanager
def new_folder(target: Path, what: str, command: str) -> Generator[Path]:
    """Yield a folder to fill with `what`; it gets the name `target` when all of it is on the disk.

    Until then it is `<target>.partial`, locked, and taken over by the next try after a kill.
    """
    refuse_taken(target, what)
    target = real(target)  # "." has no name to add to
    scratch = target.with_name(f"{target.name}.partial")
    if scratch.exists() and not (_is_empty(scratch) or (scratch / LOCK).is_file()):
        raise UserError(f"{scratch} is in the way of {what}: move it, or name another folder")
    with Lock(scratch, command) as lock:
        try:
            for path in scratch.iterdir():
                if path.name != LOCK:
                    remove(path)
            yield scratch
            sync_tree(scratch)
            if target.is_dir():
                target.rmdir()
            lock.move(target)
            sync(target.parent)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise


def refuse_taken(target: Path, what: str) -> None:
    """Refuse a folder that holds something already."""
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file: name a new folder for {what}")
    if target.is_dir() and not _is_empty(target):
        raise UserError(f"{target} is not empty: name a new folder for {what}")


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
