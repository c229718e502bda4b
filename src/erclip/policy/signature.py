"""What a model takes: names differ between architectures and releases of transformers."""

from __future__ import annotations

import inspect
from typing import Any

CACHES = ("cache", "past_key_values", "cache_params", "state")
"""Names of what a model remembers of the tokens before, newest first."""


def cache_name(module: Any) -> str | None:
    """The argument, and attribute of the output, that holds the cache; None if there is none."""
    taken = inspect.signature(module.forward).parameters
    return next((name for name in CACHES if name in taken), None)


def argument_names(model: Any) -> set[str]:
    """Arguments that reach the model: its own, and its trunk's where it passes them on."""
    parameters = inspect.signature(model.forward).parameters
    names = set(parameters)
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        names |= set(inspect.signature(model.base_model.forward).parameters)
    return names


def vocabulary_size(model: Any) -> int:
    """How many token ids the model can read."""
    return model.get_input_embeddings().weight.shape[0]
