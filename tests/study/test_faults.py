"""A study whose own process is killed at every file operation, and given again."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import pytest

from erclip.errors import UserError
from erclip.machine.console import Console
from erclip.study import command
from erclip.study.cell import Outcome
from erclip.study.design import read_study, settings_hash
from erclip.study.plots import Pictures
from erclip.study.processes import Done
from erclip.study.rows import CURVE, VALUES, Results
from faults import deaths, survives  # ty: ignore[unresolved-import]

STUDY = """
description = "[link](http://x) **bold**"
seeds = [0, 1]
[base]
trainer = { rollouts = 1, updates_per_rollout = 1 }
[methods."=HYPERLINK(1)"]
[methods."+ERC | `x`"]
against = "=HYPERLINK(1)"
loss = { constraints = [] }
"""


def pretend(next_job, processes, log):
    """The runs, without training: a row and two points each."""
    while (job := next_job()) is not None:
        values = dict.fromkeys(VALUES, 0.5) | {
            "settings": settings_hash(job.config), "status": "finished", "k": 4,
            "collapsed": False, "seed": job.cell.seed,
        }  # fmt: skip
        values.pop("seed")
        curve = [dict.fromkeys(CURVE, 0.25) | {"rollout": rollout} for rollout in (0, 1)]
        log(Done(job, Outcome(values, curve), None))


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "run_jobs", pretend)
    monkeypatch.setattr(command, "study_plots", lambda results, findings: Pictures({}, {}))
    path = tmp_path / "two.toml"
    path.write_text(STUDY)
    return path


def study(file, out):
    return command.study(file, out, 1, [], [], [], Console(quiet=True))


def content(out):
    return {p.name: p.read_bytes() for p in out.iterdir() if p.is_file() and p.name != ".lock"}


def test_death_at_every_operation(file, tmp_path):
    found = deaths(lambda: study(file, tmp_path / "whole"))
    assert len(found) > 25
    whole = content(tmp_path / "whole")
    assert whole.keys() == {"runs.csv", "curves.csv", "report.html", "report.md"}
    for last, inside in found:
        out = tmp_path / "out"
        assert not survives(lambda out=out: study(file, out), last, inside)
        assert study(file, out) == 0
        assert content(out) == whole, (last, inside)
        shutil.rmtree(out)


def test_names_are_text_in_every_file(file, tmp_path):
    """No formula in the CSV, no link or table in the Markdown, and the rows are found again."""
    study(file, tmp_path / "out")
    with (tmp_path / "out" / "runs.csv").open(newline="") as rows:
        methods = {row["method"] for row in csv.DictReader(rows)}
    assert methods == {"'=HYPERLINK(1)", "'+ERC | `x`"}
    assert len(Results(read_study(file), tmp_path / "out").rows()) == 4
    text = (tmp_path / "out" / "report.md").read_text()
    assert r"+ERC \| \`x\`" in text
    assert "[link](http" not in text
    assert "**bold**" not in text


@pytest.mark.parametrize("name", ["a\\nb", "\\u202ex", "  ", "a\\u001bb"])
def test_a_name_that_cannot_be_seen_is_refused(name, file):
    file.write_text(STUDY.replace("=HYPERLINK(1)", name))
    with pytest.raises(UserError, match="a name is one line of visible characters"):
        read_study(file)
