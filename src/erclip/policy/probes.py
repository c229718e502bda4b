"""What a model can do is seen by trying it once, when it is loaded."""

from __future__ import annotations

from typing import Any

import torch

from erclip.batches import make_batch
from erclip.errors import UserError
from erclip.packing import Inputs, Row, lay_out, single_rows
from erclip.records import Grade, Prompt, Response, Sample

HIDDEN_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}  # of the largest hidden state
ROUNDED = 0.05  # the same in 16 bits
REPEATED, REPEATED_ROUNDED = 1e-5, 1e-2  # nats between two passes of the same tokens


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


def refuse_differing_passes(policy: Any) -> None:
    """Raise UserError for a model that says something else of the same tokens the second time.

    Without gradients, then with them, as old and new log-probs are made: dropout or noise that
    nobody turns off, or a state that one pass leaves to the next, would pass for learning.
    """
    samples = [_made_up((1, 2, 3), (4, 5, 6)), _made_up((7, 8, 9, 10), (11, 12))]
    batch = make_batch(single_rows(samples), pad_id=policy.pad_id, device=policy.device)
    with torch.no_grad():
        old = policy.score(batch).logprobs
    gap = float((policy.score(batch).logprobs.detach() - old).abs().max())
    if gap > (REPEATED if policy.model.dtype in HIDDEN_TOLERANCE else REPEATED_ROUNDED):
        raise UserError(
            f"{type(policy.model).__name__} gives the same tokens other log-probs ({gap:.2g} nats) "
            "in its second pass: every ratio would be noise; turn off what is random in it"
        )


def _hidden(model: Any, inputs: Inputs) -> torch.Tensor:
    arguments = {name: tensor.to(model.device) for name, tensor in inputs.arguments.items()}
    states = model.base_model(**arguments, use_cache=False).last_hidden_state.flatten(0, 1)
    return states[[place for places in inputs.predictors for place in places]].float()


def _made_up(prompt: tuple[int, ...], tokens: tuple[int, ...]) -> Sample:
    response = Response(Prompt("", (), None), prompt, tokens, "", True, (0.0,) * len(tokens))
    return Sample(response, Grade(False, None, "truncated"), 0.0, 0.0)
