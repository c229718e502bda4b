"""What a model's forward takes: names differ between architectures and releases of transformers."""

from __future__ import annotations

import inspect
from typing import Any

CACHES = ("cache", "past_key_values", "cache_params", "state")
"""Names of what a model remembers of the tokens before, newest first."""


def cache_name(module: Any) -> str | None:
    """The argument, and attribute of the output, that holds the cache; None if there is none."""
    taken = _parameters(module)
    return next((name for name in CACHES if name in taken), None)


def accepted(module: Any, **arguments: Any) -> dict[str, Any]:
    """Those of the arguments that the module's forward names."""
    taken = _parameters(module)
    return {name: value for name, value in arguments.items() if name in taken}


def _parameters(module: Any) -> Any:
    return inspect.signature(module.forward).parameters
