"""`erclip eval` without --out: what the same command has begun goes on, nothing else is touched."""

from __future__ import annotations

from pathlib import Path

from erclip.evaluation.command import evaluate, unfinished
from erclip.evaluation.settings import EvaluationSettings
from erclip.machine.console import Console
from erclip.machine.locks import Lock

VALUES = {"model": "embedded", "benchmarks": ("countdown",), "limit": 6, "k": 2, "batch_size": 4}


def run(**changes):
    evaluate({**VALUES, **changes}, None, None, Console(quiet=True))


def folders():
    return sorted(Path("evals").iterdir())


def test_what_the_same_command_began_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run()
    (first,) = folders()
    whole = (first / "responses" / "countdown.jsonl").read_bytes()
    (first / "result.json").unlink()
    (first / "responses" / "countdown.jsonl").write_bytes(whole[: len(whole) // 2])
    run()
    assert folders() == [first]
    assert (first / "responses" / "countdown.jsonl").read_bytes() == whole
    run()  # that one is finished: another begins
    assert len(folders()) == 2
    (first / "result.json").unlink()
    run(seed=1)
    assert len(folders()) == 3
    settings = EvaluationSettings(**VALUES)
    with Lock(first, "erclip eval"):
        assert unfinished(settings, "erclip eval") is None
    found = unfinished(settings, "erclip eval")
    assert found is not None
    assert found.folder.resolve() == first.resolve()
    found.release()
