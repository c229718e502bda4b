"""The private parts of TRL's `GRPOTrainer` that an `ERCTrainer` rests on, checked by name.

A method that we override and TRL no longer calls, or a setting that TRL's loss has learned to read,
would change a run in silence. What is checked is the source of the TRL that is installed.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

from erclip.errors import UserError
from erclip.integrations.trl.replaced import INSTEAD


class Hook(NamedTuple):
    """A method of `GRPOTrainer`: its leading parameters, and what its body must mention."""

    parameters: tuple[str, ...]
    mentions: frozenset[str] = frozenset()


HOOKS = {
    "_prepare_inputs": Hook(
        ("self", "generation_batch"),
        frozenset(
            {"_buffered_inputs", "_generate_and_score_completions", "shuffle_sequence_dict"}
            | {"split_tensor_dict", "steps_per_generation", "_step"}
        ),
    ),
    "_generate_and_score_completions": Hook(
        ("self", "inputs"),
        frozenset(
            {"_calculate_rewards", "_get_per_token_logps_and_entropies", "beta"}
            | {"prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "tool_mask"}
            | {"advantages", "num_items_in_batch", "old_per_token_logps"}
            | {"importance_sampling_ratio", "sampling_per_token_logps"}
        ),
    ),
    "_calculate_rewards": Hook(
        ("self", "inputs", "prompts", "completions", "completion_ids_list"),
        frozenset({"reward_funcs", "reward_func_names", "reward_processing_classes", "gather"}),
    ),
    "_get_per_token_logps_and_entropies": Hook(
        ("self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"),
        frozenset({"compute_entropy", "compute_aux_loss"}),
    ),
    "_compute_loss": Hook(
        ("self", "model", "inputs"),
        frozenset(
            {"num_items_in_batch", "num_processes", "current_gradient_accumulation_steps"}
            | {"router_aux_loss_coef", "aux_loss_enabled"}
        ),
    ),
    "compute_loss": Hook(("self", "model", "inputs"), frozenset({"_compute_loss"})),
    "training_step": Hook(("self", "model", "inputs"), frozenset({"_step"})),
    "_save_rng_state": Hook(("self", "output_dir")),
    "_load_optimizer_and_scheduler": Hook(("self", "checkpoint")),
}

ATTRIBUTES = frozenset(
    {"_buffered_inputs", "_is_vlm", "_metrics", "_step", "_tokenizer", "aux_loss_enabled", "beta"}
    | {"num_generations", "num_iterations", "ref_model", "reward_func_names", "reward_funcs"}
    | {"reward_processing_classes", "reward_weights", "rollout_func", "router_aux_loss_coef"}
    | {"temperature", "use_vllm", "vllm_importance_sampling_correction"}
)
"""What the constructor sets and we read or replace."""

LOSS_READS = frozenset(
    {"_entropy_bonus_enabled", "_entropy_window_stats", "_get_per_token_logps_and_entropies"}
    | {"_last_world_entropy", "_metrics", "accelerator", "args", "aux_loss_enabled", "beta"}
    | {"current_gradient_accumulation_steps", "epsilon_low", "get_gamma_weights"}
    | {"get_high_entropy_mask", "get_off_policy_mask", "max_completion_length", "model"}
    | {"router_aux_loss_coef", "steps_per_generation", "use_bias_correction_kl", "use_vllm"}
    | {"vllm_importance_sampling_correction"}
    | INSTEAD.keys()
)
"""All that TRL's own loss reads of the trainer and its arguments: nothing else can matter."""


def check_contract(trainer: type, version: str) -> None:
    """Raise UserError, in one sentence, for the first part of TRL's trainer that has moved."""
    try:
        moved = next(moved_parts(trainer), None)
    except OSError:
        moved = "its source is not there to be read"
    if moved is not None:
        raise UserError(
            f"TRL {version} is not as erclip knows it: {moved}; pip install 'erclip[trl]' for a "
            "TRL that is."
        )


def moved_parts(trainer: type) -> Iterator[str]:
    """What is not where it was, by name."""
    for name, hook in HOOKS.items():
        method = inspect.unwrap(getattr(trainer, name, None) or _nothing)
        if method is _nothing:
            yield f"GRPOTrainer.{name} is gone"
            continue
        parameters = tuple(inspect.signature(method).parameters)
        if parameters[: len(hook.parameters)] != hook.parameters:
            yield f"GRPOTrainer.{name} takes {', '.join(parameters)}"
        missing = hook.mentions - _mentioned(_tree(method)) - set(parameters)
        if missing:
            yield f"GRPOTrainer.{name} no longer mentions {', '.join(sorted(missing))}"
    gone = ATTRIBUTES - _assigned(_tree(inspect.unwrap(trainer.__init__)))
    if gone:
        yield f"GRPOTrainer's constructor no longer sets {', '.join(sorted(gone))}"
    loss = inspect.unwrap(getattr(trainer, "_compute_loss", None) or _nothing)
    unknown = _read(_tree(loss)) - LOSS_READS
    if unknown:
        yield f"GRPOTrainer._compute_loss now reads {', '.join(sorted(unknown))}"


def _nothing() -> None:
    """In the place of a method that is not there."""


def _tree(method: Any) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(method)))


def _mentioned(tree: ast.AST) -> set[str]:
    """Names, attributes and strings."""
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return attributes | names | {value for value in strings if isinstance(value, str)}


def _assigned(tree: ast.AST) -> set[str]:
    """Attributes that are set."""
    targets = (t for node in ast.walk(tree) if isinstance(node, ast.Assign) for t in node.targets)
    return {target.attr for target in targets if isinstance(target, ast.Attribute)}


def _read(tree: ast.AST) -> set[str]:
    """x of every `self.x` and `self.args.x`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value
            of_self = isinstance(owner, ast.Name) and owner.id == "self"
            of_args = isinstance(owner, ast.Attribute) and owner.attr == "args"
            if of_self or of_args:
                found.add(node.attr)
    return found
