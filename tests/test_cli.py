"""The command as a user meets it; in a process of its own where that matters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from erclip.cli import main

SHORT = ["--set", "trainer.rollouts=1", "--set", "rollout.prompts=8", "--set", "eval.prompts=4"]


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


@pytest.fixture
def call(monkeypatch, capsys):
    """The command inside this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["erclip", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "120")
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, *capsys.readouterr()

    return run


def test_help_names_the_commands(call):
    code, stdout, _ = call("--help")
    assert code == 0
    for command in ("train", "report", "recipes", "warmup", "fetch-model"):
        assert command in stdout


def test_recipes_are_listed_with_a_line_each(call):
    lines = call("recipes")[1].splitlines()
    assert any(line.startswith("quickstart ") and "ERC-DAPO" in line for line in lines)
    assert any(line.startswith("paper-7b-erc-gppo ") for line in lines)


def test_a_run_and_its_report(tmp_path, call):
    out = tmp_path / "run"
    done = erclip("train", "--out", out, *SHORT)
    assert (done.returncode, done.stderr) == (0, "")
    assert "before training: countdown/avg_at_4 0." in done.stdout
    page = (out / "report.html").read_text()
    (out / "report.html").unlink()
    assert call("report", out)[0] == 0
    assert (out / "report.html").stat().st_size == pytest.approx(len(page.encode()), rel=0.1)


def test_other_packages_say_nothing():
    """What LoRA, 8-bit AdamW and transformers' schedules import, warns on CPUs with bfloat16."""
    code = "from erclip.extras import need; need('peft', ''); need('bitsandbytes', '')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


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


def wait_for(path, text, seconds=120):
    deadline = time.monotonic() + seconds
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline, f"no {text} in {path} within {seconds} s"
        time.sleep(0.1)


def test_ctrl_c_leaves_a_readable_run_and_a_report(tmp_path):
    out = tmp_path / "run"
    sets = ["--set", "eval.prompts=4", "--set", "rollout.prompts=8"]
    command = [sys.executable, "-m", "erclip", "train", "--out", str(out), *sets]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(tmp_path)
    )
    try:
        wait_for(out / "metrics.jsonl", '"kind": "rollout"')
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert "Stopped by SIGINT; go on with: erclip train --resume" in stdout
    assert "Traceback" not in stderr
    assert "<html" in (out / "report.html").read_text()
