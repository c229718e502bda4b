"""Two evaluations: differences by hand, refusals, and texts that stay texts."""

from __future__ import annotations

import json
import sys

import pytest

from erclip.cli import main
from erclip.errors import UserError
from erclip.evaluation.pairs import compare_evaluations
from erclip.evaluation.tables import comparison_json, comparison_sheet
from erclip.pages.sheet import markdown
from erclip.statistics import difference_interval, difference_of_sets

SETTINGS = {
    "model": "m", "k": 2, "temperature": 0.6, "top_p": 0.95, "instruction": "", "seed": 0,
    "system_prompt": "", "after_think": False, "last_number": False, "dtype": "float32",
}  # fmt: skip

REST = {"answer": "1", "reason": "", "truncated": False, "tokens": 3, "entropy": None}


def evaluation(path, sets, weights="1" * 64, texts=None, done=True, **settings):
    """A folder as `erclip eval` leaves it; `sets` is {set: {prompt id: [correct, …]}}."""
    (path / "responses").mkdir(parents=True)
    about = {
        "settings": {**SETTINGS, **settings},
        "max_tokens": 100,
        "weights_sha256": weights,
        "texts": {name: (texts or {}).get(name, name) for name in sets},
    }
    (path / "evaluation.json").write_text(json.dumps(about))
    for name, prompts in sets.items():
        rows = [
            json.dumps({"prompt_id": key, "index": i, "correct": bool(correct), **REST}) + "\n"
            for key, verdicts in prompts.items()
            for i, correct in enumerate(verdicts)
        ]
        (path / "responses" / f"{name}.jsonl").write_text("".join(rows))
    if done:
        (path / "result.json").write_text("{}")
    return path


A = {"gsm8k": {"p": [1, 0], "q": [0, 0], "r": [1, 1]}, "aime24": {"x": [0, 0], "y": [0, 1]}}
B = {"gsm8k": {"r": [1, 1], "q": [1, 0], "p": [1, 1]}, "aime24": {"x": [0, 0], "y": [0, 0]}}


def test_rows_by_hand(tmp_path):
    found = compare_evaluations(
        evaluation(tmp_path / "a", A), evaluation(tmp_path / "b", B, weights="2" * 64)
    )
    gsm8k, aime24, pooled, mean = found.rows
    assert (gsm8k.problems, gsm8k.a, gsm8k.b) == (3, 0.5, pytest.approx(5 / 6))
    assert gsm8k.difference == difference_interval([0.5, 0.5, 0.0])
    assert aime24.difference == difference_interval([0.0, -0.5])
    assert (pooled.name, pooled.problems) == ("all problems", 5)
    assert pooled.difference == difference_interval([0.5, 0.5, 0.0, 0.0, -0.5])
    assert (mean.name, mean.b) == ("mean of sets", pytest.approx(5 / 12))
    assert mean.difference == difference_of_sets([[0.5, 0.5, 0.0], [0.0, -0.5]])
    assert {row.verdict for row in found.rows} == {"no difference shown"}
    assert found.remarks == ()


def test_a_difference_that_is_one(tmp_path):
    solved = {"gsm8k": {str(i): [1, i % 3 > 0] for i in range(40)}}
    failed = {"gsm8k": {str(i): [0, i % 5 == 0] for i in range(40)}}
    a = evaluation(tmp_path / "a", failed)
    b = evaluation(tmp_path / "b", solved, weights="2" * 64)
    assert [row.verdict for row in compare_evaluations(a, b).rows] == ["gain"]
    assert [row.verdict for row in compare_evaluations(b, a).rows] == ["loss"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"texts": {"gsm8k": "other"}}, "different texts of gsm8k"),
        ({"temperature": 1.0}, "differ in the model and in temperature 0.6 and 1.0"),
        ({"after_think": True}, "differ in the model and in after_think"),
        ({"done": False}, "is not finished"),
        ({"sets": {"math500": {"z": [1]}}}, "no set in common"),
        ({"sets": {"gsm8k": {"z": [1]}}}, "share no problem of gsm8k"),
    ],
)
def test_what_cannot_be_compared(changes, sentence, tmp_path):
    a = evaluation(tmp_path / "a", A)
    b = evaluation(tmp_path / "b", changes.pop("sets", B), weights="2" * 64, **changes)
    with pytest.raises(UserError, match=sentence):
        compare_evaluations(a, b)


@pytest.mark.parametrize(
    ("changes", "remark"),
    [
        ({"temperature": 1.0}, "same model, different temperature 0.6 and 1.0"),
        ({}, "same model, same settings: the difference is noise of sampling"),
        ({"seed": 1, "weights": "2" * 64}, "seed is 0 in A, 1 in B"),
        ({"k": 4, "weights": "2" * 64}, "k is 2 in A, 4 in B"),
        (
            {"sets": {"gsm8k": {"p": [1], "q": [0]}}},
            "gsm8k: 2 problems are in both (3 in A, 2 in B)",
        ),
        ({"sets": {"gsm8k": A["gsm8k"]}}, "aime24 is only in one of the two"),
    ],
)
def test_what_the_reader_is_told(changes, remark, tmp_path):
    a = evaluation(tmp_path / "a", A)
    b = evaluation(tmp_path / "b", changes.pop("sets", B), **changes)
    assert remark in compare_evaluations(a, b).remarks


def test_all_forms_say_the_same(tmp_path):
    a, b = evaluation(tmp_path / "a", A), evaluation(tmp_path / "b", B, weights="2" * 64)
    found = compare_evaluations(a, b)
    table = markdown(comparison_sheet(found)).splitlines()
    assert table[4].startswith("| gsm8k | 3 | 50.0 % | 83.3 % | +33.3 [")
    assert table[4].endswith("| no difference shown |")
    assert comparison_sheet(found).sentences[0] == (
        "No difference shown (mean of sets, 5 problems): A 37.5 %, B 41.7 %, "
        "+4.2 [−34.4, +41.9] points"
    )
    fields = json.loads(comparison_json(found))
    assert fields["rows"][0]["difference"]["mean"] == found.rows[0].difference.mean
    assert fields["rows"][0]["verdict"] == "no difference shown"


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["erclip", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, *capsys.readouterr()

    return run


def test_the_command_tells_evaluations_from_runs(call, tmp_path):
    a, b = evaluation(tmp_path / "a", A), evaluation(tmp_path / "b", B, weights="2" * 64)
    code, stdout, _ = call("compare", a, b, "--out", tmp_path / "page")
    assert code == 0
    assert "no difference shown" in stdout
    assert "gsm8k" in (tmp_path / "page" / "compare.html").read_text()
    assert json.loads(call("compare", a, b, "--format", "json")[1])["rows"]
    assert call("compare", a, b, "--format", "markdown")[1].startswith("**A: ")
    for arguments in ([a], [a, tmp_path], [a, b, "--format", "xml"], [tmp_path, tmp_path]):
        code, _, stderr = call("compare", *arguments)
        assert code == 2
        assert stderr.startswith("erclip: ")
        assert stderr.count("\n") == 1


def test_names_are_text_in_every_form(call, tmp_path):
    name = "set\x1b[31m<script>|[red]"
    a = evaluation(tmp_path / "a", {name: A["gsm8k"]})
    b = evaluation(tmp_path / "b", {name: B["gsm8k"]}, weights="2" * 64)
    text, table = call("compare", a, b)[1], call("compare", a, b, "--format", "markdown")[1]
    assert "\x1b[31m" not in text + table
    assert "<script>|[red]" in text
    assert r"&lt;script>\|[red]" in table
    call("compare", a, b, "--out", tmp_path / "page")
    assert "<script>|" not in (tmp_path / "page" / "compare.html").read_text()


def test_answers_of_an_audit_are_text(call, tmp_path):
    file = tmp_path / "answers.jsonl"
    rows = [
        {"response": "\\boxed{3} then \\boxed{4}", "gold": "3,4"},
        {"response": "\\boxed{\x1b[2J[bold]9}", "gold": "9"},
        {"response": "\\boxed{5}", "gold": "5"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, stdout, _ = call("audit-grader", file)
    assert code == 0
    assert "3 responses; the graders disagree on" in stdout
    assert "\x1b[2J" not in stdout
    assert call("audit-grader", tmp_path / "gone.jsonl")[0] == 2


def test_an_evaluation_from_the_command_line(call, tmp_path):
    options = ["--limit", 8, "--k", 2, "--out", tmp_path / "out"]
    code, stdout, _ = call("eval", "embedded", "--benchmark", "countdown", *options)
    assert code == 0
    assert "avg@k (95 % interval)" in stdout
    assert (tmp_path / "out" / "result.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["embedded", "--benchmark", "aime26"], "did you mean aime2"),
        (["embedded", "--benchmark", "gsm8k", "--data-dir", "."], "no gsm8k.jsonl in ."),
        (["embedded", "--data", "gone.jsonl"], "no file gone.jsonl"),
        (["./nowhere", "--benchmark", "countdown"], "No model folder './nowhere'"),
        (["embedded", "--benchmark", "countdown", "--out", "taken"], "taken holds other files"),
        (["embedded"], "Nothing to evaluate on"),
    ],
)
def test_mistakes_are_one_sentence(arguments, sentence, call, tmp_path, monkeypatch):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    monkeypatch.chdir(tmp_path)
    code, _, stderr = call("eval", *arguments)
    assert code == 2
    complaint = stderr[stderr.index("erclip: ") :]
    assert sentence in complaint
    assert complaint.count("\n") == 1
    assert not (tmp_path / "evals").exists()
