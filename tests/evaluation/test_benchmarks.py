"""The public sets: counts, identity, sources, and what is said when they are not as expected."""

from __future__ import annotations

import json
import re
import sys
from types import SimpleNamespace

import pytest

from erclip.errors import UserError
from erclip.evaluation import benchmarks
from erclip.evaluation.benchmarks import NAMES, SOURCES, load_benchmark, load_data
from erclip.evaluation.problems import gold_fields
from erclip.grading import Gold, Grader
from erclip.tasks.base import Wording
from erclip.tasks.repeats import problem_of
from shared_data import shared_data

COUNTS = {
    "aime24": 30,
    "aime25": 30,
    "hmmt25": 30,
    "amc23": 40,
    "math500": 500,
    "olympiadbench": 675,
    "gsm8k": 1319,
}


@pytest.fixture
def trusting(monkeypatch):
    """Golds are not checked: that is what takes seconds."""
    monkeypatch.setattr(Grader, "check_golds", lambda self, golds: {})


@pytest.mark.parametrize("name", COUNTS)
def test_the_public_sets_are_the_known_texts(name, trusting):
    found = load_benchmark(name, shared_data() / "benchmarks")
    assert len(found.prompts) == COUNTS[name] == SOURCES[name].problems
    assert len({prompt.id for prompt in found.prompts}) == COUNTS[name]
    assert found.text_sha256 == SOURCES[name].sha256
    assert found.remarks == ()


@pytest.mark.slow
def test_their_golds_verify_except_two():
    remarks = {n: load_benchmark(n, shared_data() / "benchmarks").remarks for n in COUNTS}
    olympiad = remarks.pop("olympiadbench")
    reasons = [re.search(r"does not verify against itself \((\w+)\)", r)[1] for r in olympiad]
    assert reasons == ["wrong", "parse_error"]
    assert set(remarks.values()) == {()}


def test_sources_are_pinned():
    assert (*COUNTS, "countdown") == NAMES
    for source in SOURCES.values():
        assert len(source.revision) == 40
        assert len(source.sha256) == 64


ROWS = [
    {"problem": "What is 2 + 3?", "answer": "5"},
    {"problem": "Half of one?", "answer": "\\frac{1}{2}"},
]


def write(folder, name, rows):
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def sha(tmp_path, rows):
    return load_data(write(tmp_path, "own.jsonl", rows)).text_sha256


def test_a_hash_stands_for_texts_and_golds_not_for_the_file(tmp_path):
    usual = sha(tmp_path, ROWS)
    assert sha(tmp_path, ROWS[::-1]) == usual
    assert sha(tmp_path, [{"problem": " What is\n2 + 3? ", "answer": 5.0}, ROWS[1]]) == usual
    assert sha(tmp_path, [{**ROWS[0], "problem": "What is 2 + 4?"}, ROWS[1]]) != usual
    assert sha(tmp_path, [{**ROWS[0], "answer": "6"}, ROWS[1]]) != usual
    assert sha(tmp_path, ROWS[:1]) != usual
    assert sha(tmp_path, [*ROWS, ROWS[0]]) == usual  # a repeated row is no other problem


def test_repeated_rows_are_copies_of_one_problem(tmp_path):
    found = load_data(write(tmp_path, "own.jsonl", ROWS * 16))
    assert len(found.prompts) == len({prompt.id for prompt in found.prompts}) == 32
    assert {problem_of(prompt.id) for prompt in found.prompts} == {
        prompt.id for prompt in load_data(write(tmp_path, "own.jsonl", ROWS)).prompts
    }
    assert found.remarks[0].startswith(
        "32 rows are 2 different problems: responses to copies count"
    )
    assert len(found.limited(1).prompts) == 16


def test_one_problem_with_two_golds_is_said(tmp_path):
    rows = [*ROWS, {**ROWS[0], "answer": "6"}]
    remark = load_data(write(tmp_path, "own.jsonl", rows)).remarks[0]
    assert remark.startswith("3 rows are 2 different problems, 1 of them with different golds")


def test_the_wording_is_asked_but_not_hashed(tmp_path):
    path = write(tmp_path, "own.jsonl", ROWS)
    plain, dressed = load_data(path), load_data(path, Wording("Be brief.", "You are good."))
    assert [m["content"] for m in dressed.prompts[0].messages] == [
        "You are good.",
        "What is 2 + 3?\nBe brief.",
    ]
    assert plain.text_sha256 == dressed.text_sha256
    assert [p.id for p in plain.prompts] == [p.id for p in dressed.prompts]


def test_what_is_unusual_is_said(tmp_path):
    write(tmp_path, "aime24.jsonl", [*ROWS, {"problem": "Tower?", "answer": "5^{5^{5^{5^5}}}"}])
    found = load_benchmark("aime24", tmp_path)
    assert found.remarks[:2] == (
        "3 problems, not the usual 30",
        "the text differs from the usual one: compare only with results of the same hash",
    )
    assert "does not verify against itself (guarded): 5^{5^" in found.remarks[2]
    assert len(found.limited(2).prompts) == 2
    assert found.limited(2).text_sha256 == found.text_sha256
    assert len(found.limited(None).prompts) == 3


def test_gsm8k_may_keep_the_name_of_its_split(tmp_path):
    write(tmp_path, "gsm8k_test.jsonl", [{"question": "1+1?", "answer": "so #### 2"}])
    assert load_benchmark("gsm8k", tmp_path).prompts[0].gold == Gold(("2",))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("aime26", "did you mean aime2"),
        ("zzz", "known are aime24, aime25"),
        ("math500", "There is no math500.jsonl in"),
    ],
)
def test_a_set_that_is_not_there(name, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        load_benchmark(name, tmp_path)


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no problems"):
        load_data(write(tmp_path, "own.jsonl", []))


@pytest.fixture
def hub(monkeypatch):
    """The `datasets` library, answering with amc23's field names."""
    asked = []

    def load_dataset(name, config, *, split, revision):
        asked.append((name, config, split, revision))
        return [{"id": 0, "question": "What is 20 + 7?", "answer": 27.0, "url": "…"}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return asked


def test_the_hub_is_asked_for_the_pinned_revision(hub):
    found = load_benchmark("amc23")
    source = SOURCES["amc23"]
    assert hub == [("math-ai/amc23", None, "test", source.revision)]
    assert found.source == f"math-ai/amc23@{source.revision}"
    assert found.prompts[0].gold == Gold(("27",))
    assert "1 problems, not the usual 1319" in load_benchmark("gsm8k").remarks
    assert hub[1][:3] == ("openai/gsm8k", "main", "test")


def test_an_unreachable_hub_is_one_sentence(monkeypatch):
    monkeypatch.setattr("erclip.machine.hub.reachable", lambda: True)

    def load_dataset(*_, **__):
        raise ConnectionError("no\nroute")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(UserError, match=r"\(ConnectionError: no route\).*--data-dir"):
        load_benchmark("aime25")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"erclip\[hub\]"):
        load_benchmark("aime25")


def test_countdown_is_the_held_out_part(countdown):
    found = load_benchmark("countdown")
    assert [p.id for p in found.prompts] == [p.id for p in countdown.test]
    assert found.grade is not None
    assert benchmarks.load_benchmark("countdown").text_sha256 == found.text_sha256


def test_golds_as_json():
    assert gold_fields(Gold(("5",))) == "5"
    assert gold_fields(Gold(("5", "6"), is_multiple=True)) == {
        "answers": ("5", "6"),
        "is_multiple": True,
        "unit": None,
        "tolerance": None,
    }
