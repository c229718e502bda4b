"""A checkpoint's README.md: true, complete, and nothing in it is more than text."""

from __future__ import annotations

import json
import re
import tomllib

import pytest

from erclip.config import Config
from erclip.config.recipes import load_recipe, shipped_recipes
from erclip.runs.model_card import model_card, recipe

BEFORE = {
    "rollout": 0, "eval/countdown/avg_at_4": 0.295, "eval/countdown/avg_at_4_low": 0.265,
    "eval/countdown/avg_at_4_high": 0.328, "eval/countdown/pass_at_4": 0.7,
}  # fmt: skip
AFTER = {name: value + 0.3 if name != "rollout" else 60 for name, value in BEFORE.items()}


def test_what_a_card_says():
    config = load_recipe("quickstart", ["data.instruction='Be brief.'"]).config
    card = model_card(config, 60, 480, [BEFORE, AFTER])
    front = card.split("---\n")[1]
    assert "library_name: transformers" in front
    assert "base_model" not in front
    assert "| countdown, avg@4 | 0.295 \\[0.265, 0.328\\] | 0.595 \\[0.565, 0.628\\] |" in card
    assert "480 updates in 60 rollouts of 64 prompts × 8 responses" in card
    assert "ppo\\_clip(low=0.2, high=0.28, dual=10.0) with entropy\\_ratio\\_clip(low=0.05" in card
    assert "AutoModelForCausalLM.from_pretrained" in card
    assert "```text\nBe brief.\n```" in card
    assert "It has not been evaluated." in model_card(config, 0, 0, [])


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_recipe_of_a_card_gives_the_settings_again(name):
    config = load_recipe(name).config
    card = model_card(config, 1, 8, [])
    text = re.search(r"```toml\n(.*?)\n```", card, re.S)[1]
    assert text == recipe(config)
    again = Config.model_validate(tomllib.loads(text))
    assert again == config


def test_front_matter_names_what_is_on_the_hub():
    config = load_recipe("paper-7b-erc-dapo").config
    front = model_card(config, 1, 8, []).split("---\n")[1]
    assert f"base_model: {json.dumps(config.model.path)}" in front
    assert f"datasets: [{json.dumps(config.data.path)}]" in front


def test_texts_of_others_stay_texts():
    evil = "x ```\n# loud\n<script>alert(1)</script> [a](http://b) | \x1b[31m"
    config = load_recipe("quickstart").config
    update = {"system_prompt": evil, "path": "a|b<script>"}
    data = config.data.model_copy(update=update)
    changed = config.model_copy(update={"description": evil, "data": data})
    card = model_card(changed, 1, 8, [{**BEFORE, "eval/<b>|x/avg_at_4": 0.5}])
    outside = re.sub(r"(`{3,})\w+\n.*?\n\1\n", "", card, flags=re.S)
    assert not re.search(r"(?<!\\)<\w", outside)
    assert "\n# loud" not in outside
    assert "\x1b" not in card
    assert not re.search(r"(?<!\\)\]\(", outside)
    assert "````text" in card
