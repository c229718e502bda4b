"""Every key of a recipe is told with a default that a recipe may write, and with a meaning."""

from __future__ import annotations

import tomllib

import pytest
from pydantic import ValidationError

from erclip.config import Config
from erclip.config.keys import keys


def nested(path, value):
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def test_every_key_has_a_meaning_and_its_values():
    assert [key.path for key in keys() if not (key.meaning and key.values)] == []


def test_no_key_is_told_twice_under_the_same_condition():
    told = [(key.path, key.when) for key in keys()]
    assert len(set(told)) == len(told) > 100


PLAIN = [key for key in keys() if not key.when and key.path.count(".") == 1]
PLAIN = [key for key in PLAIN if not key.path.startswith("trackers.")]


@pytest.mark.parametrize(
    "key", [key for key in PLAIN if key.default != "unset"], ids=lambda key: key.path
)
def test_the_default_is_one_that_a_recipe_may_write(key):
    table = nested(key.path, tomllib.loads(f"value = {key.default}")["value"])
    assert Config.model_validate(table) == Config()


@pytest.mark.parametrize(
    "key", [key for key in PLAIN if key.values == "whole number ≥ 1"], ids=lambda key: key.path
)
def test_a_value_below_the_bound_that_is_told_is_refused(key):
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Config.model_validate(nested(key.path, 0))
