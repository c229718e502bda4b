"""What every sampler is asked and answers: Prompt → Response."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol

from jinja2 import TemplateError

from erclip.errors import UserError, as_user_error
from erclip.records import Prompt, Response, TopTokens


class SamplingSettings(NamedTuple):
    """How one call samples; lengths in tokens."""

    responses: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    max_prompt_tokens: int = 4096
    top: int = 0
    """Of how many of the likeliest tokens a log-prob is recorded at every position."""


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


def without_template(tokenizer: Any, path: str) -> str | None:
    """A sentence about a model that gets its prompts as plain text; the embedded one is made so."""
    if tokenizer.chat_template or path == "embedded":
        return None
    return (
        f"{path} has no chat template: it reads prompts as plain text, their messages joined by "
        "newlines, as suits a base model; a chat model needs the template of its own tokenizer"
    )


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
    if not prompts:
        return []
    first = prompts[0].id
    with as_user_error(f"The tokenizer or its chat template fails on prompt {first} or one after"):
        return _encoded(tokenizer, prompts)


def _encoded(tokenizer: Any, prompts: Sequence[Prompt]) -> list[list[int]]:
    if not tokenizer.chat_template:
        texts = ["\n".join(message["content"] for message in p.messages) for p in prompts]
        read = tokenizer(texts, return_special_tokens_mask=True)
        ends = {tokenizer.eos_token_id, tokenizer.sep_token_id}
        rows = zip(read["input_ids"], read["special_tokens_mask"], strict=True)
        return [_open(ids, added, ends) for ids, added in rows]
    try:
        texts = tokenizer.apply_chat_template(
            [[dict(message) for message in prompt.messages] for prompt in prompts],
            tokenize=False,
            add_generation_prompt=True,
        )
    except (TemplateError, ValueError, TypeError) as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"The tokenizer's chat template refuses prompt {prompts[0].id} ({said}); leave out "
            "data.system_prompt if it knows no system message, or give it one template, or none"
        ) from error
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def _open(ids: list[int], added: Sequence[int], ends: Collection[int | None]) -> list[int]:
    """Without the end of text that some tokenizers put after everything: it is to be answered."""
    while len(ids) > 1 and added[len(ids) - 1] and ids[-1] in ends:
        ids = ids[:-1]
    return ids


def refuse_unknown_ids(tokenizer: Any, encoded: Sequence[Sequence[int]], known: int) -> None:
    """Raise UserError for a prompt with a token that a model of `known` ids cannot read."""
    largest = max(max(ids, default=0) for ids in encoded)
    if largest >= known:
        token = tokenizer.convert_ids_to_tokens(largest)
        raise UserError(
            f"The tokenizer gives {token!r} the id {largest}, but the model's vocabulary ends at "
            f"{known - 1}: they do not belong together; give the model its own tokenizer"
        )


def end_ids(model_config: Any, tokenizer: Any) -> list[int]:
    """The ids that end a response: the generation config's and the tokenizer's."""
    ends = model_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    found = sorted({i for i in (*ends, tokenizer.eos_token_id) if i is not None})
    if not found:
        raise UserError("The model has no end-of-sequence token; set one in its tokenizer.")
    return found


class Reader:
    """Sampled ids → the record of an answer; without an id of `ends` at its end it was truncated.

    Tokens that only frame a text are no part of what graders and rewards read: its begin, its ends,
    padding. Other special ones are what was said: </think>, a tool's call, a channel's name.
    """

    def __init__(self, tokenizer: Any, ends: Sequence[int]):
        self._tokenizer, self._ends = tokenizer, ends
        names = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        self._frame = {*ends, *names}

    def response(
        self,
        prompt: Prompt,
        prompt_ids: Sequence[int],
        token_ids: Sequence[int],
        logprobs: Sequence[float],
        versions: Sequence[int] = (),
        top: TopTokens | None = None,
        nucleus: float | None = None,
    ) -> Response:
        """One answer to a prompt, in the terms of `Response`."""
        said = [i for i in token_ids if i not in self._frame]
        return Response(
            prompt=prompt,
            prompt_ids=tuple(prompt_ids),
            token_ids=tuple(token_ids),
            text=self._tokenizer.decode(said, skip_special_tokens=False),
            truncated=token_ids[-1] not in self._ends,
            logprobs=tuple(logprobs),
            versions=tuple(versions),
            top=top,
            nucleus=nucleus,
        )
