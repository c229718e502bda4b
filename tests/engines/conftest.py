"""Models and engines for the proofs about vLLM; `make test-vllm` sets up what they need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engines.models import make_tiny
from erclip.config import Config
from erclip.training.policy import load_policy
from erclip.training.sampling.load import load_sampler


@pytest.fixture(scope="session", autouse=True)
def _vllm():
    pytest.importorskip("vllm")


@pytest.fixture(scope="session")
def smollm2():
    """SmolLM2-135M-Instruct, a tied model: `erclip fetch-model smollm2 DIR`."""
    folder = Path(os.environ.get("ERCLIP_SMOLLM2", "models/smollm2"))
    if not (folder / "config.json").is_file():
        pytest.skip(f"no model in {folder}")
    return str(folder)


@pytest.fixture(scope="session", params=[True, False], ids=["tied", "untied"])
def tiny(request, tmp_path_factory):
    """A small random Llama with the embedded model's tokenizer; vLLM's CPU build has its heads."""
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny(folder, tied=request.param)
    return str(folder)


@pytest.fixture(scope="session")
def engine_for():
    """(policy, sampler) of an engine in this process for a model folder.

    All engines live to the end: one that is collected takes down what the others share.
    """
    alive = []

    def start(folder, lora=None, loss=None, **settings):
        settings = {"kv_cache_gib": 0.25, "max_tokens": 32, **settings}
        sampler = {"kind": "vllm", "max_prompt_tokens": 64, **settings}
        config = Config.model_validate(
            {
                "model": {"path": str(folder), "lora": lora},
                "sampler": sampler,
                "loss": loss or {},
            }
        )
        policy = load_policy(config.model, config.sampler.temperature)
        alive.append(load_sampler(config, policy))
        return policy, alive[-1]

    return start
