"""Whole or not there: death at every operation, full disks, odd targets, odd contents."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from erclip.errors import UserError, sentence
from erclip.machine.files import append, cut, leftovers, new_folder, parsed, read_json, write_text
from erclip.machine.locks import LOCK
from erclip.runs.read import read_runs
from faults import deaths, survives  # ty: ignore[unresolved-import]


def test_a_file_is_the_old_one_or_the_new_one(tmp_path):
    file = tmp_path / "a.json"
    write_text(file, "old")
    found = deaths(lambda: write_text(file, "new" * 1000))
    assert len(found) == 5  # write (twice), fsync, replace, fsync of the folder
    write_text(file, "old")
    seen = set()
    for last, inside in found:
        assert not survives(lambda: write_text(file, "new" * 1000), last, inside)
        seen.add(file.read_text())
        for scratch in leftovers(tmp_path):
            scratch.unlink()
        assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
        write_text(file, "old")
    assert seen == {"old", "new" * 1000}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a full device")
def test_a_full_disk_is_named_with_the_file_and_the_remedy(tmp_path):
    link = tmp_path / "result.json"
    link.symlink_to("/dev/full")
    for write in (write_text, append):
        with pytest.raises(OSError, match="No space left") as caught:
            write(link, "x")
        assert sentence(caught.value) == (
            f"No space left on device: {link}; make room, then run the same command again"
        )


def limited(work):
    """Whether `work` raises OSError where no file may grow past 100 bytes."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        code = 1
        try:
            work()
            code = 2
        except OSError:
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_full_disk_leaves_what_there_was(tmp_path):
    file = tmp_path / "lines"
    append(file, "x" * 89 + "\n")
    assert limited(lambda: append(file, "y" * 50 + "\n"))
    assert limited(lambda: write_text(file, "z" * 200))
    assert file.read_text() == "x" * 89 + "\n"
    assert [path.name for path in tmp_path.iterdir()] == ["lines"]


@pytest.mark.parametrize(
    ("content", "size", "kept", "short"),
    [
        (b"one\ntwo\nthree\n", 8, b"one\ntwo\n", False),
        (b"one\ntwo\n", 30, b"one\ntwo\n", True),
        (b"one\ntw", 30, b"one\n", True),
        (b"one\ntwo\n", 6, b"one\n", True),
        (b"broken", 6, b"", True),
        (b"", 0, b"", False),
        (b"a" * 200_000 + b"\nb", 500_000, b"a" * 200_000 + b"\n", True),
    ],
)
def test_lines_are_cut_to_whole_ones(content, size, kept, short, tmp_path):
    file = tmp_path / "lines"
    file.write_bytes(content)
    assert cut(file, size) is short
    assert file.read_bytes() == kept


def test_links_are_followed_and_devices_written_to(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    write_text(Path("/dev/null"), "nothing")
    assert Path("/dev/null").is_char_device()


def test_links_in_a_circle_and_folders_without_a_name(tmp_path, monkeypatch):
    (tmp_path / "loop").symlink_to("loop")
    write_text(tmp_path / "loop", "new")
    assert (tmp_path / "loop").read_text() == "new"
    (tmp_path / "loop2").symlink_to("loop2")
    with pytest.raises(UserError, match="loop2 does not exist"):
        read_runs([tmp_path / "loop2"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=r"directory|busy"):
        write_text(Path(), "text")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    with new_folder(Path(), "the model", "erclip warmup") as folder:
        (folder / "a").write_text("1")
    assert (empty / "a").read_text() == "1"


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"3", b"{", b'{"a":' + b"[" * 100_000, b'{"a":' + b"9" * 5000 + b"}", b"\xff{}"],
)
def test_json_of_any_sort_is_one_sentence(content, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(
        UserError, match=r"a\.json cannot be read: \w+Error .*; mend it\.$"
    ) as error:
        read_json(tmp_path / "a.json", "mend it")
    assert "\n" not in str(error.value)
    assert parsed(content) in (None, [], 3)


def test_a_byte_order_mark_is_no_damage(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}


def test_a_new_folder_is_whole_or_not_there(tmp_path):
    target = tmp_path / "model"

    def make():
        with new_folder(target, "the model", "erclip warmup") as folder:
            (folder / "config.json").write_bytes(b"{}")
            (folder / "deep").mkdir()
            (folder / "deep" / "x").write_bytes(b"x" * 100)

    found = deaths(make)
    assert len(found) > 8
    whole = sorted(str(path.relative_to(target)) for path in target.rglob("*"))
    assert whole == ["config.json", "deep", "deep/x"]
    shutil.rmtree(target)
    for last, inside in found:
        assert not survives(make, last, inside)
        if not target.exists():
            make()
        (target / LOCK).unlink(missing_ok=True)  # of the last operation
        assert sorted(str(path.relative_to(target)) for path in target.rglob("*")) == whole
        shutil.rmtree(target)
        assert list(tmp_path.iterdir()) == []


def fail(folder):
    with new_folder(folder, "the model", "x") as scratch:
        (scratch / "half").write_text("")
        raise ZeroDivisionError


def test_a_new_folder_takes_nobody_s_place(tmp_path):
    with (
        new_folder(tmp_path / "m", "the model", "x"),
        pytest.raises(UserError, match="Another `x`"),
    ):
        fail(tmp_path / "m")
    (tmp_path / "n.partial").mkdir()
    (tmp_path / "n.partial" / "mine").write_text("")
    with pytest.raises(UserError, match="in the way"):
        fail(tmp_path / "n")
    assert (tmp_path / "n.partial" / "mine").exists()
    with pytest.raises(ZeroDivisionError):
        fail(tmp_path / "o")
    assert not list(tmp_path.glob("o*"))
