"""Grade → reward: what a verdict is worth, and what length costs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from erclip.config import RewardConfig
from erclip.errors import UserError
from erclip.machine.plugins import PluginError, load_attribute
from erclip.machine.usercode import user_code
from erclip.records import Grade, Response
from erclip.seeds import derive_seed
from erclip.text import shown

RewardFunction = Callable[[Response, Grade], float]

LARGEST = 1e15
"""Of a user's rewards: the variance of a group of them must fit into float32."""


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
    if config.later is None or prompts < config.later.after_prompts:
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


def load_function(source: str, key: str = "reward.function") -> RewardFunction:
    """The function that "file.py:name" names; the file runs once, as a module of its own."""
    try:
        return load_attribute(source)
    except PluginError as error:
        raise UserError(f"{key} = {source!r}: {error}.") from error


def check_function(config: RewardConfig) -> None:
    """Refuse before anything is sampled a function that is not there or cannot be called.

    One that comes later is checked now, too.
    """
    _check_callable("reward.function", config.function)
    if config.later is not None:
        _check_callable("reward.later.function", config.later.function)


def _check_callable(key: str, source: str | None) -> None:
    if source is None:
        return
    function = load_function(source, key)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in callables have none
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise UserError(
            f"{key} = {source!r} cannot be called as fn(response, grade): {error}."
        ) from None


def _checked(source: str, response: Response, grade: Grade) -> float:
    """The function's value; whatever is no number, or too large, ends the run in one sentence."""
    function = load_function(source)
    where = f"reward.function = {source!r} on a response to prompt {response.prompt.id}"
    with user_code(where):
        value = function(response, grade)
        number = _number(value)
    if not math.isfinite(number):
        raise UserError(f"{where}: it returned {shown(value)}, which is no finite number.")
    if abs(number) > LARGEST:
        raise UserError(
            f"{where}: it returned {shown(value)}, whose square float32 cannot hold: stay within "
            f"{LARGEST:g}."
        )
    return number


def _number(value: Any) -> float:
    """NaN for what is no number; text is none, whatever it says."""
    if isinstance(value, str | bytes | bytearray):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return math.nan
