"""Prompt → Response: a vLLM server elsewhere, through its OpenAI endpoint.

New weights go through a folder that both sides can read: the trainer saves a checkpoint, the server
reloads it. For that the server has to be started with erclip's worker extension and in vLLM's
development mode, which opens `/collective_rpc` and `/reset_prefix_cache`; see docs/vllm.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from erclip.config.sampling import VllmServerSampler as Settings
from erclip.errors import UserError, as_user_error
from erclip.machine.distributed import World
from erclip.records import Prompt, Response
from erclip.training.policy import Policy
from erclip.training.sampling.base import Reader, SamplingSettings, encode_prompts, end_ids
from erclip.training.sampling.vllm_client import Refused, VllmClient
from erclip.training.sampling.vllm_request import (
    Answer,
    check_lengths,
    logprobs_mode,
    make_responses,
    request,
)
from erclip.training.sampling.vllm_worker import EXTENSION

START = (
    f"VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --host 127.0.0.1 --worker-extension-cls {EXTENSION} "
    "--logprobs-mode {mode}"
)


class VllmServer:
    """Samples through a server, whose weights are replaced by every `update_weights`."""

    def __init__(self, settings: Settings, policy: Policy, world: World):
        self.settings, self.policy, self.world = settings, policy, world
        self._client = VllmClient(settings.url, settings.timeout_s)
        self.tokenizer = policy.tokenizer
        self.end_ids = end_ids(policy.model.generation_config, policy.tokenizer)
        self.mode = logprobs_mode(settings.top_p)
        self.model, self.max_model_len = self._served_model()
        self._check_mode()
        self._check_extension()

    def update_weights(self) -> None:
        """Save a checkpoint, let the server reload it and forget what old weights have computed."""
        with self.policy.gathered():
            self.world.from_first(self._hand_over)

    def sample(
        self, prompts: Sequence[Prompt], settings: SamplingSettings, seeds: Sequence[int]
    ) -> list[list[Response]]:
        """See `Sampler.sample`; a prompt's responses are one request with its own seed."""
        encoded = encode_prompts(self.tokenizer, prompts, settings.max_prompt_tokens)
        check_lengths(prompts, encoded, settings, self.max_model_len)
        asked = {**request(settings, self.end_ids), "return_token_ids": True, "model": self.model}
        if settings.top:  # by number: two tokens may have one text
            asked["return_tokens_as_token_ids"] = True

        def ask(ids: list[int], seed: int) -> list[Answer]:
            answer = self._client.call("/v1/completions", {**asked, "prompt": ids, "seed": seed})
            with as_user_error(f"{self._client.url} does not answer like a vLLM server"):
                return _sequences(answer, self._client.url, settings.top)

        at_once = max(1, self.settings.batch_size // settings.responses)
        with ThreadPoolExecutor(at_once) as pool:
            answers = list(pool.map(ask, encoded, seeds))
        reader = Reader(self.tokenizer, self.end_ids)
        return [
            make_responses(reader, prompt, ids, found, settings, self.mode)
            for prompt, ids, found in zip(prompts, encoded, answers, strict=True)
        ]

    def _hand_over(self) -> None:
        with tempfile.TemporaryDirectory(prefix="weights-", dir=self.settings.folder) as folder:
            Path(folder).chmod(0o755)  # the server may be another user's
            self.policy.save_model(Path(folder))
            self._client.call("/collective_rpc", {"method": "erclip_reload", "args": [folder]})
        if not self._client.call("/reset_prefix_cache", {}).get("success"):
            raise UserError(
                f"The vLLM server at {self._client.url} kept its prefix cache, whose keys and "
                "values are stale; give the run a server of its own."
            )

    def _served_model(self) -> tuple[str, int]:
        """Name and context length of what the server serves."""
        answer = self._client.call("/v1/models")
        with as_user_error(f"{self._client.url} does not answer like a vLLM server"):
            model = answer["data"][0]
            return str(model["id"]), int(model["max_model_len"])

    def _check_mode(self) -> None:
        """Log-probs before the temperature are refused where they have to be after it.

        The most likely token's log-prob changes with the temperature in one mode and not in the
        other; at temperature 1 the two agree.
        """
        if self.settings.temperature == 1 and self.settings.top_p == 1:
            return

        def highest(temperature: float) -> float:
            asked = {"model": self.model, "prompt": [self.end_ids[0]], "max_tokens": 1}
            sampling = {"temperature": temperature, "top_k": 0, "top_p": 1.0, "logprobs": 1}
            answer = self._client.call("/v1/completions", {**asked, **sampling})
            with as_user_error(f"{self._client.url} does not answer like a vLLM server"):
                return max(answer["choices"][0]["logprobs"]["top_logprobs"][0].values())

        found = "raw_logprobs" if highest(0.5) == highest(2.0) else "processed_logprobs"
        if found != self.mode:
            raise UserError(
                f"The vLLM server at {self._client.url} gives {found}, but temperature = "
                f"{self.settings.temperature:g} and top_p = {self.settings.top_p:g} need "
                f"{self.mode}; start it as {START.format(mode=self.mode)}."
            )

    def _check_extension(self) -> None:
        """Refuse before the first rollout a server that could not take over new weights."""
        try:
            answer = self._client.call("/collective_rpc", {"method": "erclip_ready"})
        except Refused:
            answer = {}
        if answer.get("results", [None])[0] != "ready":
            raise UserError(
                f"The vLLM server at {self._client.url} cannot take over new weights; start it "
                f"as {START.format(mode=self.mode)}."
            )


def _sequences(answer: dict[str, Any], url: str, top: int) -> list[Answer]:
    """A request's samples; likely tokens are written as "token_id:17"."""
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    if choices[0].get("token_ids") is None:
        raise UserError(f"The server at {url} returns no token ids; it needs vLLM 0.10.2 or newer.")
    return [
        Answer(
            choice["token_ids"],
            choice["logprobs"]["token_logprobs"],
            [
                {int(name.removeprefix("token_id:")): value for name, value in found.items()}
                for found in choice["logprobs"]["top_logprobs"]
            ]
            if top
            else [],
        )
        for choice in choices
    ]
