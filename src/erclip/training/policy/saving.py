"""The policy as an ordinary model folder, compared with the live model before it is believed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM

from erclip.errors import UserError
from erclip.training.policy.adapters import adapted, merged, save_adapters
from erclip.training.policy.positions import Positions
from erclip.training.policy.precision import unrounded
from erclip.training.policy.signature import vocabulary_size

IDS = tuple(range(1, 9))  # a few tokens, whatever they mean
SAME = {torch.float32: 1e-3, torch.float64: 1e-3}  # nats; another device rounds elsewhere


class Saver:
    """Writes a model's folders; the first is read back, the others must look like it."""

    def __init__(self, model: Any, positions: Positions, *, trust_remote_code: bool = False):
        self.model, self.positions = model, positions
        self.trust = trust_remote_code
        self._shapes: dict[str, tuple[int, ...]] | None = None  # of the first folder
        self._buffers = dict(model.named_buffers()).keys() & model.state_dict().keys()

    def save(self, folder: Path, whole: Mapping[str, Tensor] | None = None) -> None:
        """Model and, beside it, adapters if there are any; `whole` are a sharded model's tensors.

        Raises UserError if the folder does not hold the model.
        """
        tensors = None
        if whole is not None or adapted(self.model):
            tensors = once(self.model, self.tensors() if whole is None else whole)
            if adapted(self.model):
                save_adapters(self.model, tensors, folder)
                tensors = merged(self.model, tensors)
        self.model.save_pretrained(folder, state_dict=tensors)
        shapes = folder_shapes(folder)
        if self._shapes is None:
            asked = whole is None and self.model.dtype in SAME
            self._read_back(folder, None if asked else tensors or self.tensors())
        elif shapes != self._shapes:
            names = sorted(name for name, _ in shapes.items() ^ self._shapes.items())
            raise UserError(f"{folder} has other tensors than the run's first save: {names[0]}")
        self._shapes = shapes

    def tensors(self) -> dict[str, Tensor]:
        """What a folder holds of the model: parameters and persistent buffers, as they now are."""
        buffers = {n: b for n, b in self.model.named_buffers() if n in self._buffers}
        return {**dict(self.model.named_parameters()), **buffers}

    def _read_back(self, folder: Path, tensors: Mapping[str, Tensor] | None) -> None:
        """Load the folder as anybody would, and compare what it says with what the policy says.

        A sharded model cannot be asked by one process, and a model of 16 bits may round by nats
        where the other one does not: there the `tensors` are compared.
        """
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=self.model.dtype,
            trust_remote_code=self.trust,
            output_loading_info=True,
        )
        again, info = loaded
        for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
            if info.get(kind):
                raise UserError(
                    _wrong(folder, f"{kind.replace('_', ' ')} {sorted(info[kind])[:3]}")
                )
        if tensors is not None:
            for name, value in again.state_dict().items():
                if name in tensors and not torch.equal(value, tensors[name].to(value)):
                    raise UserError(_wrong(folder, f"{name} has other numbers"))
            return
        Positions(again.eval()).held = self.positions.held
        with unrounded(self.model):
            live = few_logprobs(self.model)
        if not torch.isfinite(live).all():
            return
        gap = (live - few_logprobs(again)).abs()
        if gap.max() > SAME[self.model.dtype] * (1 + live.abs().max()):
            raise UserError(_wrong(folder, f"log-probs differ by {float(gap.max()):.2g} nats"))


@torch.no_grad()
def few_logprobs(model: Any) -> Tensor:
    """The model's log-probs of a few tokens, in float32."""
    ids = torch.tensor([[i % vocabulary_size(model) for i in IDS]], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0].float()
    return torch.log_softmax(logits, -1).gather(1, ids[0][:, None])[:, 0].cpu()


def once(model: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters and persistent buffers, a tied weight under the first of its names."""
    own = dict(model.named_parameters()).keys()
    again = dict(model.named_parameters(remove_duplicate=False)).keys() - own
    return {name: value.detach() for name, value in tensors.items() if name not in again}


def folder_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor in a model folder, from the files' headers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(file, framework="pt") as saved:
            shapes |= {n: tuple(saved.get_slice(n).get_shape()) for n in saved.keys()}  # noqa: SIM118
    return shapes


def _wrong(folder: Path, what: str) -> str:
    return (
        f"{folder} does not hold the trained model: {what}; "
        "please report it, with the model's name and the settings of model.lora"
    )
