"""A model and its tokenizer, from "embedded", a local folder or the hub; dropout off."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from erclip.config import ModelConfig
from erclip.embedded import embedded_model_dir
from erclip.errors import UserError, as_user_error


def load_pretrained(config: ModelConfig) -> tuple[Any, Any]:
    """(model, tokenizer) on the device that the settings name; a UserError says what is wrong."""
    path = model_folder(config.path)
    _check_folder(path)
    device = _device(config.device)
    trust = config.trust_remote_code
    with as_user_error(f"Model {config.path!r} cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust)
        model_config = AutoConfig.from_pretrained(path, trust_remote_code=trust)
        _remove_dropout(model_config)
        model: Any = AutoModelForCausalLM.from_pretrained(
            path,
            config=model_config,
            dtype=getattr(torch, config.dtype),
            trust_remote_code=trust,
            use_safetensors=True,
        )
        return model.to(device), tokenizer


def model_folder(path: str) -> str:
    """The folder (or hub id) that `model.path` names."""
    return str(embedded_model_dir()) if path == "embedded" else path


def _check_folder(path: str) -> None:
    folder = Path(path)
    looks_local = folder.exists() or path.startswith((".", "/", "~")) or path.count("/") != 1
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UserError(f"{path} is not a model folder: it has no config.json.")
    if folder.is_file():
        raise UserError(f"{path} is a file; model.path must name a model folder or a hub id.")
    if looks_local and not folder.exists():
        raise UserError(
            f"No model folder {path!r}; check model.path, or give a hub id (owner/name)."
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"model.device = {name!r} is no device; try auto, cpu or cuda.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"model.device = {name!r}, but this machine shows no CUDA device.")
    return device


def _remove_dropout(config: Any) -> None:
    """Dropout would make old and new log-probs differ at equal weights."""
    for key in ("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if getattr(config, key, 0):
            setattr(config, key, 0.0)


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # silences a warning after forks
disable_progress_bar()  # a bar for every checkpoint would break the run's own display
