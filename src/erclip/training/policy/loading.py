"""A model and its tokenizer, from "embedded", a local folder or the hub; or why there is none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
)
from transformers.utils.logging import disable_progress_bar

from erclip.config import ModelConfig
from erclip.embedded import embedded_model_dir
from erclip.errors import UserError, as_user_error
from erclip.machine.hub import from_hub


def load_pretrained(config: ModelConfig) -> tuple[Any, Any]:
    """(model, tokenizer) on the device that the settings name; a UserError says what is wrong."""
    path = model_folder(config.path)
    _check_folder(path)
    device = _device(config.device)
    trust = config.trust_remote_code
    hub = from_hub("Model", path, "give a model folder, or connect")
    with as_user_error(f"Model {config.path!r} cannot be loaded"), hub:
        _refuse_other_kinds(config.path, AutoConfig.from_pretrained(path, trust_remote_code=trust))
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=getattr(torch, config.dtype),
            trust_remote_code=trust,
            use_safetensors=True,
            output_loading_info=True,
        )
    model, found = loaded
    _refuse_holes(config.path, model, found)
    return model.to(device), tokenizer


def refuse_untrainable(model: Any, name: str) -> None:
    """Raise UserError for weights that an update cannot change rightly, or a folder not hold."""
    packed = getattr(model, "hf_quantizer", None) is not None
    if packed or any(p.dtype.itemsize == 1 for p in model.parameters()):
        raise UserError(
            f"model.path = {name!r} holds quantised weights, which can be evaluated but not "
            "trained and saved; give the model in 16 or 32 bits, with model.lora if need be"
        )
    learning = {p.dtype for p in model.parameters() if p.requires_grad}
    if torch.float16 in learning:
        raise UserError(
            'model.dtype = "float16" cannot be trained: Adam\'s ε and small steps are 0 in it; set '
            'model.dtype = "float32" (with model.autocast = "bfloat16"), or model.lora'
        )
    if not learning:
        raise UserError(f"model.path = {name!r} has no weights that learn")
    kind = type(model.config)
    if kind.__module__.startswith("transformers.") and kind not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(
            f"model.path = {name!r} is read as {type(model).__name__}, which transformers cannot "
            "read back from a folder as a language model; train another model"
        )


def model_folder(path: str) -> str:
    """The folder (or hub id) that `model.path` names."""
    return str(embedded_model_dir()) if path == "embedded" else path


def _check_folder(path: str) -> None:
    folder = Path(path)
    looks_local = folder.exists() or path.startswith((".", "/", "~")) or path.count("/") != 1
    if (folder / "adapter_config.json").is_file():
        raise UserError(_adapter(path))
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


def _refuse_other_kinds(path: str, model_config: Any) -> None:
    """An encoder, an encoder with a decoder, or text and images read by a class of their own."""
    own_code = "AutoModelForCausalLM" in (getattr(model_config, "auto_map", None) or {})
    if not own_code and type(model_config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(
            f"Model {path!r} is of the kind {model_config.model_type!r}, which transformers does "
            "not read as a causal language model; give one that it does (docs/models.md)"
        )


def _refuse_holes(path: str, model: Any, found: dict[str, Any]) -> None:
    """Weights that the files lack would train from random numbers; adapters would stay beside."""
    missing = sorted(found.get("missing_keys") or ())
    if missing:
        raise UserError(
            f"Model {path!r} lacks {len(missing)} of its tensors, {missing[0]} among them: they "
            "would be random numbers; complete the folder"
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UserError(_adapter(path))


def _adapter(path: str) -> str:
    return (
        f"{path} holds an adapter (adapter_config.json): merge it into its model and give that, or "
        "give the model alone"
    )


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # silences a warning after forks
disable_progress_bar()  # a bar for every checkpoint would break the run's own display
