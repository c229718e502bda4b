"""Checkpoint folders alone: death at every file operation, and what is not ours."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from erclip.runs.checkpoint_folders import Checkpoints, checkpoint_name, damage
from faults import deaths, survives  # ty: ignore[unresolved-import]

RUN = "abc"


def fill(number, text="weights", score=None, run=RUN):
    name = checkpoint_name(number, None)

    def write(folder):
        (folder / "model.safetensors").write_bytes(f"{text} {number}".encode() * 100)
        (folder / "adapter").mkdir()
        (folder / "adapter" / "a.json").write_bytes(b"{}")
        state = {"run": run, "name": name, "score": score}
        (folder / "state.json").write_bytes(json.dumps(state).encode())

    return name, write


def begin(folder, numbers=(1, 2)):
    store = Checkpoints(folder, RUN)
    for number in numbers:
        store.write(*fill(number))
    (folder / "best").mkdir()
    shutil.copytree(folder / "rollout_00001", folder / "best" / "rollout_00001")
    (folder / "notes.partial").mkdir()
    (folder / "notes.old").mkdir()
    return store


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("keep_last", [1, 2])
@pytest.mark.parametrize("number", [3, 2], ids=["a new one", "one of the same name"])
def test_death_at_every_operation_loses_nothing(number, keep_last, tmp_path):
    """Written, pruned; the newest that is left is the one before or the new one, whole."""
    begin(tmp_path / "start")
    (tmp_path / "whole").mkdir()
    shutil.copytree(tmp_path / "start", tmp_path / "whole", dirs_exist_ok=True)

    def save(folder):
        store = Checkpoints(folder, RUN)
        store.sweep()
        store.write(*fill(number, "new"))
        store.prune(keep_last, 0)

    found = deaths(lambda: save(tmp_path / "whole"))
    assert len(found) > 15
    newest = checkpoint_name(number, None)
    for last, inside in found:
        folder = tmp_path / f"{last}-{inside}"
        shutil.copytree(tmp_path / "start", folder)
        assert not survives(lambda folder=folder: save(folder), last, inside)
        store = Checkpoints(folder, RUN)
        store.sweep()
        path, complaints = store.newest()
        assert complaints == []
        assert path is not None
        assert path.name in (newest, "rollout_00002"), (last, inside)
        assert damage(path) is None
        save(folder)
        assert content(folder) == content(tmp_path / "whole"), (last, inside)
        shutil.rmtree(folder)


def test_only_own_sound_folders_count_and_are_ever_removed(tmp_path):
    """Copies, strangers, damaged ones, links and files stay; new ones are not the ones that go."""
    store = begin(tmp_path)
    shutil.copytree(tmp_path / "rollout_00002", tmp_path / "rollout_00099")  # by hand: cp -r
    name, write = fill(50, run="another")
    Checkpoints(tmp_path, "another").write(name, write)
    store.write(*fill(60))
    (tmp_path / "rollout_00060" / "model.safetensors").write_bytes(b"damaged")
    (tmp_path / "rollout_00070").mkdir()
    (tmp_path / "rollout_00080").symlink_to(tmp_path / "best")
    (tmp_path / "rollout_00090").write_text("a file")
    store.write(*fill(61))
    (tmp_path / "rollout_00061" / "state.json").unlink()
    strangers = {path.name for path in tmp_path.iterdir()} - {"rollout_00001", "rollout_00002"}
    before = content(tmp_path)
    for number in range(3, 14):
        store.write(*fill(number))
        store.prune(keep_last=2, keep_best=1)
        assert store.sound()[-1] == checkpoint_name(number, None)
    assert store.sound() == ["rollout_00012", "rollout_00013"]
    assert {path.name for path in tmp_path.iterdir()} == strangers | {*store.sound()}
    after = content(tmp_path)
    assert all(after[file] == before[file] for file in before if file.split("/")[0] in strangers)
    path, complaints = store.newest()
    assert path == tmp_path / "rollout_00013"
    assert [sentence.split()[1].rpartition("/")[2] for sentence in complaints] == [
        "rollout_00099", "rollout_00070", "rollout_00061", "rollout_00060", "rollout_00050",
    ]  # fmt: skip
    assert "is not used (it is a copy of rollout_00002)" in complaints[0]
    assert "is damaged (manifest.json is missing)" in complaints[1]
    assert "is damaged (state.json is missing)" in complaints[2]
    assert "is not used (it is another run's)" in complaints[4]


def test_a_folder_in_the_way_is_set_aside_and_an_added_file_keeps_its_checkpoint(tmp_path):
    store = begin(tmp_path)
    (tmp_path / "rollout_00003").mkdir()
    (tmp_path / "rollout_00003" / "mine.txt").write_text("a week's work")
    (tmp_path / "rollout_00001" / "notes.txt").write_text("remember this one")
    store.write(*fill(3))
    store.prune(1, 0)
    assert store.sound() == ["rollout_00001", "rollout_00003"]
    aside = tmp_path / "rollout_00003.aside-1" / "mine.txt"
    assert aside.read_text() == "a week's work"


@pytest.mark.parametrize(
    "manifest",
    ["", "{", "[]", "3", '{"state.json": 3}', '{"gone": "x"}', "{}", "[" * 100_000, "\x00", '"a"'],
)
def test_a_manifest_of_any_sort_is_damage_and_no_error(manifest, tmp_path):
    store = begin(tmp_path)
    (tmp_path / "rollout_00002" / "manifest.json").write_text(manifest)
    assert store.newest()[0] == tmp_path / "rollout_00001"
    store.prune(1, 1)
    assert (tmp_path / "rollout_00002").exists()


def test_names_sort_as_time_goes_beyond_five_digits(tmp_path):
    store = Checkpoints(tmp_path, RUN)
    for number in (99_999, 100_000, 100_001):
        store.write(*fill(number))
    store.prune(2, 0)
    assert store.names() == ["rollout_100000", "rollout_100001"]
