"""What an engine and a server of vLLM are asked alike, and what their log-probs mean."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from erclip.errors import UserError
from erclip.records import Prompt, Response, TopTokens
from erclip.training.sampling.base import Reader, SamplingSettings

GREEDY = 0.01  # vLLM takes no temperature between 0 and this


class Answer(NamedTuple):
    """One sample: its tokens, their log-probs, and at each position those of likely tokens."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    likely: Sequence[Mapping[int, float]]


def logprobs_mode(top_p: float) -> str:
    """Which of its log-probs vLLM reports, for the whole life of an engine.

    "processed" is at the temperature but renormalised after the nucleus cut, "raw" is before both.
    A log-prob is that of the policy at the temperature, so one fits only where the cut or the
    temperature is 1; `config` refuses both at once.
    """
    return "processed_logprobs" if top_p == 1 else "raw_logprobs"


def knows_logprobs(mode: str, settings: SamplingSettings) -> bool:
    """Whether this mode's log-probs are the policy's at the temperature, before the nucleus cut."""
    if mode == "raw_logprobs":
        return settings.temperature == 1
    return settings.top_p == 1 and settings.temperature >= GREEDY


def check_lengths(
    prompts: Sequence[Prompt],
    encoded: Sequence[Sequence[int]],
    settings: SamplingSettings,
    max_model_len: int,
) -> None:
    """Refuse what would be cut short; raises UserError with the prompt's name."""
    for prompt, ids in zip(prompts, encoded, strict=True):
        if len(ids) + settings.max_tokens > max_model_len:
            raise UserError(
                f"Prompt {prompt.id} has {len(ids)} tokens, which leaves no room for "
                f"{settings.max_tokens} more within vLLM's {max_model_len}; lower max_tokens or "
                "raise sampler.max_model_len."
            )


def request(settings: SamplingSettings, ends: Sequence[int]) -> dict[str, Any]:
    """One prompt's request; everything that could come from a model's own defaults is said."""
    greedy = settings.temperature < GREEDY
    return {
        "n": 1 if greedy else settings.responses,
        "max_tokens": settings.max_tokens,
        "temperature": 0.0 if greedy else settings.temperature,
        "top_p": 1.0 if greedy else settings.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stop_token_ids": list(ends),
        "ignore_eos": True,
        "logprobs": settings.top,
    }


def make_responses(
    reader: Reader,
    prompt: Prompt,
    prompt_ids: Sequence[int],
    sequences: Sequence[Answer],
    settings: SamplingSettings,
    mode: str,
) -> list[Response]:
    """The records of one prompt's samples; log-probs are NaN where `mode` cannot tell them."""
    if settings.temperature < GREEDY:
        sequences = [sequences[0]] * settings.responses
    known = knows_logprobs(mode, settings)
    return [
        reader.response(
            prompt,
            prompt_ids,
            answer.token_ids,
            answer.logprobs if known else [math.nan] * len(answer.token_ids),
            top=top_tokens(answer.likely, settings.top) if known and settings.top else None,
        )
        for answer in sequences
    ]


def top_tokens(likely: Sequence[Mapping[int, float]], count: int) -> TopTokens:
    """The `count` likeliest at each position; vLLM adds the drawn token where it is not of them."""
    ids, logprobs = array("i"), array("f")
    for found in likely:
        best = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:count]
        missing = count - len(best)
        ids.extend([*(token for token, _ in best), *[0] * missing])
        logprobs.extend([*(value for _, value in best), *[-math.inf] * missing])
    return TopTokens(ids.tobytes(), logprobs.tobytes())
