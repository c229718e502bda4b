"""What is read from a run directory, whole or not."""

from __future__ import annotations

import json
import re

import pytest

from erclip.errors import UserError
from erclip.runs.read import read_run, read_runs


def lines(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_whole_run_has_every_line_in_order_and_no_notes(tmp_path, write_run):
    path = write_run(tmp_path / "run", rollouts=3, updates=2, eval_every=1)
    run = read_run(path)
    written = lines(path)
    assert list(run.updates) == [row for row in written if row["kind"] == "update"]
    assert list(run.rollouts) == [row for row in written if row["kind"] == "rollout"]
    assert list(run.evals) == [row for row in written if row["kind"] == "eval"]
    assert run.notes == ()
    assert run.label == "run"
    assert run.setting("loss", "surrogate", "high") == 0.28
    assert run.setting("loss", "surrogate", "kind", "deeper") is None


def test_partial_last_line_is_left_out_and_noted(tmp_path, write_run):
    path = write_run(tmp_path / "run", rollouts=3, updates=2, eval_every=0)
    file = path / "metrics.jsonl"
    text = file.read_text()
    file.write_text(text[:-40])
    run = read_run(path)
    assert [row["rollout"] for row in run.rollouts] == [1, 2]
    assert len(run.updates) == 6
    assert run.notes == (
        "The last line of metrics.jsonl (line 9) is incomplete, as when a run is interrupted;"
        " it is left out.",
        "The run has 2 of the 3 rollouts that were planned.",
    )


def test_broken_line_in_the_middle_is_named(tmp_path, write_run):
    path = write_run(tmp_path / "run", rollouts=2, updates=1, eval_every=0)
    file = path / "metrics.jsonl"
    first, *rest = file.read_text().splitlines(keepends=True)
    file.write_text(first + "\x00\x00garbage\n[1, 2]\n" + "".join(rest))
    run = read_run(path)
    assert len(run.updates) == 2
    assert [re.match(r"Line \d", note)[0] for note in run.notes] == ["Line 2", "Line 3"]


def test_after_a_resume_the_last_record_counts(tmp_path, write_run):
    def repeat_second_rollout(rows):
        again = [dict(row) for row in rows if row["rollout"] == 2]
        for row in again:
            row["train/reward"] = row["grad/norm"] = 7.0
        rows += again

    path = write_run(
        tmp_path / "run", rollouts=2, updates=2, eval_every=0, change=repeat_second_rollout
    )
    run = read_run(path)
    assert [row["rollout"] for row in run.rollouts] == [1, 2]
    assert run.rollouts[1]["train/reward"] == 7.0
    assert [row["grad/norm"] == 7.0 for row in run.updates] == [False, False, True, True]
    assert run.notes[0].startswith("1 rollouts and 2 updates were recorded more than once")


def test_values_that_are_not_finite_and_skipped_updates_are_noted(tmp_path, write_run):
    def spoil(rows):
        updates = [row for row in rows if row["kind"] == "update"]
        updates[2]["grad/norm"] = float("nan")
        updates[2]["grad/skipped"] = 1.0
        updates[3]["grad/norm"] = float("inf")

    run = read_run(write_run(tmp_path / "run", rollouts=2, updates=2, eval_every=0, change=spoil))
    assert run.notes == (
        "1 of 4 updates were skipped, because their gradient was not finite.",
        "grad/norm has 2 values that are NaN or infinite, first in rollout 2, update 1;"
        " the curves have a gap there.",
    )


def test_evaluations_of_one_rollout_in_several_lines_are_one(tmp_path, write_run):
    def split(rows):
        rows.append({"kind": "eval", "rollout": 0, "eval/aime24/avg_at_4": 0.25})

    run = read_run(write_run(tmp_path / "run", rollouts=1, change=split))
    assert run.evals[0]["eval/aime24/avg_at_4"] == 0.25
    assert "eval/countdown/avg_at_4" in run.evals[0]


def test_samples_are_those_of_the_first_and_last_rollout(tmp_path, write_run):
    rows = [{"rollout": rollout, "response": str(rollout)} for rollout in (1, 2, 2, 3, 3)]
    run = read_run(write_run(tmp_path / "run", samples=rows))
    assert [row["response"] for row in run.samples] == ["1", "3", "3"]


def test_run_that_ended_before_its_first_line(tmp_path, write_run):
    path = write_run(tmp_path / "run")
    (path / "metrics.jsonl").unlink()
    (path / "samples.jsonl").write_text("")
    assert read_run(path).notes == (
        "There is no metrics.jsonl.",
        "No rollout was finished, so there is nothing to plot yet.",
    )


def test_folders_that_are_no_runs_get_one_sentence(tmp_path, write_run):
    file = tmp_path / "file"
    file.write_text("")
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = {tmp_path / "none": "does not exist", file: "is not a folder", empty: "no config.json"}
    for path, words in cases.items():
        with pytest.raises(UserError, match=words) as caught:
            read_run(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    for text, words in {"{": "cannot be read: JSON", "[]": "holds a list, not an object"}.items():
        (empty / "config.json").write_text(text)
        with pytest.raises(UserError, match=words):
            read_run(empty)


def test_runs_of_one_name_get_labels_that_differ(tmp_path, write_run):
    paths = [write_run(tmp_path / group / "run", rollouts=1) for group in "ab"]
    assert [run.label for run in read_runs(paths)] == ["a/run", "b/run"]
    with pytest.raises(UserError, match="given 2 times"):
        read_runs([paths[0], tmp_path / "a" / ".." / "a" / "run"])
    with pytest.raises(UserError, match="no run directory"):
        read_runs([])
