"""What cannot work is refused in one sentence; what can be saved is JSON."""

from __future__ import annotations

import json

import pytest
from transformers import HfArgumentParser

from erclip.config import LossConfig
from erclip.errors import UserError
from erclip.integrations.trl import ERCConfig, ERCTrainer

from .conftest import NO_ERC, SMALL


def config(**settings):
    return ERCConfig("unused", **{**SMALL, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.04}, r"beta = 0.04 has no effect in an ERCTrainer"),
        ({"epsilon_high": 0.3}, r"epsilon_high = 0.3 has no effect"),
        ({"loss_type": "grpo"}, r"loss_type = 'grpo' has no effect"),
        ({"steps_per_generation": 1}, r"every ratio is 1.*set steps_per_generation = 8"),
        (
            {"steps_per_generation": 2, "gradient_accumulation_steps": 4},
            r"set steps_per_generation = 32",
        ),
        ({"loss": {"surrogate": "ppo"}}, "loss.surrogate = 'ppo': no .* did you mean 'ppo_clip'"),
        (
            {"loss": {"terms": [{"kind": "positive_nll"}]}},
            r"needs correct, which an ERCTrainer does not have",
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
        ({"loss": {**NO_ERC, "entropy_bonus": 0.1}}, r"loss.entropy_bonus is not part"),
        ({"loss": {**NO_ERC, "kl": {"weight": 0.1}}}, r"loss.kl needs a reference model"),
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
