"""The command as a user meets it; in a process of its own where that matters."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

from command import Command
from erclip.cli import app, main
from erclip.config.keys import keys
from erclip.config.listing import listing
from erclip.config.recipes import load_recipe, with_trackers
from erclip.evaluation.settings import EvaluationSettings

TINY = (
    "trainer.rollouts=1",
    "rollout.prompts=4",
    "trainer.updates_per_rollout=2",
    "eval.prompts=4",
)
SHORT = [word for setting in TINY for word in ("--set", setting)]


def erclip(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "erclip", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "120"},
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run by a process of its own, and how that ended.

    What LoRA and 8-bit AdamW import warns on CPUs with bfloat16; nobody hears it.
    """
    out = tmp_path_factory.mktemp("finished") / "run"
    sets = ["--set", "model.lora={rank=2}", "--set", "trainer.optimizer=adamw_8bit"]
    return out, erclip("train", "--out", out, *SHORT, *sets)


@pytest.fixture
def call(monkeypatch, capsys):
    """The command inside this process: (exit code, stdout, stderr)."""

    def run(*arguments, columns=120):
        monkeypatch.setattr(sys, "argv", ["erclip", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, *capsys.readouterr()

    return run


def test_help_names_the_commands(call):
    code, stdout, _ = call("--help")
    assert code == 0
    for command in ("train", "report", "recipes", "warmup", "fetch-model"):
        assert command in stdout


def commands():
    group = typer.main.get_command(app)
    return {name: group.commands[name] for name in group.commands}


@pytest.mark.parametrize("name", commands())
def test_a_help_page_has_examples_that_are_understood(name, call):
    """Nothing is cut at 60 columns, and every example can be parsed."""
    for option in ("-h", "--help"):
        code, stdout, _ = call(name, option)
        assert code == 0
    own = commands()[name]
    examples = re.findall(r"^ +\$ erclip (.+)$", stdout, re.M)
    assert examples
    for example in examples:
        first, *arguments = shlex.split(example)
        assert first == name
        own.make_context(name, arguments, resilient_parsing=False)
    options = [flag for p in own.params for flag in p.opts if flag.startswith("--")]
    stdout = call(name, "-h", columns=60)[1]
    assert all(flag in stdout for flag in options)


def test_help_shows_defaults_and_exit_codes(call):
    assert "[default: (quickstart)]" in " ".join(call("train", "-h")[1].split())
    stdout = " ".join(call("eval", "-h")[1].split())
    kind = "(<int range>|INTEGER RANGE)"  # as typer has it today, and at its lowest
    assert re.search(rf"--k {kind} responses per problem \[default: 4; x>=1\]", stdout)
    assert "[default: float32]" in stdout
    assert "Exit codes:" in call("--help")[1]
    assert re.fullmatch(r"erclip \d+\.\d+.*\n", call("--version")[1])


def test_every_setting_of_an_evaluation_is_an_option(call):
    stdout = call("eval", "-h")[1]
    for key in EvaluationSettings.model_fields:
        if key not in ("model", "benchmarks", "columns"):
            assert f"--{key.replace('_', '-')} " in stdout


def test_settings_are_listed(call):
    stdout = "".join(f"{line}\n" for line in listing("trainer", 60))
    assert call("settings", "trainer")[0] == 0
    assert "trainer.learning_rate = 1e-06\n    number > 0; " in stdout
    assert max(len(line) for line in stdout.splitlines() if line.startswith(" ")) <= 60
    assert 'trainer.schedule.power = 1.0   (with trainer.schedule.kind = "polynomial")' in stdout
    everything = call("settings")[1]
    assert all(f"\n{key.path} = " in f"\n{everything}" for key in keys())
    rules = call("settings", "loss.constraints")[1]
    assert 'loss.constraints: kind = "entropy_ratio_clip"' in rules
    assert "    softness = 0.0: a number" in rules
    code, _, stderr = call("settings", "learning_rate")
    assert (code, "there is trainer.learning_rate" in stderr) == (2, True)


@pytest.mark.parametrize("data", ["countdown", "rows.jsonl"])
def test_a_recipe_to_begin_with(data, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"question": "1+1?", "answer": "#### 2"}\n' * 12)
    code, stdout, _ = call("init", "mine.toml", "--model", "embedded", "--data", data)
    assert code == 0
    assert "erclip train mine.toml --dry-run" in stdout
    assert ("asks in `question`, answers in `answer`" in stdout) is (data != "countdown")
    config = load_recipe("mine.toml").config
    assert (config.model.path, config.data.path) == ("embedded", data)
    text = Path("mine.toml").read_text()
    uncommented = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.M)
    tomllib.loads(uncommented)  # the ideas are TOML, too
    for wrong, words in (("mine.toml", "is there already"), ("a.json", "a recipe is a TOML file")):
        code, _, stderr = call("init", wrong)
        assert (code, words in stderr) == (2, True)
    code, _, stderr = call("init", "b.toml", "--data", "gone.jsonl")
    assert (code, Path("b.toml").exists()) == (2, False)


def test_a_dry_run_checks_everything_and_writes_nothing(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def half(response, grade):\n    return 0.5\n")
    sets = ["--set", "reward.function=mine.py:half"]
    code, stdout, _ = call("train", "quickstart", "--dry-run", *sets)
    assert code == 0
    for words in (
        "memory: peak",
        "prompts to train on",
        "as the model reads it",
        "mine.py:half: 0.5",
        "loss:",
    ):
        assert words in stdout
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["mine.py"]
    Path("mine.py").write_text("def half(response):\n    return 0.5\n")
    sets[1] = "reward.function=mine.py:gone"
    code, _, stderr = call("train", "quickstart", "--dry-run", *sets)
    assert (code, "defines no function 'gone'" in stderr) == (2, True)
    monkeypatch.setattr("erclip.cli.dry_run.available_bytes", lambda *_: 2**20)
    code, stdout, _ = call("train", "quickstart", "--dry-run")
    assert (code, "does not fit into 0.00 GiB" in stdout) == (1, True)


def test_a_tracker_in_short(call):
    recipe = with_trackers(
        load_recipe("quickstart", ["trackers=[{kind='wandb', project='p'}]"]), []
    )
    again = with_trackers(recipe, ["wandb", "tensorboard"])
    assert [t.kind for t in again.config.trackers] == ["wandb", "tensorboard"]
    assert again.config.trackers[0].project == "p"
    code, _, stderr = call("train", "--tracker", "wandbb", "--dry-run")
    assert (code, "must be one of trackio, wandb, tensorboard, mlflow" in stderr) == (2, True)


def test_a_finished_run_says_how_to_extend_it(finished, tmp_path, call):
    out = shutil.copytree(finished[0], tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    code, stdout, _ = call("train", "--resume", out)
    assert code == 0
    assert "has finished its 1 rollouts" in stdout
    assert f"erclip train --resume {out} --set trainer.rollouts=2" in stdout
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before
    card = (out / "checkpoints" / "rollout_00001" / "README.md").read_text()
    assert "| countdown, avg@4 |" in card
    more = ["--set", "trainer.rollouts=2", "--set", "eval.prompts=6"]
    code, stdout, _ = call("train", "--resume", out, *more)
    assert code == 0
    assert "rollout 2/2" in stdout
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["kind"] == "eval"


def test_nothing_is_overwritten_or_written_under_a_fixed_name(
    finished, tmp_path, call, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished[0], "a")
    sets = ["--set", "trainer.seed=98", "--set", "loss.constraints=[]"]
    assert call("train", "--out", "b", *SHORT, *sets)[0] == 0
    for command in ("report", "compare"):
        assert call(command, "a", "b")[0] == 0
        assert call(command, "a", "b", "--out", "pages")[0] == 0
        code, _, stderr = call(command, "a", "b", "--out", "pages")
        assert (code, f"holds {command}.html already" in stderr) == (2, True)
        code, _, stderr = call(command, "a", "b", "--out", "page.html")
        assert (code, "give a folder, not a file" in stderr) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "pages", "reports"]
    assert len(list((tmp_path / "reports").iterdir())) == 2
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "notes.txt").write_text("mine")
    code, _, stderr = call("train", "--out", "own")
    assert (code, "holds other files (notes.txt)" in stderr) == (2, True)


def test_recipes_are_listed_with_a_line_each(call):
    lines = call("recipes")[1].splitlines()
    assert any(line.startswith("quickstart ") and "ERC-DAPO" in line for line in lines)
    assert any(line.startswith("paper-7b-erc-gppo ") for line in lines)


def test_a_run_and_its_report(finished, tmp_path, call):
    out, done = shutil.copytree(finished[0], tmp_path / "run"), finished[1]
    assert (done.returncode, done.stderr) == (0, "")
    assert "before training: countdown/avg_at_4 0." in done.stdout
    page = (out / "report.html").read_text()
    (out / "report.html").unlink()
    assert call("report", out)[0] == 0
    assert (out / "report.html").stat().st_size == pytest.approx(len(page.encode()), rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "nothing"], "No recipe 'nothing'"),
        (["train", "--set", "trainer.seeed=1"], "Unknown key trainer.seeed"),
        (["train", "--set", "trainer.seed=one"], "trainer.seed = 'one'"),
        (["train", "--set", "model.path=./nowhere"], "No model folder './nowhere'"),
        (["train", "--set", "data.path=gone.jsonl"], "gone.jsonl"),
        (["train", "--set", "data.path=bad.jsonl"], "bad.jsonl:2"),
        (["train", "--out", "taken"], "taken holds another run"),
        (["train", "--out", "bad.jsonl"], "bad.jsonl is a file"),
        (["report", "empty"], "empty"),
        (["fetch-model", "gpt5", "there"], "gpt5"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(
    arguments, sentence, tmp_path, call, monkeypatch
):
    (tmp_path / "bad.jsonl").write_text(
        '{"question": "1+1?", "answer": "#### 2"}\n{"question": "2+2?"}\n'
    )
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    code, _, stderr = call(*arguments)
    assert code == 2, stderr
    complaint = stderr[stderr.index("erclip: ") :]
    assert sentence in complaint
    assert complaint.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_mistake_in_a_real_process_shows_no_traceback():
    done = erclip("train", "nothing")
    assert done.returncode == 2
    assert done.stderr.startswith("erclip: No recipe 'nothing'")
    assert done.stderr.count("\n") == 1


def test_ctrl_c_leaves_a_readable_run_and_a_report(tmp_path):
    out = tmp_path / "run"
    command = Command(
        "train", "--out", out, *SHORT, "--set", "trainer.rollouts=99", folder=tmp_path
    )
    metrics = out / "metrics.jsonl"
    command.until(lambda: metrics.exists() and '"kind": "rollout"' in metrics.read_text())
    command.signal(signal.SIGINT)
    done = command.wait()
    assert done.returncode == 130, done.stderr
    assert "Stopped by SIGINT; go on with: erclip train --resume" in done.stdout
    assert "Traceback" not in done.stderr
    assert "<html" in (out / "report.html").read_text()
