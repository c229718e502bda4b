"""Settings that verl accepts and ERC cannot live with: one sentence each, before Ray starts."""

from __future__ import annotations

import copy

import pytest

import erclip.integrations.verl as adapter
from erclip.errors import UserError
from erclip.integrations.verl.checks import RULES, WORKER_MODULE, check_config


@pytest.fixture
def config():
    table: dict = {}
    for rule in RULES:
        *path, last = rule.path.split(".")
        section = table
        for key in path:
            section = section.setdefault(key, {})
        section[last] = rule.allowed[0]
    table["actor_rollout_ref"]["model"]["external_lib"] = WORKER_MODULE
    table["actor_rollout_ref"]["actor"]["policy_loss"] = {
        "_target_": "erclip.integrations.verl.settings.ERCPolicyLossConfig"
    }
    return table


def change(config, path, value):
    changed = copy.deepcopy(config)
    *keys, last = path.split(".")
    section = changed
    for key in keys:
        section = section[key]
    section[last] = value
    return changed


def test_a_recipe_passes(config):
    check_config(config)
    check_config(change(config, "actor_rollout_ref.model.external_lib", ["mine", WORKER_MODULE]))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("trainer.use_v1", False, "legacy trainer throws the old policy's entropies away"),
        ("trainer.v1.trainer_mode", "colocate_async", "trainer.v1.trainer_mode=sync"),
        ("trainer.v1.trainer_mode", "snyc", "snyc"),  # verl would make an asynchronous buffer of it
        ("algorithm.rollout_correction.bypass_mode", True, "no old entropies"),
        ("actor_rollout_ref.actor.strategy", "megatron", "strategy=fsdp"),
        ("actor_rollout_ref.actor.calculate_entropy", False, "calculate_entropy=True"),
        ("actor_rollout_ref.actor.loss_agg_mode", "seq-mean-token-mean", "token-mean"),
        ("actor_rollout_ref.actor.entropy_coeff", 0.001, "no gradient"),
        ("actor_rollout_ref.model.use_fused_kernels", True, "never forms the logits"),
        ("distillation.enabled", True, "replaces the policy loss"),
        ("actor_rollout_ref.actor.clip_ratio_high", 0.28, "actor.policy_loss"),
        ("actor_rollout_ref.actor.clip_ratio_c", 10.0, "clip_ratio_c=3.0"),
        ("actor_rollout_ref.model.external_lib", None, f"external_lib=[{WORKER_MODULE}]"),
        ("actor_rollout_ref.model.external_lib", "mine", f"external_lib=[mine,{WORKER_MODULE}]"),
        ("actor_rollout_ref.actor.policy_loss._target_", "verl.workers.config.X", "recipes"),
    ],
)
def test_refusals_name_the_setting_and_the_remedy(config, path, value, words):
    with pytest.raises(UserError) as error:
        check_config(change(config, path, value))
    text = str(error.value)
    assert path in text
    assert str(value) in text
    assert words in text
    assert text.count(". ") == 0  # one sentence


@pytest.mark.parametrize(
    ("found", "fine"),
    [("0.9.1", True), ("0.9.1.post1", True), ("0.9.7", True), ("0.9.0", False), ("0.10.0", False)],
)
def test_only_versions_that_were_read(found, fine):
    if fine:
        adapter.check_version(found)
    else:
        with pytest.raises(UserError, match=rf"verl {found} is not supported: .*0\.9\.1 up to"):
            adapter.check_version(found)
