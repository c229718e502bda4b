"""Which settings a checkpoint belongs to: those it was trained with, in any later version."""

from __future__ import annotations

import pytest

from erclip.config.recipes import load_recipe
from erclip.training.checkpoints.resuming import changed_setting, lasting_settings

VLLM = ["sampler.kind=vllm", "sampler.max_tokens=24"]


def config(*overrides):
    return load_recipe("quickstart", overrides).config


def without(settings, *lost):
    return {key: value for key, value in settings.items() if key not in lost}


@pytest.mark.parametrize(
    "overrides", [[], VLLM, ["model.lora={}"], ["loss.kl={weight=0.1}"], ["trackers=[]"]]
)
def test_a_key_that_came_later_counts_as_its_default(overrides):
    now = config(*overrides)
    saved = lasting_settings(now)
    assert changed_setting(saved, now) is None
    newer = [key for key in saved if not key.endswith("kind") and "kl.weight" not in key]
    defaults = [key for key in newer if changed_setting(without(saved, key), now) is None]
    assert "eval.temperature" in defaults
    assert "loss.constraints.0.rule" in defaults
    assert "sampler.memory_frac" in defaults or overrides is not VLLM
    assert "trainer.learning_rate" not in defaults
    assert changed_setting(without(saved, *defaults), now) is None


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ([], ["trainer.seed=1"], "trainer.seed"),
        ([], VLLM, "sampler.kind"),
        (["model.lora={}"], [], "model.lora"),
        ([], ["model.lora={}"], "model.lora"),
        ([], ["loss.kl={weight=0.1}"], "loss.kl"),
        ([], ["loss.constraints=[]"], "loss.constraints"),
        ([], ["loss.constraints=[{kind='entropy_ratio_clip', softness=0.1}]"], "softness"),
        (["loss.surrogate=gppo_clip"], [], "loss.surrogate"),
        ([], ["data.options={n=3}"], "data.options"),
        ([], ["reward.overlong={max_length=9, cache=3}"], "reward.overlong"),
    ],
)
def test_a_setting_that_was_changed_is_named(before, after, key):
    changed = changed_setting(lasting_settings(config(*before)), config(*after))
    assert changed is not None
    assert key in changed


@pytest.mark.parametrize("change", ["eval.prompts=9", "trainer.rollouts=99", "ledger.every=3"])
def test_what_may_change_is_no_change(change):
    assert changed_setting(lasting_settings(config()), config(change)) is None
