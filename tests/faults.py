"""Death at every file operation: counted as they come, the process is killed at one of them.

An operation is a call that changes the disk: a write, fsync, truncate, mkdir, rename, replace,
unlink or rmdir (the last two also inside rmtree), a safetensors file. `before` kills in its place;
`inside` writes half of it first; what it left when it was done is what `before` the next one finds.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import safetensors.torch

import erclip.training.checkpoints.rollout_files
import erclip.training.checkpoints.training_state
import erclip.training.policy.adapters

CALLS = ("fsync", "truncate", "mkdir", "rename", "replace", "unlink", "rmdir")
TENSORS = (
    safetensors.torch,
    erclip.training.checkpoints.training_state,
    erclip.training.checkpoints.rollout_files,
    erclip.training.policy.adapters,
)


class Faults:
    """Watches the operations from now on; `seen` are their names in order."""

    def __init__(self, last: int | None = None, inside: bool = False, by: int = signal.SIGKILL):
        self.seen: list[str] = []
        self.last, self.inside, self.by = last, inside, by
        for name in CALLS:
            setattr(os, name, self.watched(getattr(os, name), name))
        for owner in TENSORS:
            if hasattr(owner, "save_file"):
                owner.save_file = self._tensors(owner.save_file)
        self._real_write, self._real_open = Path.write_bytes, Path.open
        faults = self
        Path.write_bytes = lambda path, data: faults._write_bytes(path, data)
        Path.open = lambda path, *args, **kw: faults._open(path, *args, **kw)

    def watched(self, function: Callable, name: str) -> Callable:
        def call(*args, **kwargs):
            self.count(name)
            return function(*args, **kwargs)

        return call

    def count(self, name: str, half: Callable[[], object] | None = None) -> None:
        """One more operation; the end, if it is the last."""
        self.seen.append(name)
        if len(self.seen) == self.last:
            if self.inside and half is not None:
                half()
            os.kill(os.getpid(), self.by)

    def _tensors(self, save: Callable) -> Callable:
        def save_file(tensors, file, *args, **kwargs):
            def half():
                save(tensors, file, *args, **kwargs)
                os.truncate(file, os.path.getsize(file) // 2)

            self.count("save_file", half)
            return save(tensors, file, *args, **kwargs)

        return save_file

    def _write_bytes(self, path: Path, data: bytes) -> int:
        self.count("write", lambda: self._real_write(path, data[: len(data) // 2]))
        return self._real_write(path, data)

    def _open(self, path: Path, mode: str = "r", *args, **kwargs):
        file = self._real_open(path, mode, *args, **kwargs)
        return _Appending(file, self) if mode == "ab" else file


class _Appending:
    def __init__(self, file, faults: Faults):
        self._file, self._faults = file, faults

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        self._faults.count("append", lambda: self._file.write(data[: len(data) // 2]))
        return self._file.write(data)


def survives(work: Callable[[], None], last: int, inside: bool) -> bool:
    """Do `work` in a fork that dies at operation `last`; False if it did."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            Faults(last, inside)
            work()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), code
    return code == 0


def deaths(work: Callable[[], None]) -> list[tuple[int, bool]]:
    """Every operation of `work`, which is done once in a fork to count them, in both ways."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        faults = Faults()
        try:
            work()
            os.write(writer, ",".join(faults.seen).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        seen = pipe.read().split(",")
    os.waitpid(child, 0)
    assert seen != [""], "the work failed without a fault"
    writes = ("write", "append", "save_file")
    return [
        (number, inside)
        for number, name in enumerate(seen, start=1)
        for inside in ((False, True) if name in writes else (False,))
    ]
