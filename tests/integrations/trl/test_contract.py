"""The private methods of TRL that the adapter rests on: a move fails here, by name."""

from __future__ import annotations

import ast
import inspect
import textwrap

import pytest
from trl import GRPOConfig, GRPOTrainer

from erclip.integrations.trl import check_version
from erclip.integrations.trl.config import REPLACED

OVERRIDDEN = {  # method → leading parameters, and the names its body must still use
    "_prepare_inputs": (
        ["self", "generation_batch"],
        {
            "_buffered_inputs",
            "_generate_and_score_completions",
            "shuffle_sequence_dict",
            "split_tensor_dict",
            "steps_per_generation",
        },
    ),
    "_generate_and_score_completions": (
        ["self", "inputs"],
        {"_calculate_rewards", "_get_per_token_logps_and_entropies", "num_items_in_batch"},
    ),
    "_calculate_rewards": (
        ["self", "inputs", "prompts", "completions", "completion_ids_list"],
        {"reward_funcs", "reward_func_names", "reward_processing_classes", "gather"},
    ),
    "_get_per_token_logps_and_entropies": (
        ["self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"],
        {"compute_entropy"},
    ),
    "_compute_loss": (
        ["self", "model", "inputs"],
        {"num_items_in_batch", "num_processes", "current_gradient_accumulation_steps"},
    ),
    "compute_loss": (["self", "model", "inputs"], {"_compute_loss"}),
    "training_step": (["self", "model", "inputs"], {"_step"}),
}
BATCH = {
    "prompt_ids",
    "prompt_mask",
    "completion_ids",
    "completion_mask",
    "advantages",
    "num_items_in_batch",
    "old_per_token_logps",
    "importance_sampling_ratio",
    "tool_mask",
}


def tree(method):
    return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(method))))


def names(node):
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute):
            found.add(part.attr)
        elif isinstance(part, ast.Name):
            found.add(part.id)
    return found


def strings(node):
    return {p.value for p in ast.walk(node) if isinstance(p, ast.Constant)}


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_a_method_keeps_its_parameters_and_its_parts(name):
    leading, used = OVERRIDDEN[name]
    method = inspect.unwrap(getattr(GRPOTrainer, name))
    assert list(inspect.signature(method).parameters)[: len(leading)] == leading
    missing = used - names(tree(method)) - strings(tree(method))
    missing -= set(inspect.signature(method).parameters)
    assert not missing, f"GRPOTrainer.{name} no longer uses {sorted(missing)}"


def test_a_batch_has_the_entries_that_are_read_or_replaced():
    made = strings(tree(GRPOTrainer._generate_and_score_completions))
    assert made >= BATCH, f"no longer in the batch: {sorted(BATCH - made)}"


def test_the_constructor_sets_what_is_read():
    read = {
        "_buffered_inputs",
        "_is_vlm",
        "_metrics",
        "_step",
        "_tokenizer",
        "aux_loss_enabled",
        "num_generations",
        "num_iterations",
        "reward_func_names",
        "reward_funcs",
        "reward_processing_classes",
        "reward_weights",
        "temperature",
        "use_vllm",
        "vllm_importance_sampling_correction",
    }
    assigned = {
        target.attr
        for node in ast.walk(tree(GRPOTrainer.__init__))
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Attribute)
    }
    assert assigned >= read, f"no longer set: {sorted(read - assigned)}"


def test_the_replaced_settings_exist():
    known = set(GRPOConfig.__dataclass_fields__)
    assert set(REPLACED) <= known, f"gone: {sorted(set(REPLACED) - known)}"


@pytest.mark.parametrize("version", ["1.9.2", "1.15.0", "1.15.3", "1.17.0", "2.0.0"])
def test_another_version_is_refused_in_one_sentence(version):
    with pytest.raises(ImportError, match=rf"TRL {version} is not supported, only >=1.10.*erclip"):
        check_version(version)


@pytest.mark.parametrize("version", ["1.10.0", "1.14.2", "1.16.0", "1.16.3"])
def test_a_supported_version_passes(version):
    check_version(version)


def test_a_missing_trl_names_the_extra():
    with pytest.raises(ImportError, match=r"pip install 'erclip\[trl\]'"):
        check_version(None)
