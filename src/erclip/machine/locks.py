"""One writer at a time in a folder: a lock that ends with its process, whatever ends that."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import IO
from weakref import WeakSet

from erclip.errors import UserError
from erclip.text import printable

LOCK = ".lock"
_TAKEN = (errno.EWOULDBLOCK, errno.EACCES)
_UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class Lock:
    """The right to write to `folder`, which is made if it is not there.

    Raises `UserError` with the owner's process and host if another one has it. On a file system
    without locks the note in the lock file decides. A folder that was made here and is still
    empty goes with the lock.
    """

    def __init__(self, folder: Path, command: str, made: Iterable[Path] = ()):
        self.folder = folder
        self._file: IO[str] | None = None
        if printable(str(folder)) != str(folder):
            raise UserError(f"{folder} is no name for a folder: it holds invisible characters.")
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; --out must name a folder.")
        try:
            self._made = [*made, *(path for path in (folder, *folder.parents) if not path.exists())]
            folder.mkdir(parents=True, exist_ok=True)
            self._file = _acquired(folder, command)
        except OSError as error:
            raise UserError(
                f"Cannot write to {folder} ({error.strerror}); give --out another place."
            ) from None
        _held.add(self._file)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Let others in; once is enough, twice does no harm."""
        if self._file is None or self._file.closed:
            return
        with suppress(OSError):
            (self.folder / LOCK).unlink(missing_ok=True)
        self._close()
        for path in self._made:
            try:
                path.rmdir()
            except OSError:
                break

    def move(self, target: Path) -> None:
        """Give the folder its name, then free it."""
        self.folder.rename(target)
        (target / LOCK).unlink()
        self._close()

    def _close(self) -> None:
        assert self._file is not None
        self._file.close()

    def __del__(self) -> None:
        self.release()


def lock_new_folder(parent: Path, name: str, command: str) -> Lock:
    """A lock on a folder that was not there: parent/name, or parent/name-2, …"""
    made = [path for path in (parent, *parent.parents) if not path.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            folder = parent / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return Lock(folder, command, [folder, *made])
    except OSError as error:
        raise UserError(
            f"Cannot make a folder in {parent} ({error.strerror}); name one with --out."
        ) from None
    raise AssertionError("count never ends")


_held: WeakSet[IO[str]] = WeakSet()


def _close_in_child() -> None:
    """A forked child that outlives its parent must not keep what the parent held."""
    for file in list(_held):
        file.close()


os.register_at_fork(after_in_child=_close_in_child)


def _acquired(folder: Path, command: str) -> IO[str]:
    while True:
        file = (folder / LOCK).open("a+", encoding="utf-8")
        if not _is_ours(file):
            owner = _owner(file)
            file.close()
            raise UserError(_refusal(folder, owner))
        if _is_still_there(file, folder / LOCK):
            break
        file.close()  # its owner has just left and removed it
    note = {"pid": os.getpid(), "host": socket.gethostname(), "command": command}
    file.truncate(0)
    file.write(json.dumps(note))
    file.flush()
    return file


def _is_ours(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        if error.errno in _UNSUPPORTED:
            return not _owner_may_live(_owner(file))
        raise
    return True


def _is_still_there(file: IO[str], path: Path) -> bool:
    try:
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _owner(file: IO[str]) -> dict[str, object]:
    file.seek(0)
    try:
        note = json.loads(file.read())
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


def _owner_may_live(owner: dict[str, object]) -> bool:
    """Without locks: whether the process of the note is there, or on a host that we cannot see."""
    pid = owner.get("pid")
    if not isinstance(pid, int) or pid == os.getpid():
        return False
    if owner.get("host") != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _refusal(folder: Path, owner: dict[str, object]) -> str:
    command = owner.get("command", "erclip")
    where = f" (process {owner['pid']} on {owner.get('host')})" if "pid" in owner else ""
    return (
        f"Another `{command}`{where} is writing to {folder}; wait for it, stop it, or give --out "
        "another folder."
    )
