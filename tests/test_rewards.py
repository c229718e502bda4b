"""Grade → reward: what ships, and functions from a user's file with every way of going wrong."""

from __future__ import annotations

import pytest

from erclip.config import Config, RewardConfig
from erclip.errors import UserError
from erclip.records import Grade, Prompt, Response
from erclip.rewards import load_function, reward

RIGHT, WRONG = Grade(True, "4", "correct"), Grade(False, "5", "wrong")


def response(text="4", tokens=10):
    return Response(Prompt("sums/2+2", (), 4), (1,), (2,) * tokens, text, False, (0.0,) * tokens)


@pytest.fixture
def source(tmp_path):
    """Writes a reward file; returns its "file.py:fn"."""

    def write(body, name="fn"):
        path = tmp_path / f"reward_{abs(hash(body))}.py"
        path.write_text(body)
        return f"{path}:{name}"

    return write


@pytest.mark.parametrize(
    ("config", "text", "grade", "tokens", "expected"),
    [
        ({}, "4", RIGHT, 10, 1.0),
        ({}, "5", WRONG, 10, 0.0),
        ({"wrong": -1.0, "missing_think": -0.5}, "4", RIGHT, 10, -0.5),
        ({"wrong": -1.0, "missing_think": -0.5}, "a</think>5", WRONG, 10, -1.0),
        ({"overlong": {"max_length": 20, "cache": 8}}, "4", RIGHT, 16, 0.5),
        ({"overlong": {"max_length": 20, "cache": 8}}, "5", WRONG, 21, -1.0),
    ],
)
def test_what_a_verdict_is_worth(config, text, grade, tokens, expected):
    assert reward(response(text, tokens), grade, RewardConfig(**config)) == expected


def test_a_function_sees_response_and_grade_and_the_punishment_is_added(source):
    body = (
        "def fn(response, grade):\n    return grade.correct * 2 - 0.1 * len(response.token_ids)\n"
    )
    config = RewardConfig(function=source(body), overlong={"max_length": 20, "cache": 8})
    assert reward(response(tokens=16), RIGHT, config) == pytest.approx(2 - 1.6 - 0.5)
    assert reward(response(tokens=16), WRONG, config) == pytest.approx(0 - 1.6 - 0.5)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("def fn(r, g):\n    return float('nan')\n", "it returned nan, which is no finite number"),
        ("def fn(r, g):\n    return float('inf')\n", "it returned inf, which is no finite number"),
        ("def fn(r, g):\n    pass\n", "it returned None, which is no finite number"),
        ("def fn(r, g):\n    return 'good'\n", "it returned 'good', which is no finite number"),
        ("def fn(r, g):\n    return 1 / 0\n", r"it fails with ZeroDivisionError \(division by"),
        ("def fn(r):\n    return 1\n", r"it fails with TypeError \(fn\(\) takes 1 positional"),
    ],
)
def test_a_value_that_is_no_number_names_file_function_and_prompt(source, body, sentence):
    where = source(body)
    with pytest.raises(UserError, match=sentence) as caught:
        reward(response(), RIGHT, RewardConfig(function=where))
    assert str(caught.value).startswith(
        f"reward.function = {where!r} on a response to prompt sums/2+2: "
    )
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_used_is_one_sentence(source):
    for where, sentence in (
        ("gone.py:fn", "there is no file 'gone.py'"),
        (source("fn = 3\n"), "defines no function 'fn'"),
        (source("def other(r, g):\n    return 1\n"), "defines no function 'fn'"),
        (
            source("import no_such_module\n"),
            "while the file is loaded: it fails with ModuleNotFoundError",
        ),
        (source("def fn(:\n"), "while the file is loaded: it fails with SyntaxError"),
    ):
        with pytest.raises(UserError, match=sentence):
            load_function(where)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"function": "f.py:fn", "wrong": -1.0}, "reward.wrong = -1.0 has no effect"),
        ({"function": "f.py:fn", "missing_think": -0.5}, "reward.missing_think = -0.5 has no"),
        ({"function": "f.py"}, "match pattern"),
    ],
)
def test_settings_that_a_function_replaces_are_refused(setting, sentence):
    with pytest.raises(ValueError, match=sentence):
        Config.model_validate({"data": {"after_think": True}, "reward": setting})
