"""The embedded model: a decoder small enough for the package, loaded like any other model folder.

`erclip.models.warmup` made it, and makes models like it for other tasks and in other sizes.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["embedded_model_dir"]


def embedded_model_dir() -> Path:
    """The model folder inside the package, ready for `AutoModelForCausalLM.from_pretrained`.

    >>> sorted(path.suffix for path in embedded_model_dir().iterdir() if path.stem == "model")
    ['.safetensors']
    """
    return Path(__file__).parent / "countdown-model"
