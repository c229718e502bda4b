"""One writer at a time: in this process, in others, after kills, on file systems without locks."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from erclip.errors import UserError
from erclip.machine.locks import LOCK, Lock, lock_new_folder

HOLD = "import sys,time; from pathlib import Path; from erclip.machine.locks import Lock\n"
HOLD += "lock=Lock(Path(sys.argv[1]),'erclip train'); print('held',flush=True); time.sleep(60)"


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path/run."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_is_refused_with_the_first_one_s_process_and_host(holder, tmp_path):
    with pytest.raises(UserError) as caught:
        Lock(tmp_path / "run", "erclip eval")
    assert str(caught.value) == (
        f"Another `erclip train` (process {holder.pid} on {os.uname().nodename}) is writing to "
        f"{tmp_path / 'run'}; wait for it, stop it, or give --out another folder."
    )
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with Lock(tmp_path / "run", "erclip eval"):
        note = json.loads((tmp_path / "run" / LOCK).read_text())
        assert (note["pid"], note["command"]) == (os.getpid(), "erclip eval")
    assert not (tmp_path / "run" / LOCK).exists()


def test_within_one_process_too_and_a_lock_that_is_dropped_is_free(tmp_path):
    lock = Lock(tmp_path, "a")
    with pytest.raises(UserError, match="Another `a`"):
        Lock(tmp_path, "b")
    del lock
    Lock(tmp_path, "c").release()


def test_folders_that_it_made_and_nobody_filled_go_with_it(tmp_path):
    with Lock(tmp_path / "a" / "b" / "run", "x"):
        pass
    assert list(tmp_path.iterdir()) == []
    with Lock(tmp_path / "a" / "run", "x"):
        (tmp_path / "a" / "run" / "file").write_text("")
    assert [path.name for path in (tmp_path / "a" / "run").iterdir()] == ["file"]
    (tmp_path / "mine").mkdir()
    Lock(tmp_path / "mine", "x").release()
    assert (tmp_path / "mine").is_dir()


def test_new_folders_never_meet(tmp_path):
    locks = [lock_new_folder(tmp_path / "runs", "name", "x") for _ in range(3)]
    assert [lock.folder.name for lock in locks] == ["name", "name-2", "name-3"]
    for lock in reversed(locks):
        lock.release()
    assert not (tmp_path / "runs").exists()


def _sleep():
    time.sleep(60)


def test_a_forked_child_does_not_keep_it(tmp_path):
    """A pool of a user's reward function may outlive a run that was killed."""
    lock = Lock(tmp_path, "x")
    child = multiprocessing.get_context("fork").Process(target=_sleep)
    child.start()
    try:
        lock.release()
        Lock(tmp_path, "y").release()
    finally:
        child.kill()
        child.join()


@pytest.mark.parametrize(
    ("note", "free"),
    [
        ("", True),
        ("nonsense", True),
        ("[]", True),
        ('{"pid": 999999999, "host": "HERE"}', True),
        ('{"pid": 1, "host": "HERE"}', False),
        ('{"pid": 5, "host": "elsewhere"}', False),
    ],
)
def test_without_locks_the_note_decides(note, free, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / LOCK).write_text(note.replace("HERE", os.uname().nodename))
    if free:
        Lock(tmp_path, "x").release()
    else:
        with pytest.raises(UserError, match="is writing to"):
            Lock(tmp_path, "x")


@pytest.mark.parametrize("name", ["x" * 300, "f/run", "f", "a\u202eb", "a\udcff", "a\x1bb"])
def test_places_that_cannot_be(name, tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises((UserError, OSError)) as caught:
        Lock(tmp_path / name, "x")
    assert isinstance(caught.value, UserError) or caught.value.errno == errno.ENAMETOOLONG
