"""The private names of ms-swift that the adapter rests on: a move fails here, by name."""

from __future__ import annotations

import ast
import inspect
import textwrap

import pytest

from erclip.integrations.swift import TRAINER
from erclip.integrations.swift.settings import REPLACED

METHODS = {  # method of GRPOTrainer → its parameters, and the names its body must still use
    "_compute_loss": (["self", "model", "model_inputs", "grpo_batch", "origin_data"], set()),
    "compute_loss": (
        ["self", "model", "inputs"],
        {"_compute_loss", "use_liger_loss", "model_inputs", "grpo_batch"},
    ),
    "_get_per_token_logps_and_entropies": (
        ["self", "model", "model_inputs", "grpo_batch", "compute_entropy", "origin_data"],
        set(),
    ),
    "_get_logps_via_local_forward": (
        ["self", "model", "model_inputs", "logits_to_keep", "input_ids"],
        {"temperature", "logits_to_keep", "use_cache"},
    ),
    "_prepare_batch_inputs": (
        ["self", "samples"],
        {
            "_get_per_token_logps_and_entropies",
            "old_per_token_logps",
            "ref_per_token_logps",
            "null_ref_context",
            "beta",
        },
    ),
    "_prepare_inputs": (
        ["self", "inputs"],
        {"_buffered_inputs", "_step", "steps_per_generation", "num_iterations"},
    ),
    "_postprocess_batch": (
        ["self", "samples", "batch_encoded_inputs"],
        {"advantages", "expand_advantage_to_per_token"},
    ),
}
ATTRIBUTES = {"is_multimodal", "_step", "_buffered_inputs", "model_accepts_loss_kwargs"}
BATCH = {
    "completion_mask",
    "truncated_mask",
    "logits_to_keep",
    "old_per_token_logps",
    "ref_per_token_logps",
    "rollout_per_token_logps",
    "advantages",
}


def tree(method):
    return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(method))))


def words(node):
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute):
            found.add(part.attr)
        elif isinstance(part, ast.Name):
            found.add(part.id)
        elif isinstance(part, ast.Constant):
            found.add(part.value)
    return found


@pytest.fixture(scope="module")
def stock():
    from swift.rlhf_trainers import GRPOTrainer

    return GRPOTrainer


@pytest.mark.parametrize("name", METHODS)
def test_a_method_keeps_its_parameters_and_its_parts(stock, name):
    leading, used = METHODS[name]
    method = inspect.unwrap(getattr(stock, name))
    assert list(inspect.signature(method).parameters)[: len(leading)] == leading
    missing = used - words(tree(method))
    assert not missing, f"GRPOTrainer.{name} no longer uses {sorted(missing)}"


def test_the_constructor_sets_what_is_read(stock):
    missing = ATTRIBUTES - words(tree(stock.__init__))
    missing |= {"overlong_filter", "num_iterations"} - words(tree(stock._prepare_algorithm_params))
    missing |= {"dynamic_num_samples", "temperature"} - {
        word
        for name in ("_prepare_rollout_params", "_prepare_vllm")
        for word in words(tree(getattr(stock, name)))
    }
    assert not missing, f"no longer set: {sorted(missing)}"


def test_a_batch_has_the_fields_that_are_read():
    from swift.rl_core.data import GRPOBatch

    known = set(GRPOBatch.__dataclass_fields__)
    assert known >= BATCH, f"gone: {sorted(BATCH - known)}"
    assert not hasattr(GRPOBatch, "__slots__")  # old entropies are kept beside its fields


def test_the_trainer_divides_by_the_accumulated_steps_and_counts_its_own():
    """Ours multiplies by what transformers divides by, and TRL's step counts micro-batches."""
    from transformers import Trainer
    from trl import GRPOTrainer as Trl

    text = inspect.getsource(Trainer.training_step)
    assert "loss = loss / self.current_gradient_accumulation_steps" in text
    assert "self.model_accepts_loss_kwargs" in text
    assert "self._step += 1" in inspect.getsource(Trl.training_step)


def test_a_plugin_chooses_the_trainer():
    from swift.arguments.base_args.base_args import BaseArguments
    from swift.trainers import TrainerFactory

    assert "grpo" in TrainerFactory.TRAINER_MAPPING
    assert "import_external_file" in words(tree(BaseArguments._import_external_plugins))
    module, _, name = TRAINER.rpartition(".")
    assert __import__(module, fromlist=[name]).__dict__[name].__name__ == "ERCTrainer"


def test_the_replaced_settings_exist():
    from swift.rlhf_trainers import GRPOConfig

    known = set(GRPOConfig.__dataclass_fields__) | {"chord_sft_dataset"}
    assert set(REPLACED) <= known, f"gone: {sorted(set(REPLACED) - known)}"
    assert {"beta", "kl_in_reward", "loss_type", "steps_per_generation"} <= known
