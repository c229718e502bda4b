"""Packages that come with an extra: imported when something needs them, else one sentence.

Needs the standard library alone, so that everything may ask it.
"""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from erclip.errors import UserError

EXTRAS = {
    "grading": ("latex2sympy2_extended", "math_verify", "mpmath", "sympy"),
    "train": (
        "jinja2",
        "markupsafe",
        "matplotlib",
        "numpy",
        "pydantic",
        "pydantic_core",
        "rich",
        "safetensors",
        "tokenizers",
        "transformers",
        "typer",
    ),
    "8bit": ("bitsandbytes",),
    "gguf": ("accelerate", "gguf"),
    "gym": ("reasoning_gym",),
    "hub": ("datasets",),
    "inspect": ("inspect_ai",),
    "ledger": ("pyarrow",),
    "lora": ("peft",),
    "mlflow": ("mlflow",),
    "skyrl": ("skyrl",),
    "swift": ("packaging", "swift", "trl"),
    "tensorboard": ("tensorboard",),
    "trackio": ("pandas", "trackio"),
    "trl": ("packaging", "trl"),
    "verl": ("hydra", "omegaconf", "ray", "verl"),
    "vllm": ("vllm",),
    "wandb": ("wandb",),
}
"""What this package imports of each extra; a test holds it against the imports and the metadata."""

BITSANDBYTES = "bitsandbytes.backends.cpu.ops"
"""Warns on CPUs with bfloat16 products that a 4-bit kernel is missing: nothing here is 4-bit."""


class MissingExtra(UserError, ImportError):
    """A package that an extra brings is not installed, or cannot be imported."""


def need(module: str, asking: str, otherwise: str = "") -> Any:
    """The module, for `asking`, which starts the sentence if it is not there.

    `otherwise` ends that sentence with what can be done instead. What bitsandbytes logs where it
    comes along (peft imports it) is not heard.

    Raises MissingExtra, which is a UserError and an ImportError.

    >>> need("vllm_of_another_planet", "the sampler")
    Traceback (most recent call last):
    erclip.extras.MissingExtra: the sampler needs vllm_of_another_planet, which is not installed
    """
    top = module.partition(".")[0]
    logging.getLogger(BITSANDBYTES).setLevel(logging.ERROR)
    try:
        return import_module(module)
    except ImportError as error:
        cause = "" if error.name == top else f" ({error})"
        extra = next((extra for extra, modules in EXTRAS.items() if top in modules), None)
        raise MissingExtra(_sentence(extra, top, asking, cause, otherwise)) from None


def stand_on(extra: str, asking: str) -> None:
    """Raise MissingExtra unless everything that `extra` brings is installed; imports nothing."""
    for module in EXTRAS[extra]:
        if find_spec(module) is None:
            raise MissingExtra(_sentence(extra, module, asking))


def _sentence(
    extra: str | None, module: str, asking: str, cause: str = "", otherwise: str = ""
) -> str:
    remedy = "which is not installed" if extra is None else f"pip install 'erclip[{extra}]'"
    colon = "," if extra is None else ":"
    return f"{asking} needs {module}{cause}{colon} {remedy}{otherwise}"
