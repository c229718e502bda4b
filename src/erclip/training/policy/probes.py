"""What a model can do is seen by trying it once, when it is loaded."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from erclip.errors import UserError
from erclip.records import Grade, Prompt, Response, Sample
from erclip.training.batches import make_batch
from erclip.training.packing import Inputs, Row, lay_out, single_rows
from erclip.training.policy.precision import autocast_dtype
from erclip.training.policy.signature import FAILURES, argument_names, trunk

HIDDEN_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}  # of the largest hidden state
ROUNDED = 0.05  # the same in 16 bits
REPEATED, REPEATED_ROUNDED = 1e-5, 1e-2  # nats between two passes of the same tokens
BESIDE, BESIDE_ROUNDED = 1e-3, 0.3  # nats, on average, between two layouts of the same tokens


@torch.no_grad()
def prompts_can_be_shared(model: Any, *, rounded: bool = False) -> bool:
    """Whether two responses behind one prompt get the hidden states that they get alone.

    It takes attention that accepts any mask (torch's own) and layers that see the whole past and
    remember keys and values alone: a recurrent state would run on from one response into the next.
    `rounded` says that products are coarser than the weights' dtype.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = getattr(config, "sliding_window", None) is not None or kinds != {"full_attention"}
    if config._attn_implementation != "sdpa" or windowed:
        return False
    if "position_ids" not in argument_names(model):
        return False
    samples = [_made_up((1, 2, 3), (4, 5, 6)), _made_up((1, 2, 3), (7, 8))]
    try:
        if {type(layer) for layer in DynamicCache(config=model.config).layers} - {DynamicLayer}:
            return False
        alone = _hidden(model, lay_out(single_rows(samples), pad_id=0))
        together = _hidden(model, lay_out([Row(tuple(samples))], pad_id=0))
    except FAILURES:
        return False  # an architecture without positions, or with a mask of its own
    gap = (alone - together).abs().max() / alone.abs().max()
    return bool(gap <= (ROUNDED if rounded else HIDDEN_TOLERANCE.get(model.dtype, ROUNDED)))


def refuse_unsteady(policy: Any) -> None:
    """Raise UserError for a model that says something else of the same tokens the second time.

    Without gradients, then with them, as old and new log-probs are made: dropout or noise that
    nobody turns off, or a state that one pass leaves to the next, would pass for learning. And
    alone, then beside a longer text: what a response is worth must not hang on its neighbours.
    """
    short, long = _spread(8, 12), _spread(13, 20)
    rounded = policy.model.dtype not in HIDDEN_TOLERANCE
    rounded = rounded or autocast_dtype(policy.model) is not None
    with torch.no_grad():
        alone, old = _logprobs(policy, [short]), _logprobs(policy, [short, long])
    new = _logprobs(policy, [short, long]).detach()
    again = float((new - old).abs().max())
    beside = (old[0, : alone.shape[1]] - alone[0]).abs()
    name = type(policy.model).__name__
    if again > (REPEATED_ROUNDED if rounded else REPEATED):
        raise UserError(unsteady(policy.model, again))
    if float(beside.mean()) > (BESIDE_ROUNDED if rounded else BESIDE):
        raise UserError(
            f"{name} gives a text other log-probs ({float(beside.max()):.2g} nats) beside a longer "
            "one: gradients would hang on trainer.token_budget; use another model"
        )


def unsteady(model: Any, gap: float) -> str:
    """The sentence for a model whose passes over the same tokens differ by `gap` nats."""
    return (
        f"{type(model).__name__} gives the same tokens other log-probs ({gap:.2g} nats) in its "
        "second pass: every ratio would be noise; turn off what is random in it"
    )


def _logprobs(policy: Any, samples: list[Sample]) -> torch.Tensor:
    """Times the temperature: a cold one divides the logits, and so multiplies their rounding."""
    batch = make_batch(single_rows(samples), pad_id=policy.pad_id, device=policy.device)
    return policy.score(batch).logprobs * policy.temperature


def _spread(prompt: int, length: int) -> Sample:
    """A made-up text of many different tokens that every vocabulary has."""
    ids = tuple(3 + (7 * i + prompt) % 17 for i in range(prompt + length))
    return _made_up(ids[:prompt], ids[prompt:])


def _hidden(model: Any, inputs: Inputs) -> torch.Tensor:
    arguments = {name: tensor.to(model.device) for name, tensor in inputs.arguments.items()}
    states = trunk(model)(**arguments, use_cache=False).last_hidden_state.flatten(0, 1)
    return states[[place for places in inputs.predictors for place in places]].float()


def _made_up(prompt: tuple[int, ...], tokens: tuple[int, ...]) -> Sample:
    response = Response(Prompt("", (), None), prompt, tokens, "", True, (0.0,) * len(tokens))
    return Sample(response, Grade(False, None, "truncated"), 0.0, 0.0)
