"""`erclip data FILE`: what it says of rows, golds, lengths and repeats."""

import json

import pytest
from typer.testing import CliRunner

from erclip.cli import app
from erclip.diagnostics.look import data_sheet
from erclip.errors import UserError
from erclip.integrations.verl.reward import compute_score
from erclip.tasks.base import Wording
from erclip.tasks.files import Source
from erclip.tasks.rows import read_gold, read_row

ROWS = [
    {"problem": "How much is one and one?", "solution": "It is\n$\\boxed{2}$."},
    {"problem": "How long is it?", "solution": "5\\text{ cm}"},
    {"problem": "Which?", "solution": "\\text{east}"},
    {"problem": "Solve for x, then for y.", "solution": "x+1"},
    {"problem": "Where?", "solution": "[1,2)"},
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, *ROWS[:2], ROWS[0]]))
    return str(path)


def test_a_sheet_by_hand(file):
    sheet = data_sheet(Source(file), Wording("Be brief."), None, None)
    prompts, golds, lengths = sheet.tables
    assert [row[1:] for row in prompts.rows] == [
        ("How much is one and one?\nBe brief.", "2"),
        ("How long is it?\nBe brief.", r"5\text{ cm}"),
        ("Which?\nBe brief.", r"\text{east}"),
    ]
    assert sorted(golds.rows) == [
        ("expression", "1"),
        ("integer", "1"),
        ("integer with a unit", "1"),
        ("list, tuple, set or interval", "1"),
        ("words", "1"),
    ]
    assert lengths.rows == [("3", "6", "8", "8")]
    said = " ".join(sheet.sentences)
    assert "8 rows, 5 problems; the first row asks in `problem` and answers in `solution`." in said
    assert "stands there 3 times" in said
    assert "do not verify" not in said


def test_lengths_in_the_models_tokens(file):
    sheet = data_sheet(Source(file), Wording(), None, "embedded")
    assert sheet.tables[2].title.endswith("tokens")
    assert not any("--model" in sentence for sentence in sheet.sentences)
    with pytest.raises(UserError, match=r"--model \./nowhere/x: its tokenizer cannot be loaded"):
        data_sheet(Source(file), Wording(), None, "./nowhere/x")


def test_the_command(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("ask,key,answer\nWhat is 2 + 2?,4,wrong\nTower?,5^{5^{5^{5^5}}},x\n")
    arguments = ["data", str(path), "--prompt-column", "ask", "--answer-column", "key"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "What is 2 + 2?" in done.output
    assert "1 golds do not verify against themselves" in " ".join(done.output.split())
    assert "No problem is repeated." in done.output


GOLDS = [18, 18.0, "18", ["18", "XVIII"], '["18"]', "9+9=18\n#### 18", "So\n$\\boxed{18}$."]


@pytest.mark.parametrize("gold", GOLDS, ids=map(str, GOLDS))
def test_the_verl_adapter_takes_the_golds_of_data_files(gold):
    row = {"prompt": "q", "reward_model": {"ground_truth": gold}}
    assert read_row(row, "f:1").gold == read_gold(gold)
    assert compute_score("x", r"\boxed{18}", gold)["acc"]
    assert not compute_score("x", r"\boxed{19}", gold)["acc"]


def test_the_verl_adapter_reads_the_formats_it_is_told():
    assert compute_score("x", "Answer: 18", "18")["acc"]
    assert not compute_score("x", "Answer: 18", "18", answer_formats=["boxed"])["acc"]
    with pytest.raises(ValueError, match="'box' is not known: give boxed, tag"):
        compute_score("x", "Answer: 18", "18", answer_formats=["box"])
