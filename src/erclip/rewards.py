"""Grade → reward: what a verdict is worth, and what length costs."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from erclip.config import RewardConfig
from erclip.errors import UserError
from erclip.records import Grade, Response
from erclip.seeds import derive_seed

RewardFunction = Callable[[Response, Grade], float]


def verdict(response: Response, grade: Grade, flip: float, seed: int = 0) -> Grade:
    """The grade as training sees it: turned round with probability `flip`.

    Decided by a hash of run seed, prompt and response tokens, so that a run that is resumed, or
    shared out among processes, sees the same noise, and a response always gets the same verdict.
    """
    if flip <= 0:
        return grade
    draw = derive_seed(seed, "flip", response.prompt.id, *response.token_ids) / 2**56
    return replace(grade, correct=not grade.correct, reason="flipped") if draw < flip else grade


def at(config: RewardConfig, prompts: int) -> RewardConfig:
    """The rewards in force once this many training prompts have been asked for."""
    if config.later is None:
        return config
    load_function(config.later.function)  # a mistake in it ends the run now, not then
    if prompts < config.later.after_prompts:
        return config
    return RewardConfig(flip=config.flip, overlong=config.overlong, function=config.later.function)


def reward(response: Response, grade: Grade, config: RewardConfig) -> float:
    """correct or wrong, overridden by missing_think, plus the soft overlong punishment (≤ 0).

    With `config.function` its value stands in the place of the first three.
    """
    if config.function is not None:
        value = _checked(config.function, response, grade)
    elif config.missing_think is not None and "</think>" not in response.text:
        value = config.missing_think
    else:
        value = config.correct if grade.correct else config.wrong
    if config.overlong is not None:
        value += overlong_punishment(
            len(response.token_ids), config.overlong.max_length, config.overlong.cache
        )
    return value


def overlong_punishment(length: int, max_length: int, cache: int) -> float:
    """0 up to L_max − L_cache, ((L_max − L_cache) − |y|)/L_cache beyond, −1 above L_max.

    DAPO's soft overlong punishment (2503.14476); lengths in tokens.

    >>> [overlong_punishment(n, max_length=100, cache=20) for n in (80, 90, 100, 101)]
    [0.0, -0.5, -1.0, -1.0]
    """
    free = max_length - cache
    if length <= free:
        return 0.0
    return -1.0 if length > max_length else (free - length) / cache


@cache
def load_function(source: str) -> RewardFunction:
    """The function that "file.py:name" names; the file runs once, as a module of its own."""
    file, _, name = source.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"reward.function = {source!r}: there is no file {file!r}.")
    module_name = f"erclip_reward_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"reward.function = {source!r}: {file!r} is not a Python file.")
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything; the sentence says what
        raise UserError(
            f"reward.function = {source!r}: the file fails with {_say(error)}."
        ) from error
    function: Any = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"reward.function = {source!r}: {file!r} defines no function {name!r}.")
    return function


def _checked(source: str, response: Response, grade: Grade) -> float:
    """The function's value; whatever is no finite number ends the run in one sentence."""
    function = load_function(source)
    where = f"reward.function = {source!r} on a response to prompt {response.prompt.id}"
    try:
        value = function(response, grade)
    except Exception as error:  # see load_function
        raise UserError(f"{where}: it fails with {_say(error)}.") from error
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where}: it returned {value!r}, which is no finite number.")
    return number


def _say(error: Exception) -> str:
    """The error in one line."""
    return f"{type(error).__name__} ({' '.join(str(error).split())})"
