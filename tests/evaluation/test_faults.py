"""An evaluation that is killed at every file operation, and continued: the files of a whole one."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from erclip.errors import UserError
from erclip.evaluation import run
from erclip.evaluation.settings import check_settings
from erclip.machine.locks import Lock
from erclip.training.outcomes import Outcome
from faults import deaths, survives  # ty: ignore[unresolved-import]

SETTINGS = check_settings(
    model="embedded", benchmarks=("countdown",), k=2, limit=6, batch_size=4, entropy=False
)


@pytest.fixture
def quick(monkeypatch):
    """Answers without a model: what is tested is the folder."""

    def answer(self, benchmark, chunk):
        fields = dict.fromkeys(Outcome.__dataclass_fields__)
        verdict = {"correct": True, "answer": "1", "reason": "correct", "tokens": 3}
        return [
            {"prompt_id": prompt, "index": index, "response": "1", **fields, **verdict}
            for prompt, index in chunk.slots()
        ]

    monkeypatch.setattr(run._Runner, "_answer", answer)
    monkeypatch.setattr(run, "summarise", lambda problems: {"problems": len(problems)})
    policy = run.load_policy(run.ModelConfig(), 0.6)
    monkeypatch.setattr(run, "load_policy", lambda *_: policy)


def content(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    texts = {str(path.relative_to(folder)): path.read_text() for path in files}
    texts.pop("times.jsonl", None)
    about = json.loads(texts.pop("evaluation.json"))
    return texts, about["settings"], about["weights_sha256"]


def test_death_at_every_operation(quick, tmp_path):
    def evaluate(out):
        run.run_evaluation(SETTINGS, out)

    found = deaths(lambda: evaluate(tmp_path / "whole"))
    assert len(found) > 12
    assert len((tmp_path / "whole/responses/countdown.jsonl").read_text().splitlines()) == 12
    for last, inside in found:
        out = tmp_path / "killed"
        assert not survives(lambda out=out: evaluate(out), last, inside)
        evaluate(out)
        assert content(out) == content(tmp_path / "whole"), (last, inside)
        names = {path.name for path in out.iterdir()}
        assert names <= {"evaluation.json", "responses", "times.jsonl", "result.json"}
        shutil.rmtree(out)


def test_two_writers(quick, tmp_path):
    with Lock(tmp_path / "out", "erclip eval"), pytest.raises(UserError, match="Another `erclip"):
        run.run_evaluation(SETTINGS, tmp_path / "out")


@pytest.mark.parametrize("line", ["5", "null", '{"prompt_id": 1}', "[" * 99_999, "\xff"])
def test_a_damaged_line_is_answered_again(line, quick, tmp_path):
    run.run_evaluation(SETTINGS, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "out")
    file = tmp_path / "out" / "responses" / "countdown.jsonl"
    lines = file.read_text().splitlines()
    lines[7] = line
    file.write_text("\n".join(lines) + "\n", encoding="latin-1")
    run.run_evaluation(SETTINGS, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "whole")
