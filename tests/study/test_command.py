"""`erclip study` as users run it: real runs in processes, stops of every kind, and the page."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from erclip.cli import app
from erclip.config import Config
from erclip.config.recipes import load_recipe
from erclip.errors import UserError
from erclip.study.cell import run_cell
from erclip.study.command import _at, _choose, _locked, study
from erclip.study.design import read_study, settings_hash
from erclip.study.machine import cpu
from erclip.study.processes import Job, run_jobs

STUDY = """
description = "two runs and a mask <b>&</b>"
seeds = [0, 1]
[base]
trainer = { rollouts = 3, updates_per_rollout = 4, learning_rate = 3e-4, warmup_updates = 0 }
rollout = { prompts = 8 }
eval = { every = 2, prompts = 4, responses = 2 }
checkpoint = { every = 1 }
[methods.ERC]
[methods.mask]
against = "ERC"
mask_like = "ERC"
loss = { constraints = [] }
"""
TIMES = ("cpu_s", "wall_s", "finished", "commit")


def write(folder: Path, text: str = STUDY) -> Path:
    path = folder / "two.toml"
    path.write_text(text, encoding="utf-8")
    return path


def rows(out: Path) -> list[dict]:
    with (out / "runs.csv").open(encoding="utf-8") as file:
        return [{k: v for k, v in r.items() if k not in TIMES} for r in csv.DictReader(file)]


def command(file: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "erclip", "study", str(file), "--out", str(out)]


def small(*changes: str) -> Config:
    sizes = ("trainer.rollouts=2", "rollout.prompts=8", "trainer.updates_per_rollout=4")
    held_out = ("eval.prompts=4", "eval.responses=2", "eval.every=1")
    return load_recipe("quickstart", [*sizes, *held_out, *changes]).config


def test_a_row_is_what_the_run_logged(tmp_path):
    config = small("trainer.learning_rate=1e-3", "eval.greedy=true")
    values, curve = run_cell(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open(encoding="utf-8")]
    updates = [line for line in lines if line["kind"] == "update"]
    evals = [line for line in lines if line["kind"] == "eval"]
    accuracies = [line["eval/countdown/avg_at_2"] for line in evals]
    assert [p["accuracy"] for p in curve] == accuracies
    assert (values["first_accuracy"], values["final_accuracy"]) == (accuracies[0], accuracies[-1])
    assert values["best_accuracy"] == max(accuracies)
    greedy = [line["eval/countdown-greedy/avg_at_1"] for line in evals]
    assert [p["greedy"] for p in curve] == greedy
    assert (values["first_greedy"], values["final_greedy"]) == (greedy[0], greedy[-1])
    norms = [line["grad/norm"] for line in updates]
    assert values["grad_norm"] == pytest.approx(sum(norms) / len(norms))
    assert values["grad_norm_max"] == max(norms)
    shares = [line["clip/erc_frac"] for line in updates]
    assert values["clip_erc_frac"] == pytest.approx(sum(shares) / len(shares))
    second = [line["grad/norm"] for line in updates if line["rollout"] == 2]
    assert curve[2]["grad_norm"] == pytest.approx(sum(second) / len(second))
    rollouts = [line for line in lines if line["kind"] == "rollout"]
    assert values["final_reward"] == rollouts[-1]["train/reward"]
    distances = [line["policy/kl_start"] for line in evals]
    assert [p["kl_start"] for p in curve] == distances
    assert values["kl_start"] == distances[-1] > distances[0] == 0
    assert values["cpu"] == cpu()
    assert re.match(r"\S+, \S+", values["cpu"])
    assert values["settings"] == settings_hash(config)
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_run_that_diverges_is_a_result(tmp_path):
    values, curve = run_cell(small("trainer.learning_rate=1e30"), tmp_path / "run")
    assert (values["status"], values["collapsed"]) == ("diverged", True)
    assert values["skipped_updates"] >= 1
    assert curve[0]["rollout"] == 0


def test_a_study_from_the_command_line_and_again(tmp_path):
    file, out = write(tmp_path), tmp_path / "out"
    words = ["study", str(file), "--out", str(out), "--processes", "1"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    found = rows(out)
    assert [(r["method"], r["seed"]) for r in found] == [
        (m, s) for s in "01" for m in ("ERC", "mask")
    ]
    for erc, mask in zip(found[::2], found[1::2], strict=True):
        assert float(erc["clip_erc_frac"]) > 0.02
        masked = float(mask["clip_random_frac"])
        assert abs(masked - float(erc["clip_erc_frac"])) < 0.1, "the mask's share is ERC's"
        assert float(mask["clip_erc_frac"]) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "two runs and a mask &lt;b&gt;" in page
    assert (out / "erc-accuracy.svg").read_text(encoding="utf-8").startswith("<svg xmlns=")
    document = (out / "report.md").read_text(encoding="utf-8")
    assert "![erc-accuracy.svg](erc-accuracy.svg)" in document
    assert "**Each method at its own best setting, and across the grid**" in document
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0
    assert "runs to make" not in again.output
    assert len(again.output.splitlines()) < 20, "a finished study says what came out, no more"
    assert "is shown to help: at best mask" in " ".join(again.output.split())
    assert rows(out) == found


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_study_that_is_stopped_goes_on_to_the_same_rows(tmp_path, number):
    """Of two processes each may end its run after a signal: six runs are more than they finish."""
    file = write(tmp_path, STUDY.replace("seeds = [0, 1]", "seeds = [0, 1, 2]"))
    whole, out = tmp_path / "whole", tmp_path / "out"
    subprocess.run(command(file, whole), check=True, capture_output=True)
    process = subprocess.Popen(command(file, out), stdout=subprocess.PIPE, text=True)
    wait_for(lambda: (out / "runs.csv").exists())
    os.kill(process.pid, number)
    process.communicate(timeout=60)
    wait_for(lambda: not children_of(out))
    assert len(rows(out)) < 6
    subprocess.run(command(file, out), check=True, capture_output=True)
    assert rows(out) == rows(whole)
    assert (out / "curves.csv").read_bytes() == (whole / "curves.csv").read_bytes()


def test_a_process_that_dies_costs_its_run_only(tmp_path):
    """Its folder is a file, and the other run's worker is killed: both say so, the third runs."""
    (tmp_path / "file").write_text("x", encoding="utf-8")
    config = small("rollout.prompts=4", "trainer.updates_per_rollout=2", "trainer.rollouts=1")
    jobs = [
        Job("a file in the way", config, tmp_path / "file"),
        Job("sound", config, tmp_path / "sound"),
    ]
    ends = []
    run_jobs(lambda: jobs.pop(0) if jobs else None, 1, ends.append)
    assert [end.job.cell for end in ends] == ["a file in the way", "sound"]
    assert "is a file" in ends[0].problem
    assert ends[1].problem is None
    assert ends[1].outcome.values["status"] == "finished"


def test_unknown_choices_and_a_second_study_are_refused(tmp_path):
    file, out = write(tmp_path), tmp_path / "out"
    with pytest.raises(UserError, match="no seed 7: it has 0, 1"):
        study(file, out, 1, [7], [], [], Console(quiet=True))
    with pytest.raises(UserError, match="no method 'DAPO'"):
        study(file, out, 1, [], ["DAPO"], [], Console(quiet=True))
    with pytest.raises(UserError, match="no 'learning_rate' in its grid: it has nothing"):
        study(file, out, 1, [], [], ["learning_rate=1e-4"], Console(quiet=True))
    with _locked(out), pytest.raises(UserError, match="Another"):
        study(file, out, 1, [], [], [], Console(quiet=True))
    assert not (out / "runs.csv").exists()


def test_points_of_the_grid_can_be_chosen(tmp_path):
    grid = '[grid]\n"trainer.learning_rate" = [1e-4, 3e-4, 1e-3]\n[methods.ERC]'
    text = STUDY.replace(", learning_rate = 3e-4", "").replace("[methods.ERC]", grid)
    plan = read_study(write(tmp_path, text))
    chosen = _choose(plan, [1], [], _at(plan, ["learning_rate=3e-4", "learning_rate=0.001"]))
    assert {(dict(cell.point)["learning_rate"], cell.seed) for cell in chosen} == {
        (3e-4, 1),
        (1e-3, 1),
    }
    assert _choose(plan, [], [], _at(plan, [])) == plan.cells()
    with pytest.raises(UserError, match="no learning_rate '2e-4': it has"):
        _at(plan, ["learning_rate=2e-4"])


def wait_for(condition, timeout_s: float = 900) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.1)


def children_of(out: Path) -> list[int]:
    """Workers that still hold a file of the study open."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                links = [os.readlink(link) for link in (process / "fd").iterdir()]
            except OSError:
                continue
            if any(link.startswith(str(out)) for link in links):
                found.append(int(process.name))
    return found
