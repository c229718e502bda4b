"""What cannot work is refused in one sentence; what can be saved is JSON."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from transformers import HfArgumentParser
from trl import GRPOConfig

from erclip.config import LossConfig
from erclip.errors import UserError
from erclip.integrations.trl import ERCConfig, ERCTrainer
from erclip.integrations.trl.replaced import INSTEAD, refuse_replaced

from .conftest import NO_ERC, SMALL


def config(**settings):
    return ERCConfig("unused", **{**SMALL, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"epsilon": 0.1},
            r"epsilon = 0.1 has no effect.*; set loss.surrogate.low, and leave it at 0.2",
        ),
        ({"epsilon_high": 0.3}, r"epsilon_high = 0.3 has no effect.*loss.surrogate.high"),
        ({"delta": 4.0}, r"loss.surrogate.dual"),
        ({"loss_type": "grpo"}, r"loss_type = 'grpo' has no effect.*as TRL's 'dapo'"),
        ({"loss_type": "cispo"}, r"set loss.surrogate = 'cispo_clip'"),
        ({"top_entropy_quantile": 0.2}, r"'top_entropy', 'fraction'.*loss.constraints"),
        ({"entropy_coef": 0.01}, r"set loss.entropy_bonus"),
        (
            {"beta": 0.04, "loss": {"kl": {"weight": 0.1}}},
            r"beta = 0.04 and loss.kl.weight = 0.1 are the same weight",
        ),
        ({"loss": {"kl": {"weight": 0.1, "model": "x"}}}, r"loss.kl.model = 'x'.*leave it out"),
        (
            {"steps_per_generation": 1},
            r"every ratio is 1.*set steps_per_generation = 8.*or loss.constraints = \[\]",
        ),
        (
            {"steps_per_generation": 2, "gradient_accumulation_steps": 4},
            r"set steps_per_generation = 32",
        ),
        ({"loss": {"surrogate": "ppo"}}, "loss.surrogate = 'ppo': ppo is called ppo_clip here"),
        (
            {"loss": {"terms": [{"kind": "positive_nll"}]}},
            r"loss: positive_nll needs verdicts.*numbers; leave it out",
        ),
        (
            {
                "loss": {"constraints": ["top_entropy"]},
                "steps_per_generation": 12,
                "gradient_accumulation_steps": 8,
            },
            "steps_per_generation = 12 is no multiple of gradient_accumulation_steps = 8",
        ),
        ({"loss": {"surogate": "gppo_clip"}}, r"loss.surogate = 'gppo_clip'"),
        (
            {"loss": {**NO_ERC, "positive_nll": 0.1}},
            r"loss.positive_nll needs verdicts.*leave it at 0.0",
        ),
        ({"loss": {**NO_ERC, "mask_truncated": True}}, r"is mask_truncated_completions"),
        (
            {"loss": {**NO_ERC, "importance": "icepop"}, "use_vllm": True},
            r"'icepop' and vllm_importance_sampling_correction would weigh every token twice",
        ),
        ({"dynamic_sampling": "retry"}, r"dynamic_sampling = \{'kind': 'retry'\}"),
        (
            {"dynamic_sampling": {"kind": "oversample", "factor": 1.0}},
            r"factor = 1 adds no prompt to 8",
        ),
        ({"overlong": {"max_length": 9, "cache": 10}}, r"cache \(10\) must not exceed"),
        ({"overlong": {"max_length": 99, "cache": 9}}, r"starts above 90 tokens"),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(UserError, match=message):
        config(**settings)


ERC = ["entropy_ratio_clip"]


@pytest.mark.parametrize(
    ("given", "constraints"),
    [
        (None, ERC),
        ({}, ERC),
        ({"surrogate": "gppo_clip"}, ERC),
        ({"terms": [{"kind": "log_ratio_penalty", "weight": 0.1}]}, ERC),
        ({"surrogate": "gppo_clip", "constraints": []}, []),
        ({"constraints": ["top_entropy"]}, ["top_entropy"]),
        (LossConfig(), []),
    ],
)
def test_a_loss_without_a_word_of_constraints_keeps_erc(given, constraints):
    args = config(loss=given)
    assert [rule["kind"] for rule in args.loss["constraints"]] == constraints
    assert [rule.kind for rule in args.sections().loss.constraints] == constraints


@pytest.mark.parametrize("loss", [{}, NO_ERC, LossConfig.model_validate(NO_ERC)])
def test_beta_is_the_weight_of_kl(loss):
    args = config(beta=0.04, loss=loss, use_bias_correction_kl=False)
    assert args.loss["kl"] == {"weight": 0.04, "estimator": "k3", "model": None}
    assert config(beta=args.beta, loss=args.loss).loss == args.loss  # as a saved table is read
    assert config(loss={"kl": {"weight": 0.04}}).loss["kl"] == args.loss["kl"]
    assert config(beta=0.04, loss=loss).loss["kl"]["corrected"] is True


def test_an_infinite_bound_survives_the_table():
    loss = {"surrogate": {"kind": "ppo_clip", "high": float("inf")}}
    assert config(loss=loss).sections().loss.surrogate.high == float("inf")


def test_every_setting_of_trls_loss_is_known():
    """What TRL's trainer reads beside the settings that `GRPOConfig` has: none is ignored."""
    fields = set(GRPOConfig.__dataclass_fields__)
    assert fields >= INSTEAD.keys()
    defaults = {name: GRPOConfig.__dataclass_fields__[name].default for name in INSTEAD}
    for name in INSTEAD:
        default = GRPOConfig.__dataclass_fields__[name].default
        other = not default if isinstance(default, bool) else "cispo" if name == "loss_type" else 9
        given = SimpleNamespace(**{**defaults, name: other})
        with pytest.raises(UserError, match=rf"{name} = .*has no effect in an ERCTrainer; "):
            refuse_replaced(given, GRPOConfig.__dataclass_fields__)


def test_on_policy_is_fine_without_erc():
    assert config(loss=NO_ERC, steps_per_generation=1).steps_per_generation == 1


def test_a_loss_may_be_a_table_a_record_or_json(tmp_path):
    table = {"surrogate": "gppo_clip", "constraints": [{"kind": "entropy_ratio_clip", "high": 0.1}]}
    by_table = config(loss=table)
    by_record = config(loss=LossConfig.model_validate(table))
    path = tmp_path / "args.json"
    path.write_text(json.dumps({"output_dir": "unused", **SMALL, "loss": table}))
    (by_file,) = HfArgumentParser(ERCConfig).parse_json_file(str(path))
    line = ["--output_dir", "unused", "--bf16", "no", "--use_cpu", "yes", "--report_to", "none"]
    line += ["--steps_per_generation", "8", "--loss", json.dumps(table)]
    (by_line,) = HfArgumentParser(ERCConfig).parse_args_into_dataclasses(line)
    assert by_table.loss == by_record.loss == by_file.loss == by_line.loss
    bounds = {"low": 0.2, "high": 0.2, "dual": None}
    assert by_table.loss["surrogate"] == {"kind": "gppo_clip", **bounds}
    assert json.loads(by_table.to_json_string())["loss"] == by_table.loss


def test_a_trainer_wants_an_erc_config():
    with pytest.raises(UserError, match="args must be an ERCConfig, not NoneType"):
        ERCTrainer("model")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale_rewards": "batch"}, "use scale_rewards = 'group'"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "normalised as a"),
    ],
)
def test_dynamic_sampling_refuses_rewards_normalised_over_the_batch(make, settings, message):
    with pytest.raises(UserError, match=message):
        make(dynamic_sampling="drop", **settings)


def test_refilling_needs_prompts_by_index(make, problems, correct, tmp_path):
    args = config(dynamic_sampling="refill")
    with pytest.raises(UserError, match="the data set is a stream"):
        ERCTrainer(
            make().model, correct, args, problems.to_iterable_dataset(), processing_class=None
        )
