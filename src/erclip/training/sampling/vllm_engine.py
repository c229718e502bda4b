"""Prompt → Response: a vLLM engine in this process, its weights replaced after every rollout."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erclip.config.sampling import VllmSampler as Settings
from erclip.errors import UserError
from erclip.extras import need
from erclip.machine.distributed import before_leaving
from erclip.records import Prompt, Response
from erclip.training.policy import Policy
from erclip.training.sampling.base import Reader, SamplingSettings, encode_prompts, end_ids
from erclip.training.sampling.vllm_request import (
    Answer,
    check_lengths,
    logprobs_mode,
    make_responses,
    request,
)
from erclip.training.sampling.vllm_worker import EXTENSION

LLM_MODULE = "vllm.entrypoints.llm"  # the package itself imports nothing that could fail

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine shares this process's memory
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the trainer needs the cores too
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


class VllmEngine:
    """Samples through vLLM with a copy of the policy's weights, as of the last `update_weights`."""

    def __init__(
        self, settings: Settings, policy: Policy, folder: str, *, trust: bool = False, top: int = 0
    ):
        """`top` is the most that `SamplingSettings.top` will ask for."""
        self.policy, self.settings, self.tokenizer = policy, settings, policy.tokenizer
        self.end_ids = end_ids(policy.model.generation_config, policy.tokenizer)
        self.mode = logprobs_mode(settings.top_p)
        self.max_model_len = context_length(settings, policy.model.config)
        self.engine = start_engine(settings, policy, folder, self.max_model_len, trust, top)
        before_leaving(self.close)

    def close(self) -> None:
        """Give vLLM's process groups back while there still is what they are groups of."""
        self.engine.llm_engine.engine_core.shutdown()

    def update_weights(self) -> None:
        """Copy the policy's weights into the engine."""
        with self.policy.gathered():
            if self.settings.tensor_parallel == 1:
                weights = checkpoint_weights(self.policy)
                self.engine.collective_rpc("erclip_load", args=(list(weights.items()),))
            else:  # the workers are processes of their own
                with tempfile.TemporaryDirectory(prefix="erclip-weights-") as folder:
                    self.policy.save_model(Path(folder))
                    self.engine.collective_rpc("erclip_reload", args=(folder,))

    def sample(
        self, prompts: Sequence[Prompt], settings: SamplingSettings, seeds: Sequence[int]
    ) -> list[list[Response]]:
        """See `Sampler.sample`; a prompt's responses are one request with its own seed.

        The prefix cache is emptied first: its keys and values are of old weights, or of whatever
        was asked before, which a resumed run would not have asked.
        """
        from vllm import SamplingParams, TokensPrompt

        encoded = encode_prompts(self.tokenizer, prompts, settings.max_prompt_tokens)
        check_lengths(prompts, encoded, settings, self.max_model_len)
        asked = request(settings, self.end_ids)
        if not self.engine.reset_prefix_cache():
            raise RuntimeError("vLLM kept its prefix cache, whose keys and values may be stale.")
        outputs = self.engine.generate(
            [TokensPrompt(prompt_token_ids=ids) for ids in encoded],
            [SamplingParams(**asked, seed=seed, detokenize=False) for seed in seeds],
            use_tqdm=False,
        )
        reader = Reader(self.tokenizer, self.end_ids)
        return [
            make_responses(
                reader, prompt, ids, _sequences(output, settings.top), settings, self.mode
            )
            for prompt, ids, output in zip(prompts, encoded, outputs, strict=True)
        ]


def start_engine(
    settings: Settings, policy: Policy, folder: str, max_model_len: int, trust: bool, top: int = 0
) -> Any:
    """A `vllm.LLM` for the model in `folder`; raises UserError with vLLM's reason if it fails."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    remedy = ", or see docs/vllm.md for a machine without a GPU"
    vllm, llm = (need(name, 'sampler.kind = "vllm"', remedy) for name in ("vllm", LLM_MODULE))
    dtype = str(policy.model.dtype).removeprefix("torch.")
    compiled = policy.device.type == "cuda" if settings.compile is None else settings.compile
    limits: dict[str, Any] = {"gpu_memory_utilization": settings.memory_frac}
    if settings.kv_cache_gib is not None:
        limits = {"kv_cache_memory_bytes": round(settings.kv_cache_gib * 2**30)}
    if policy.device.type == "cpu":
        # a seeded request whose prompt is read in pieces stops vLLM's CPU build: its generators
        # cannot be set back by one draw
        whole = max(max_model_len, 4096)
        limits |= {"enable_chunked_prefill": False, "max_num_batched_tokens": whole}
    try:
        with random_state_kept():
            engine = llm.LLM(
                model=folder,
                skip_tokenizer_init=True,
                trust_remote_code=trust,
                dtype=dtype if settings.dtype == "model" else settings.dtype,
                max_model_len=max_model_len,
                max_num_seqs=settings.batch_size,
                tensor_parallel_size=settings.tensor_parallel,
                enforce_eager=not compiled,
                logprobs_mode=logprobs_mode(settings.top_p),
                max_logprobs=max(top, 1),
                generation_config="vllm",  # the folder's own would add penalties we do not model
                worker_extension_cls=EXTENSION,
                seed=0,
                **limits,
            )
            # some of what vLLM cannot serve shows in the first forward pass only
            first = vllm.TokensPrompt(prompt_token_ids=[0])
            only = vllm.SamplingParams(max_tokens=1, detokenize=False)
            engine.generate(first, only, use_tqdm=False)
    except (ValueError, RuntimeError, NotImplementedError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"vLLM cannot serve this model: {reason}") from error
    return engine


@contextmanager
def random_state_kept() -> Generator[None]:
    """vLLM seeds the process's generators, which belong to the run."""
    state = random.getstate()
    with torch.random.fork_rng():
        yield
    random.setstate(state)


def checkpoint_weights(policy: Policy) -> dict[str, Tensor]:
    """The policy's tensors under the names that its checkpoints have; a tied tensor once."""
    from transformers.core_model_loading import revert_weight_conversion

    return revert_weight_conversion(policy.model, policy.weights())


def context_length(settings: Settings, model_config: Any) -> int:
    """`max_model_len`; by default what the longest prompt and response need, or the model has."""
    longest = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    wanted = settings.max_model_len or settings.max_prompt_tokens + settings.max_tokens
    if longest is None:
        return wanted
    if settings.max_model_len is not None and settings.max_model_len > longest:
        raise UserError(
            f"sampler.max_model_len = {settings.max_model_len}, but the model's own limit is "
            f"{longest} tokens."
        )
    return min(wanted, longest)


def _sequences(output: Any, top: int) -> list[Answer]:
    """A request's samples."""
    return [
        Answer(
            list(sample.token_ids),
            [
                entry[token].logprob
                for entry, token in zip(sample.logprobs, sample.token_ids, strict=True)
            ],
            [
                {token: found.logprob for token, found in entry.items()}
                for entry in (sample.logprobs if top else ())
            ],
        )
        for sample in sorted(output.outputs, key=lambda sample: sample.index)
    ]
