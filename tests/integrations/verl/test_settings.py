"""`actor.policy_loss` and the recipes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from erclip.config import Config, LossConfig
from erclip.config.rules import built_in
from erclip.errors import UserError
from erclip.integrations.verl.launch import compose, recipes
from erclip.integrations.verl.modes import MODES, loss_config
from erclip.integrations.verl.nodes import user_error
from erclip.integrations.verl.settings import ERCPolicyLossConfig
from erclip.training.updates import build_loss

pytestmark = pytest.mark.verl

ACTOR = "actor_rollout_ref.actor"


def test_every_mode_is_a_composition():
    for name, mode in MODES.items():
        config = loss_config(ERCPolicyLossConfig(loss_mode=name))
        assert config.surrogate.kind == mode.surrogate
        kinds = [constraint.kind for constraint in config.constraints]
        assert kinds == (["entropy_ratio_clip"] if mode.erc else [])


def test_every_surrogate_has_a_mode_with_erc_and_without():
    kinds = {mode.surrogate for mode in MODES.values()}
    assert kinds == set(built_in("Surrogate"))
    assert {"dapo", "gppo", "ce_gppo", "cispo", "gspo", "sapo", "reinforce"} < set(MODES)
    assert {name for name in MODES if not name.startswith("erc_")} == {
        name.removeprefix("erc_") for name in MODES
    }


def test_any_rule_goes_into_the_section_as_a_recipes_loss(tmp_path):
    (tmp_path / "my_rules.py").write_text(RULE)
    mine = {"kind": f"{tmp_path / 'my_rules.py'}:mine", "least": 0.2}
    table = {"surrogate": "sapo", "constraints": ["dppo_tv", "top_entropy", mine]}
    config = loss_config(ERCPolicyLossConfig(loss_mode="erclip", loss=table))
    assert repr(build_loss(config).constraints[2]) == "mine(least=0.2)"
    loss = f"{ACTOR}.policy_loss.loss={{surrogate: sapo, constraints: [dppo_tv]}}"
    composed = compose("base", [f"{ACTOR}.policy_loss.loss_mode=erclip", loss])
    config = loss_config(composed.actor_rollout_ref.actor.policy_loss)
    assert [config.surrogate.kind, config.constraints[0].kind] == ["sapo", "dppo_tv"]


RULE = """
from dataclasses import dataclass
from erclip import Constraint, ConstraintOutput

@dataclass(frozen=True)
class mine(Constraint):
    least: float = 0.1

    def __call__(self, inputs):
        return ConstraintOutput({"mine": inputs.old_logprobs.exp() < self.least})
"""


def test_keys_reach_the_factories():
    section = ERCPolicyLossConfig(
        clip_low=0.1, clip_high=0.3, dual=10, erc_low=0.02, erc_high=0.07,
        erc_rule="directional", min_entropy_change=1e-3, softness=0.2, anchor="sampler",
        random_mask_rate=0.25,
    )  # fmt: skip
    config = loss_config(section)
    bounds = {"low": 0.1, "high": 0.3, "dual": 10, "anchor": "sampler"}
    assert config.surrogate.model_dump() == {"kind": "ppo_clip", **bounds}
    band, mask = config.constraints
    assert (band.low, band.high, band.rule) == (0.02, 0.07, "directional")
    assert (band.min_entropy_change, band.softness) == (1e-3, 0.2)
    assert mask.rate == 0.25


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"loss_mode": "erc_dpao"}, "loss_mode = 'erc_dpao' is none of "),
        (
            {"loss_mode": "gppo", "erc_low": 0.1},
            "erc_low = 0.1 has no effect with loss_mode = gppo",
        ),
        ({"beta_low": 0.5}, "beta_low has no effect with loss_mode = erc_dapo"),
        ({"loss_mode": "erc_sapo", "clip_high": 0.2}, "clip_high has no effect"),
        ({"erc_high": -0.1}, "erc_high = -0.1: high of entropy_ratio_clip must be at least 0"),
        ({"dual": 1.1}, "dual = 1.1: dual is the ratio c"),
        ({"erc_rule": "both"}, "erc_rule = 'both'"),
        ({"random_mask_rate": 2.0}, "random_mask_rate = 2.0"),
        ({"positive_nll": -1.0}, "positive_nll = -1.0"),
        ({"loss": {"surrogate": "sapo"}}, "loss has no effect with loss_mode = erc_dapo"),
        ({"loss_mode": "erclip"}, "loss = None: loss_mode = erclip needs the loss section"),
        (
            {"loss_mode": "erclip", "loss": {"surrogate": "sapo"}, "clip_low": 0.1},
            "clip_low has no effect with loss_mode = erclip",
        ),
        (
            {"loss_mode": "erclip", "loss": {"surrogate": "sappo"}},
            "loss.surrogate = 'sappo': no surrogate is called 'sappo'; did you mean 'sapo'",
        ),
        ({"loss_mode": "erclip", "loss": {"entropy_bonus": 0.1}}, "needs live_entropies"),
        (
            {
                "loss_mode": "erclip",
                "loss": {"constraints": [{"kind": "top_entropy", "of": "current"}]},
            },
            "measures the policy in training",
        ),
    ],
)
def test_a_wrong_key_is_named_as_it_was_written(settings, sentence):
    with pytest.raises(UserError, match=r"actor_rollout_ref\.actor\.policy_loss") as error:
        loss_config(ERCPolicyLossConfig(**settings))
    assert sentence in str(error.value)


def test_the_command_line_reaches_our_keys():
    config = compose("base", [f"{ACTOR}.policy_loss.clip_high=0.3", "trainer.nnodes=2"])
    loss = {"surrogate": {"kind": "ppo_clip", "high": 0.3}, "constraints": ["entropy_ratio_clip"]}
    expected = LossConfig.model_validate(loss)
    assert loss_config(config.actor_rollout_ref.actor.policy_loss) == expected
    assert config.trainer.nnodes == 2


def test_mistakes_on_the_command_line_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no_such_key"):
        compose("base", [f"{ACTOR}.policy_loss.no_such_key=1"])
    with pytest.raises(UserError, match=r"erc_low = 0\.1 has no effect"):
        compose("base", [f"{ACTOR}.policy_loss.loss_mode=gppo", f"{ACTOR}.policy_loss.erc_low=0.1"])
    with pytest.raises(UserError, match=r"No verl recipe 'nope'.*base"):
        compose("nope", [])


def test_a_wrong_setting_is_refused_before_verl_is_imported():
    """verl, Ray and transformers take longer to import than all else until Ray starts."""
    code = """
import sys
from erclip.errors import UserError
from erclip.integrations.verl.launch import compose
for wrong in ("trainer.use_v1=False", "actor_rollout_ref.actor.policy_loss.erc_low=-1"):
    try:
        compose("base", [wrong])
    except UserError:
        continue
    raise AssertionError(wrong)
print([name for name in ("verl", "ray", "transformers", "tensordict") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[-2] == "[]"


def test_a_recipe_of_ones_own_starts_from_ours(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("defaults: [base, _self_]\ndata: {train_batch_size: 24}\n")
    config = compose(str(mine), [])
    assert config.data.train_batch_size == 24
    assert config.actor_rollout_ref.actor.policy_loss.loss_mode == "erc_dapo"


def test_a_workers_sentence_is_not_buried_in_rays_traceback():
    from ray.exceptions import RayTaskError

    def wrap(cause):
        return RayTaskError("f", "a long traceback", cause).as_instanceof_cause()

    assert str(user_error(wrap(wrap(UserError("say this."))))) == "say this."
    assert user_error(wrap(wrap(KeyError("x")))) is None


@pytest.mark.parametrize("name", recipes())
def test_shipped_recipes_pass_their_own_checks(name):
    config = compose(name, [])
    assert config.trainer.v1.trainer_mode == "sync"


def test_recipes_say_what_the_toml_recipes_say():
    """The paper's settings exist twice; they must not drift apart."""
    from erclip.config.recipes import load_recipe

    for size in ("1.5b", "7b"):
        ours: Config = load_recipe(f"paper-{size}-erc-dapo").config
        theirs = compose(f"paper-{size}-8x8", [])
        actor, rollout = theirs.actor_rollout_ref.actor, theirs.actor_rollout_ref.rollout
        found = loss_config(actor.policy_loss)
        assert found.surrogate == ours.loss.surrogate
        assert found.constraints == ours.loss.constraints
        assert found.positive_nll == ours.loss.positive_nll
        assert theirs.actor_rollout_ref.model.path == ours.model.path
        assert rollout.n == ours.rollout.responses
        assert theirs.data.train_batch_size == ours.rollout.prompts
        assert (
            actor.ppo_mini_batch_size * ours.trainer.updates_per_rollout
            == theirs.data.train_batch_size
        )
        assert theirs.data.max_response_length == ours.sampler.max_tokens
        assert theirs.data.max_prompt_length == ours.sampler.max_prompt_tokens
        assert actor.optim.lr == ours.trainer.learning_rate
        assert actor.optim.weight_decay == ours.trainer.weight_decay
        assert tuple(actor.optim.betas) == ours.trainer.betas
        assert actor.optim.clip_grad == ours.trainer.grad_clip
        assert actor.optim.lr_warmup_steps == ours.trainer.warmup_updates
        assert actor.ppo_epochs == ours.trainer.epochs
        assert rollout.val_kwargs.temperature == ours.eval.temperature
        assert rollout.val_kwargs.top_p == ours.eval.top_p
        assert rollout.val_kwargs.n == ours.eval.responses
        reward = theirs.reward.custom_reward_function.reward_kwargs
        assert (reward.correct, reward.wrong, reward.missing_think) == (
            ours.reward.correct, ours.reward.wrong, ours.reward.missing_think,
        )  # fmt: skip
        assert reward.after_think == ours.data.after_think
        assert tuple(reward.answer_formats) == ours.data.answer_formats


@pytest.mark.parametrize(
    ("loss", "constraints"),
    [
        ({"surrogate": "gppo_clip"}, ["entropy_ratio_clip"]),
        ({"surrogate": "gppo_clip", "constraints": []}, []),
        ({"constraints": ["dppo_tv"]}, ["dppo_tv"]),
    ],
)
def test_a_loss_without_a_word_of_constraints_keeps_erc(loss, constraints):
    config = loss_config(ERCPolicyLossConfig(loss_mode="erclip", loss=loss))
    assert [rule.kind for rule in config.constraints] == constraints
