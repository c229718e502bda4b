"""Grade → reward: what ships, and functions from a user's file with every way of going wrong."""

from __future__ import annotations

import os
import sys

import pytest
import torch

from erclip.config import Config, RewardConfig
from erclip.errors import UserError
from erclip.records import Grade, Prompt, Response
from erclip.training.rewards import at, check_function, load_function, reward, verdict

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
        ("def fn(r, g):\n    return '1.0'\n", "it returned '1.0', which is no finite number"),
        ("def fn(r, g):\n    return b'1'\n", "it returned b'1', which is no finite number"),
        ("def fn(r, g):\n    return 10**400\n", "which is no finite number"),
        ("def fn(r, g):\n    return [1]\n", r"it returned \[1\], which is no finite number"),
        ("def fn(r, g):\n    return 1j\n", "it returned 1j, which is no finite number"),
        ("def fn(r, g):\n    return 1e39\n", "it returned 1e.39, whose square float32 cannot"),
        ("import sys\ndef fn(r, g):\n    sys.exit(0)\n", r"it fails with SystemExit \(0\)"),
        ("import os\ndef fn(r, g):\n    os._exit(0)\n", r"it calls os\._exit, which would end"),
        ("import os\ndef fn(r, g):\n    os.abort()\n", r"it calls os\.abort, which would end"),
        ("def fn(r, g):\n    raise GeneratorExit\n", "it fails with GeneratorExit"),
        ("def fn(r, g):\n    return fn(r, g)\n", "it fails with RecursionError"),
        (
            "class E(Exception):\n  def __str__(s): return 1/0\ndef fn(r, g):\n    raise E\n",
            "with E",
        ),
        (
            "class V:\n  def __float__(s): return 1/0\ndef fn(r, g):\n    return V()\n",
            "ZeroDivisionError",
        ),
        (
            "class V:\n  def __repr__(s): return 1/0\ndef fn(r, g):\n    return V()\n",
            "it returned a V, which is no finite number",
        ),
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
            "the file fails with ModuleNotFoundError",
        ),
        (source("def fn(:\n"), "the file fails with SyntaxError"),
    ):
        with pytest.raises(UserError, match=sentence):
            load_function(where)


def test_what_a_function_changes_around_it_is_put_back(source, tmp_path):
    """Folder, streams, torch's switches; a child that it forks does not come back."""
    body = """
import os, sys, torch
def fn(r, g):
    os.chdir("/"); sys.stdout = None
    torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False)
    if os.fork() == 0:
        return 2.0
    return torch.tensor(1)
"""
    before = os.getcwd(), sys.stdout, os.getpid(), os._exit
    assert reward(response(), RIGHT, RewardConfig(function=source(body))) == 1.0
    assert (os.getcwd(), sys.stdout, os.getpid(), os._exit) == before
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


def test_a_pool_inside_a_function_ends_its_workers(source):
    body = """
import multiprocessing
def fn(r, g):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(len, ("abc",))
"""
    assert reward(response(), RIGHT, RewardConfig(function=source(body))) == 3.0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import sys\nsys.exit(0)\n", r"the file fails with SystemExit \(0\)"),
        ("import os\nos._exit(0)\n", r"the file calls os\._exit"),
        ("def fn(r): return 1\n", r"cannot be called as fn\(response, grade\)"),
        (
            "def fn(r, g, *, more): return 1\n",
            r"missing a required (keyword-only )?argument: 'more'",
        ),
    ],
)
def test_a_function_is_checked_before_anything_is_sampled(source, body, words):
    with pytest.raises(UserError, match=words):
        check_function(RewardConfig(function=source(body)))
    with pytest.raises(UserError, match=r"there is no file 'gone\.py'"):
        check_function(RewardConfig(function="gone.py:fn"))
    check_function(RewardConfig(function=source("fn = lambda r, g: 1.0\n")))
    check_function(RewardConfig())


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


def answers(count):
    """Different responses to different prompts."""
    for i in range(count):
        yield Response(Prompt(f"sums/{i % 50}", (), 4), (1,), (i, i + 1), "4", False, (0.0, 0.0))


@pytest.mark.parametrize("flip", [0.1, 0.5])
def test_the_share_of_verdicts_that_is_flipped(flip):
    count = 4000
    flipped = [verdict(r, RIGHT, flip).correct is False for r in answers(count)]
    assert abs(sum(flipped) / count - flip) < 4 * (flip * (1 - flip) / count) ** 0.5
    again = [verdict(r, WRONG, flip).correct is True for r in answers(count)]
    assert again == flipped, "it is the response that is misjudged, whatever the verdict was"
    other = [verdict(r, RIGHT, flip, seed=1).correct is False for r in answers(count)]
    assert other != flipped


def test_more_noise_flips_what_less_noise_flips():
    few, many = ([verdict(r, RIGHT, f).correct for r in answers(500)] for f in (0.1, 0.3))
    assert all(b is False for a, b in zip(few, many, strict=True) if a is False)
    assert verdict(response(), RIGHT, 0.0) is RIGHT
    flipped = verdict(response(), RIGHT, 1.0)
    assert (flipped.correct, flipped.answer, flipped.reason) == (False, "4", "flipped")


def test_a_reward_moves_after_so_many_prompts(source):
    late = source("def fn(response, grade):\n    return 5.0\n")
    config = RewardConfig(
        correct=2.0,
        flip=0.25,
        overlong={"max_length": 20, "cache": 8},
        later={"after_prompts": 64, "function": late},
    )
    assert at(config, 63) is config
    moved = at(config, 64)
    assert (moved.function, moved.flip, moved.overlong) == (late, 0.25, config.overlong)
    assert reward(response(), RIGHT, moved) == 5.0
    with pytest.raises(
        UserError, match=r"later\.function = .* no file"
    ):  # said at once, not at prompt 64
        check_function(RewardConfig(later={"after_prompts": 64, "function": "nowhere.py:fn"}))
