"""What a model takes: names differ between architectures and releases of transformers."""

from __future__ import annotations

import inspect
from typing import Any

from transformers import PreTrainedModel

from erclip.errors import UserError

CACHES = ("cache", "past_key_values", "cache_params", "state")
"""Names of what a model remembers of the tokens before, newest first."""


FAILURES = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(RuntimeError, TypeError, ValueError),
)
"""What a model raises that is tried with what it may not know."""


def cache_name(module: Any) -> str | None:
    """The argument, and attribute of the output, that holds the cache; None if there is none."""
    taken = inspect.signature(module.forward).parameters
    return next((name for name in CACHES if name in taken), None)


def argument_names(model: Any) -> set[str]:
    """Arguments that reach the model: its own, and its trunk's where it passes them on."""
    parameters = inspect.signature(model.forward).parameters
    names = set(parameters)
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        names |= set(inspect.signature(trunk(model).forward).parameters)
    return names


def trunk(model: Any) -> Any:
    """Everything below the head; where the model does not name it, its first part that is a model.

    Raises UserError if there is none.
    """
    named = model.base_model
    if named is not model:
        return named
    for part in model.children():
        if isinstance(part, PreTrainedModel):
            return part
    raise UserError(f"{type(model).__name__} has no trunk apart from its head: it cannot be scored")


def vocabulary_size(model: Any) -> int:
    """How many token ids the model can read."""
    return model.get_input_embeddings().weight.shape[0]
