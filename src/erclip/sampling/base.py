"""What every sampler is asked and answers: Prompt → Response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from erclip.errors import UserError
from erclip.records import Prompt, Response


class SamplingSettings(NamedTuple):
    """How one call samples; lengths in tokens."""

    responses: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    max_prompt_tokens: int = 4096


class Sampler(Protocol):
    """Whatever turns prompts into responses: transformers here, an inference engine elsewhere."""

    def sample(
        self, prompts: Sequence[Prompt], settings: SamplingSettings, seeds: Sequence[int]
    ) -> list[list[Response]]:
        """`settings.responses` responses per prompt, in the prompts' order.

        Each prompt has a seed of its own: its responses do not depend on the prompts beside it.
        """
        ...

    def update_weights(self) -> None:
        """Called after the updates of a rollout, before the next call of `sample`."""
        ...


def encode_prompt(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Token ids of a prompt: through the chat template if the tokenizer has one."""
    return _encode(tokenizer, [prompt])[0]


def encode_prompts(
    tokenizer: Any, prompts: Sequence[Prompt], max_prompt_tokens: int
) -> list[list[int]]:
    """Token ids of every prompt; raises UserError for one that is too long."""
    encoded = _encode(tokenizer, prompts)
    for prompt, ids in zip(prompts, encoded, strict=True):
        if len(ids) > max_prompt_tokens:
            raise UserError(
                f"Prompt {prompt.id} has {len(ids)} tokens, more than max_prompt_tokens = "
                f"{max_prompt_tokens}; raise the limit or drop the row."
            )
    return encoded


def _encode(tokenizer: Any, prompts: Sequence[Prompt]) -> list[list[int]]:
    """All in one call of the tokenizer, which costs more than a short prompt does."""
    if not tokenizer.chat_template:
        texts = ["\n".join(message["content"] for message in p.messages) for p in prompts]
        return tokenizer(texts)["input_ids"]
    texts = tokenizer.apply_chat_template(
        [[dict(message) for message in prompt.messages] for prompt in prompts],
        tokenize=False,
        add_generation_prompt=True,
    )
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def end_ids(model_config: Any, tokenizer: Any) -> list[int]:
    """The ids that end a response: the generation config's and the tokenizer's."""
    ends = model_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    found = sorted({i for i in (*ends, tokenizer.eos_token_id) if i is not None})
    if not found:
        raise UserError("The model has no end-of-sequence token; set one in its tokenizer.")
    return found


def make_response(
    tokenizer: Any,
    ends: Sequence[int],
    prompt: Prompt,
    prompt_ids: Sequence[int],
    token_ids: Sequence[int],
    logprobs: Sequence[float],
    versions: Sequence[int] = (),
) -> Response:
    """The record of one sampled answer; without an id of `ends` at its end it was truncated."""
    finished = token_ids[-1] in ends
    body = token_ids[:-1] if finished else token_ids
    return Response(
        prompt=prompt,
        prompt_ids=tuple(prompt_ids),
        token_ids=tuple(token_ids),
        text=tokenizer.decode(body, skip_special_tokens=True),
        truncated=not finished,
        logprobs=tuple(logprobs),
        versions=tuple(versions),
    )
