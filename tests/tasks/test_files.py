"""Data rows: every format, every complaint with its place, and the two split rules."""

import gzip
import json
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from erclip.config import DataConfig
from erclip.errors import UserError
from erclip.grading import Gold
from erclip.records import Prompt, Response
from erclip.tasks import load_task
from erclip.tasks.rows import read_row

ASK = {"role": "user", "content": "What is 9 + 9?"}
SYSTEM = {"role": "system", "content": "Be brief."}

FORMATS: dict[str, tuple[dict[str, Any], Gold]] = {
    "verl": ({"prompt": [ASK], "reward_model": {"ground_truth": "18"}}, Gold(("18",))),
    "verl, number": ({"prompt": [ASK], "reward_model": {"ground_truth": 18}}, Gold(("18",))),
    "verl, alternatives": (
        {"prompt": [ASK], "reward_model": {"ground_truth": ["18", "XVIII"]}},
        Gold(("18", "XVIII")),
    ),
    "messages": ({"id": 0, "messages": [ASK], "solution": "s", "answer": "18"}, Gold(("18",))),
    "problem": ({"problem": ASK["content"], "answer": 18.0}, Gold(("18",))),
    "problem beside a question": (
        {"problem": ASK["content"], "question": "another", "answer": 0.5},
        Gold(("0.5",)),
    ),
    "GSM8K": ({"question": ASK["content"], "answer": "9+9=18\n#### 18"}, Gold(("18",))),
    "GSM8K, thousands": (
        {"question": ASK["content"], "answer": "#### 1\n#### 1,800"},
        Gold(("1800",)),
    ),
    "TRL": ({"prompt": ASK["content"], "solution": "18"}, Gold(("18",))),
    "TRL, ground_truth": ({"prompt": ASK["content"], "ground_truth": 18}, Gold(("18",))),
    "DAPO-Processed": (
        {"prompt": ASK["content"], "solution": "34", "reward_model": {"ground_truth": "34"}},
        Gold(("34",)),
    ),
    "DeepMath": (
        {"question": ASK["content"], "final_answer": r"\pi", "topic": "x"},
        Gold((r"\pi",)),
    ),
    "LIMO": ({"question": ASK["content"], "answer": "18", "solution": "so 18"}, Gold(("18",))),
    "hendrycks_math": (
        {"problem": ASK["content"], "solution": "First $1$.\nHence $\\boxed{\\frac{1}{2}}$."},
        Gold((r"\frac{1}{2}",)),
    ),
    "one sentence with a box": (
        {"problem": ASK["content"], "solution": r"It is \boxed{18}."},
        Gold(("18",)),
    ),
    "expected_answer": ({"problem": ASK["content"], "expected_answer": 1.5}, Gold(("1.5",))),
    "open-r1": (
        {"messages": [ASK, {"role": "assistant", "content": "18"}], "answer": "18"},
        Gold(("18",)),
    ),
    "ShareGPT beside an answer": (
        {
            "conversations": [
                {"from": "human", "value": ASK["content"]},
                {"from": "gpt", "value": "18, I think."},
            ],
            "answer": 18,
        },
        Gold(("18",)),
    ),
    "ShareGPT, solved in the last turn": (
        {
            "conversations": [
                {"from": "human", "value": ASK["content"]},
                {"from": "gpt", "value": r"<think>\boxed{17}?</think> It is \boxed{18}."},
            ]
        },
        Gold(("18",)),
    ),
    "messages, solved in the last turn": (
        {"messages": [ASK, {"role": "assistant", "content": "9+9\nAnswer: 18"}]},
        Gold(("18",)),
    ),
    "content in parts": (
        {
            "messages": [{"role": "user", "content": [{"type": "text", "text": ASK["content"]}]}],
            "answer": "18",
        },
        Gold(("18",)),
    ),
    "Skywork": (
        {"prompt": [ASK], "reward_model": {"ground_truth": '["50\\\\%"]'}},
        Gold((r"50\%",)),
    ),
    "a blank answer beside a solution": (
        {"problem": ASK["content"], "answer": " ", "solution": r"So \boxed{18}."},
        Gold(("18",)),
    ),
    "a solution that ends in a tag": (
        {"problem": ASK["content"], "solution": "<think>9+9</think> <answer> 18 </answer>"},
        Gold(("18",)),
    ),
    "a decimal of a parquet file": (
        {"problem": ASK["content"], "answer": Decimal("18.50")},
        Gold(("18.50",)),
    ),
    "capital names": ({"Problem": ASK["content"], "Answer": 204}, Gold(("204",))),
    "a whole number of many digits": (
        {"problem": ASK["content"], "answer": 10**40},
        Gold((str(10**40),)),
    ),
    "OlympiadBench": (
        {
            "question": ASK["content"],
            "final_answer": ["$1$", "$2$"],
            "is_multiple_answer": True,
            "unit": "km",
            "error": "1e-1",
        },
        Gold(("$1$", "$2$"), is_multiple=True, unit="km", tolerance=0.1),
    ),
    "OlympiadBench, plain": (
        {
            "question": ASK["content"],
            "final_answer": ["2"],
            "is_multiple_answer": False,
            "unit": None,
            "error": None,
        },
        Gold(("2",)),
    ),
}


@pytest.mark.parametrize(("row", "gold"), FORMATS.values(), ids=FORMATS)
def test_each_format(row: dict[str, Any], gold: Gold) -> None:
    item = read_row(row, "f:1")
    assert item.messages == (ASK,)
    assert item.gold == gold


BAD_ROWS = [
    (
        {"text": "x", "label": 1},
        r"needs a field prompt, .* or query; it has label, text: name it, data\.columns",
    ),
    (
        {"question": "x", "label": 1},
        r"needs a field reward_model\.ground_truth, .* or gold; it has",
    ),
    ({}, "it has none"),
    ([1], "must be a JSON object, not list"),
    ({"question": "q", "answer": "one line\nand another"}, "must be an answer, or a solution that"),
    ({"question": "q", "answer": "word " * 120}, "must be an answer, or a solution that ends in"),
    ({"question": " ", "answer": "#### 18"}, "question must be a non-empty string .* not ' '"),
    ({"question": "q", "answer": "#### "}, "non-empty"),
    ({"problem": "p", "answer": None}, "it has answer, problem"),
    ({"problem": "p", "answer": {"x": 1}}, r"not \{'x': 1\}"),
    ({"problem": "p", "answer": True}, "not True"),
    ({"problem": "p", "answer": float("nan")}, "finite"),
    ({"question": "q", "final_answer": []}, "non-empty list"),
    ({"question": "q", "final_answer": ["1"], "error": "small"}, "error must be a number"),
    ({"prompt": [ASK], "reward_model": {"style": "rule"}}, "it has prompt, reward_model"),
    ({"prompt": 7, "reward_model": {"ground_truth": "1"}}, "prompt must be a non-empty string or"),
    ({"prompt": [{"role": "user"}], "reward_model": {"ground_truth": "1"}}, "role and content"),
    ({"messages": [SYSTEM], "answer": "1"}, "end with a user message, not 'system'"),
    ({"messages": [{"role": "assistant", "content": "x"}], "answer": "1"}, "not nothing"),
    ({"conversations": [{"from": "human", "value": "q"}]}, "or gold; it has conversations"),
    (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "18"}]},
        "or gold; it has conversations",
    ),
    ({"conversations": [{"from": "human"}], "answer": "1"}, "role and content"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}], "answer": "1"}, "hold text"),
]


@pytest.mark.parametrize(("row", "complaint"), BAD_ROWS, ids=[c[1][:40] for c in BAD_ROWS])
def test_a_bad_row_is_named_with_its_place(row: object, complaint: str) -> None:
    with pytest.raises(UserError, match=rf"(?s)^data\.jsonl:17: .*{complaint}"):
        read_row(row, "data.jsonl:17")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def writer(*rows: object, name: str = "rows.jsonl") -> str:
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        return str(tmp_path / name)

    return writer


def problem(number: int) -> dict[str, Any]:
    return {"problem": f"What is {number} + 1?", "answer": number + 1}


def test_line_numbers_count_blank_lines(write: Callable[..., str]) -> None:
    path = write(problem(1), "", {"text": "x"})
    with pytest.raises(UserError, match=r"rows\.jsonl:3: needs a field"):
        load_task(path)


def test_broken_json_has_its_line(write: Callable[..., str]) -> None:
    with pytest.raises(UserError, match=r"rows\.jsonl:2: not valid JSON"):
        load_task(write(problem(1), '{"problem": '))


def test_hash_split_is_disjoint_and_stable_under_reordering(write: Callable[..., str]) -> None:
    rows = [problem(number) for number in range(400)]
    task = load_task(write(*rows), test_fraction=0.25)
    again = load_task(write(*rows[::-1]), test_fraction=0.25)
    train, test = ({prompt.id for prompt in part} for part in (task.train, task.test))
    assert not train & test
    assert len(train | test) == 400
    assert 70 < len(test) < 130
    assert {prompt.id for prompt in again.test} == test


def test_copies_of_a_problem_stay_together_and_are_said(write: Callable[..., str]) -> None:
    task = load_task(write(*[problem(n % 50) for n in range(100)]), test_fraction=0.5)
    assert not {p.extra["asked"] for p in task.train} & {p.extra["asked"] for p in task.test}
    assert len({p.id for p in task.train}) == len(task.train) == 2 * (50 - len(task.test))
    (remark,) = task.remarks
    assert f"{len(task.train)} rows are {len(task.train) // 2} different problems" in remark
    assert not load_task(write(*[problem(n) for n in range(9)])).remarks


def test_a_named_test_set_takes_no_row_from_training(write: Callable[..., str]) -> None:
    train = write(*[problem(n) for n in range(20)])
    test = write(*[problem(n) for n in range(20, 25)], name="test.jsonl")
    task = load_task(train, test_path=test)
    assert (len(task.train), len(task.test)) == (20, 5)


def test_a_test_problem_among_the_training_rows_is_refused(write: Callable[..., str]) -> None:
    train = write(*[problem(n) for n in range(20)])
    test = write(problem(4), problem(99), name="test.jsonl")
    with pytest.raises(UserError, match=r"rows\.jsonl:5: this problem is also in the test set"):
        load_task(train, test_path=test)


def test_instruction_and_system_prompt(write: Callable[..., str]) -> None:
    task = load_task(
        write(problem(1)), test_fraction=0, instruction="Box it.", system_prompt="Be brief."
    )
    assert task.train[0].messages == (
        SYSTEM,
        {"role": "user", "content": "What is 1 + 1?\nBox it."},
    )


def test_a_second_system_message_is_refused(write: Callable[..., str]) -> None:
    path = write({"messages": [SYSTEM, ASK], "answer": "18"})
    with pytest.raises(UserError, match=r"rows\.jsonl:1: there is a system message already"):
        load_task(path, system_prompt="Think.")


def test_columns_that_the_user_names(write: Callable[..., str]) -> None:
    rows = [{"q": "What is 1 + 1?", "meta": {"key": 2}, "answer": "wrong"}]
    named = {"prompt": "q", "answer": "meta.key"}
    task = load_task(write(*rows), test_fraction=0, columns=named)
    assert task.train[0].messages == ({"role": "user", "content": "What is 1 + 1?"},)
    assert task.train[0].gold == Gold(("2",))
    with pytest.raises(
        UserError, match=r"rows\.jsonl:1: there is no 'a' \(data\.columns\); it has"
    ):
        load_task(write(*rows), columns={"prompt": "q", "answer": "a"})
    config = DataConfig.model_validate({"path": "x.jsonl", "columns": named})
    assert config.columns == named
    with pytest.raises(ValueError, match="columns"):
        DataConfig.model_validate({"columns": {"question": "q"}})
    with pytest.raises(UserError, match=r"data\.columns has no effect on countdown"):
        load_task("countdown", columns=named)


def test_the_formats_of_answers_are_a_setting(write: Callable[..., str]) -> None:
    prompt = problem(17)

    def reason(**settings: Any) -> str:
        task = load_task(write(prompt), test_fraction=0, **settings)
        response = Response(task.train[0], (1,), (2,), "So\nAnswer: 18", False, (0.0,))
        return task.grade([response])[0].reason

    assert reason() == "correct"
    assert reason(answer_formats=("boxed",)) == "no_answer"
    assert DataConfig.model_validate({"answer_formats": ["dapo"]}).answer_formats == ("dapo",)
    with pytest.raises(ValueError, match="answer_formats"):
        DataConfig.model_validate({"answer_formats": ["box"]})
    with pytest.raises(UserError, match=r"data\.answer_formats has no effect on countdown"):
        load_task("countdown", answer_formats=("boxed",))


COMMA = 'problem,answer\r\n"What is 1, or\none, + 1?",2\r\nWhat is 2 + 1?,3\r\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", COMMA),
        ("rows.csv", "\ufeff" + COMMA),
        ("rows.csv.gz", COMMA),
        ("rows.tsv", 'problem\tanswer\n"What is 1, or\none, + 1?"\t2\nWhat is 2 + 1?\t3\n'),
        (
            "rows.ndjson",
            '{"problem": "What is 1, or\\none, + 1?", "answer": 2}\n'
            '{"problem": "What is 2 + 1?", "answer": 3}\n',
        ),
        (
            "rows.jsonl.gz",
            '{"problem": "What is 1, or\\none, + 1?", "answer": 2}\n'
            '{"problem": "What is 2 + 1?", "answer": 3}\n',
        ),
        (
            "rows.jsonl",
            '\ufeff{"problem": "What is 1, or\\none, + 1?", "answer": 2}\n'
            '{"problem": "What is 2 + 1?", "answer": 3}\n',
        ),
        (
            "rows.JSON",
            '{"problem": "What is 1, or\\none, + 1?", "answer": 2}\n'
            '{"problem": "What is 2 + 1?", "answer": 3}\n',
        ),
    ],
)
def test_tables_and_compressed_files(tmp_path: Path, name: str, content: str) -> None:
    encoded = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(encoded) if name.endswith(".gz") else encoded)
    task = load_task(str(tmp_path / name), test_fraction=0)
    asked = [prompt.messages[0]["content"].replace("\r", "") for prompt in task.train]
    assert asked == ["What is 1, or\none, + 1?", "What is 2 + 1?"]
    assert [prompt.gold.answers for prompt in task.train] == [("2",), ("3",)]
    assert task.name == "rows"


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("rows.csv", b"problem,answer\n1,2,3\n", r"rows\.csv:2: has other columns"),
        ("rows.csv", b"problem,answer\n1\n", r"rows\.csv:2: has other columns"),
        ("rows.csv", b'problem,answer\n"1,2\n', "not a readable"),
        ("rows.jsonl.gz", b"no gzip", "cannot be read"),
        (
            "rows.jsonl.gz",
            gzip.compress(b'{"problem": "p", "answer": 1}\n' * 99, mtime=0)[:-9],
            "cannot be read",
        ),
        ("rows.jsonl", b'{"problem": "p", "answer": ' + b"9" * 5000 + b"}", "not valid JSON"),
        ("rows.jsonl", b"[" * 99_999, "not valid JSON"),
    ],
)
def test_damaged_files_are_one_sentence(
    tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        load_task(str(tmp_path / name))


def test_json_list_and_parquet(write: Callable[..., str], tmp_path: Path) -> None:
    rows = [problem(n) for n in range(5)]
    listed = load_task(write(json.dumps(rows), name="rows.json"), test_fraction=0)
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra `hub`")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra `hub`")
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    columns = load_task(str(tmp_path / "rows.parquet"), test_fraction=0)
    assert [p.messages for p in columns.train] == [p.messages for p in listed.train]
    assert [p.gold for p in columns.train] == [p.gold for p in listed.train]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("rows.json", '{"problem": 1}', "needs a field"),
        ("rows.json", '{\n"rows": []}', "not valid JSON"),
        ("rows.jsonl", "\n", "no rows"),
        ("rows.txt", "x", "not a data file"),
    ],
)
def test_unusable_files(tmp_path: Path, name: str, content: str, complaint: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=complaint):
        load_task(str(tmp_path / name))


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        load_task(str(tmp_path / "rows.jsonl"))


def test_a_broken_parquet_file(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra `hub`")
    (tmp_path / "rows.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="not a readable parquet file"):
        load_task(str(tmp_path / "rows.parquet"))


def test_a_missing_file_is_never_looked_for_on_the_hub() -> None:
    with pytest.raises(UserError, match=r"no file missing/rows\.jsonl"):
        load_task("missing/rows.jsonl")


def test_what_is_neither_file_nor_hub_id() -> None:
    with pytest.raises(UserError, match="hub id"):
        load_task("a/b/c d")


def test_hub_id_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"erclip\[hub\]"):
        load_task("openai/gsm8k:main")


def test_hub_id_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra `hub`")

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError, match=r"'openai/gsm8k' is not in this machine's cache"):
        load_task("openai/gsm8k:main")


def test_hub_rows_name_config_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra `hub`")
    asked: list[tuple[str, str | None, str]] = []

    def load(name: str, config: str | None, split: str) -> list[dict[str, Any]]:
        asked.append((name, config, split))
        return [problem(n + 100 * (split == "test")) for n in range(5)]

    monkeypatch.setattr(datasets, "load_dataset", load)
    task = load_task("openai/gsm8k:main", test_split="test")
    assert asked == [("openai/gsm8k", "main", "train"), ("openai/gsm8k", "main", "test")]
    assert (len(task.train), len(task.test)) == (5, 5)


def test_options_are_refused_for_files(write: Callable[..., str]) -> None:
    with pytest.raises(UserError, match=r"data\.options has no effect"):
        load_task(write(problem(1)), options={"size": 3})


def test_grading(write: Callable[..., str]) -> None:
    task = load_task(write(problem(17)), test_fraction=0)
    prompt = task.train[0]

    def respond(text: str, truncated: bool = False) -> Response:
        return Response(prompt, (1,), (2,), text, truncated, logprobs=(0.0,))

    texts = [r"\boxed{18}", r"\boxed{19}", "#### 18", "no idea"]
    grades = task.grade([*map(respond, texts), respond("cut", truncated=True)])
    assert [g.reason for g in grades] == ["correct", "wrong", "correct", "no_answer", "truncated"]


def test_every_prompt_is_a_plain_record(write: Callable[..., str]) -> None:
    prompt = load_task(write(problem(1)), test_fraction=0).train[0]
    assert isinstance(prompt, Prompt)
    assert prompt.extra["where"].endswith("rows.jsonl:1")
