"""A model's parameters and activations, counted without a byte of either.

The model is built on tensors that have shapes and no storage, and one micro-batch goes through it
while every storage that autograd keeps is added up.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM

from erclip.config import Config, ModelConfig
from erclip.errors import UserError
from erclip.machine.hub import from_hub
from erclip.training.policy.adapters import add_adapters
from erclip.training.policy.loading import model_folder
from erclip.training.policy.precision import autocast_trunk
from erclip.training.policy.signature import trunk


class Counted(NamedTuple):
    """What the fake model told: parameters, and bytes that one micro-batch leaves for backward."""

    parameters: int
    largest: int
    layers: int
    kept: int
    shape: tuple[int, int]
    adapters: int
    adapted_head: int  # numbers in a head with an adapter, both; 0 without one

    def trained(self, width: int) -> tuple[int, str]:
        """Bytes of what is trained, and how many numbers that is; adapters are float32."""
        numbers, each = (self.adapters, 4) if self.adapters else (self.parameters, width)
        return numbers * each, f"{numbers / 1e6:,.1f} M × {each} bytes"


_known: dict[tuple[Any, ...], Counted] = {}
"""What was counted before: most remedies leave the model and its micro-batch as they are."""


def read_model_config(config: Config) -> Any:
    """config.json of the recipe's model."""
    path = config.model.path
    folder = model_folder(path)
    try:
        with from_hub("Model", folder, "give a model folder, or connect"):
            return AutoConfig.from_pretrained(
                folder, trust_remote_code=config.model.trust_remote_code
            )
    except UserError:
        raise
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"The config.json of model {path!r} cannot be read: {first}") from error


def count(config: Config, model_config: Any, processes: int, prompt_tokens: int) -> Counted:
    """Send one full micro-batch through the model on fake tensors.

    It holds `token_budget` tokens, or a mini-batch's share of one process if that is less. Rows are
    as long as they get, so that the padding mask, of which sdpa keeps a float copy [B, L, L] per
    layer, is counted at its largest.
    """
    length = config.sampler.max_tokens + prompt_tokens
    prompts = -(-config.rollout.prompts // config.trainer.updates_per_rollout)
    share = -(-prompts * config.rollout.responses // processes)
    rows = max(1, min(config.trainer.token_budget // length, share))
    own = config.model
    key = (model_config.to_json_string(), own.lora, own.dtype, own.autocast, rows, length)
    if key not in _known:
        _known[key] = _count(own, model_config, rows, length)
    return _known[key]


def _count(own: ModelConfig, model_config: Any, rows: int, length: int) -> Counted:
    dtype = getattr(torch, own.dtype)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(model_config, dtype=dtype)
        if own.lora is not None:
            add_adapters(model, own.lora, seed=0)
    with FakeTensorMode(), torch.device("cpu"):
        _pretend_to_be_on_a_cpu(model)
        if own.autocast is not None:
            autocast_trunk(model, getattr(torch, own.autocast))
        adapters = sum(p.numel() for name, p in model.named_parameters() if ".lora_" in name)
        output = model.get_output_embeddings()
        columns = [b.weight.numel() for b in getattr(output, "lora_B", {}).values()]
        adapted_head = sum(columns, output.weight.numel()) if columns else 0
        sizes = [p.numel() for p in model.parameters()]
        weights = {p.untyped_storage()._cdata for p in model.parameters()}
        kept: dict[int, Any] = {}  # the storages too, lest an address is used again

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                kept[storage._cdata] = storage
            return tensor

        ids = torch.zeros(rows, length, dtype=torch.long)
        mask = torch.ones(rows, 1, length, length, dtype=torch.bool)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            trunk(model)(input_ids=ids, attention_mask=mask, use_cache=False)
        total = sum(storage.nbytes() for storage in kept.values())
    layers = model_config.get_text_config().num_hidden_layers
    shape = (rows, length)
    return Counted(sum(sizes), max(sizes), layers, total, shape, adapters, adapted_head)


def _pretend_to_be_on_a_cpu(model: torch.nn.Module) -> None:
    """Fake tensors in the place of those without a device, whose kernels would not be a CPU's."""
    fakes: dict[int, torch.Tensor] = {}  # tied ones stay one
    for module in model.modules():
        held: tuple[Any, ...] = (module._parameters, module._buffers)
        for tensors in held:
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                fake = torch.empty(tensor.shape, dtype=tensor.dtype)
                if isinstance(tensor, torch.nn.Parameter):
                    fake = torch.nn.Parameter(fake, requires_grad=tensor.requires_grad)
                tensors[name] = fakes.setdefault(id(tensor), fake)
