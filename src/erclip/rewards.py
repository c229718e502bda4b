"""Grade → reward: what a verdict is worth, and what length costs."""

from __future__ import annotations

import math
from collections.abc import Callable

from erclip.config import RewardConfig
from erclip.errors import UserError
from erclip.plugins import PluginError, in_a_line, load_attribute
from erclip.records import Grade, Response

RewardFunction = Callable[[Response, Grade], float]


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


def load_function(source: str) -> RewardFunction:
    """The function that "file.py:name" names; the file runs once, as a module of its own."""
    try:
        return load_attribute(source)
    except PluginError as error:
        raise UserError(f"reward.function = {source!r}: {error}.") from error


def _checked(source: str, response: Response, grade: Grade) -> float:
    """The function's value; whatever is no finite number ends the run in one sentence."""
    function = load_function(source)
    where = f"reward.function = {source!r} on a response to prompt {response.prompt.id}"
    try:
        value = function(response, grade)
    except Exception as error:  # see load_function
        raise UserError(f"{where}: it fails with {in_a_line(error)}.") from error
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where}: it returned {value!r}, which is no finite number.")
    return number
