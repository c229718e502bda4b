"""What a model can do is seen by trying it once, when it is loaded."""

from __future__ import annotations

from typing import Any

import torch

from erclip.packing import Inputs, Row, lay_out, single_rows
from erclip.records import Grade, Prompt, Response, Sample

HIDDEN_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}  # of the largest hidden state
ROUNDED = 0.05  # the same in 16 bits


@torch.no_grad()
def prompts_can_be_shared(model: Any, *, rounded: bool = False) -> bool:
    """Whether two responses behind one prompt get the hidden states that they get alone.

    It takes attention that accepts any mask (torch's own) and layers that see the whole past.
    `rounded` says that products are coarser than the weights' dtype.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = getattr(config, "sliding_window", None) is not None or kinds != {"full_attention"}
    if config._attn_implementation != "sdpa" or windowed:
        return False
    samples = [_made_up((1, 2, 3), (4, 5, 6)), _made_up((1, 2, 3), (7, 8))]
    try:
        alone = _hidden(model, lay_out(single_rows(samples), pad_id=0))
        together = _hidden(model, lay_out([Row(tuple(samples))], pad_id=0))
    except (RuntimeError, TypeError, ValueError):
        return False  # an architecture without positions, or with a mask of its own
    gap = (alone - together).abs().max() / alone.abs().max()
    return bool(gap <= (ROUNDED if rounded else HIDDEN_TOLERANCE.get(model.dtype, ROUNDED)))


def _hidden(model: Any, inputs: Inputs) -> torch.Tensor:
    arguments = {name: tensor.to(model.device) for name, tensor in inputs.arguments.items()}
    states = model.base_model(**arguments, use_cache=False).last_hidden_state.flatten(0, 1)
    return states[[place for places in inputs.predictors for place in places]].float()


def _made_up(prompt: tuple[int, ...], tokens: tuple[int, ...]) -> Sample:
    response = Response(Prompt("", (), None), prompt, tokens, "", True, (0.0,) * len(tokens))
    return Sample(response, Grade(False, None, "truncated"), 0.0, 0.0)
