"""Logs that inspect_ai reads back as what they were written from."""

from __future__ import annotations

import pytest

from erclip.errors import UserError
from erclip.evaluation import folder
from erclip.evaluation.inspect_log import write_inspect_logs
from erclip.evaluation.run import run_evaluation
from erclip.evaluation.settings import check_settings


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("eval") / "out"
    wanted = check_settings(model="embedded", benchmarks=("countdown",), limit=4, k=2)
    return out, run_evaluation(wanted, out)


def test_inspect_reads_our_verdicts(finished):
    log_module = pytest.importorskip("inspect_ai.log", reason="needs inspect-ai")
    out, result = finished
    (file,) = write_inspect_logs(out)
    log = log_module.read_eval_log(str(file))
    numbers = result["sets"]["countdown"]
    metrics = log.results.scores[0].metrics
    assert metrics["mean"].value == numbers["avg_at_k"]["mean"]
    assert metrics["pass_at_2"].value == numbers["pass_at"]["2"]
    rows = {
        (row["prompt_id"], row["index"]): row for row in folder.read_responses(out, "countdown")
    }
    assert len(log.samples) == len(rows) == 8
    for sample in log.samples:
        row = rows[sample.id, sample.epoch - 1]
        assert sample.output.completion == row["response"]
        assert (sample.scores["erclip"].value == "C") == row["correct"]
        assert sample.target == row["gold"]
    summaries = log_module.read_eval_log_sample_summaries(str(file))
    assert [s.scores["erclip"].value for s in summaries] == [
        "C" if row["correct"] else "I" for row in rows.values()
    ]


def test_what_is_no_evaluation(tmp_path):
    pytest.importorskip("inspect_ai", reason="needs inspect-ai")
    with pytest.raises(UserError, match="not the folder of an evaluation"):
        write_inspect_logs(tmp_path)


def test_without_inspect_there_is_one_sentence(finished, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "inspect_ai.log", None)
    with pytest.raises(UserError, match=r"pip install 'erclip\[inspect\]'"):
        write_inspect_logs(finished[0])
