"""Fixtures shared by the tests: the embedded model, and samples drawn from it.

Their imports cost seconds, so only the process pays that asks for one.
"""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def countdown():
    from erclip.tasks import load_task

    return load_task("countdown")


@pytest.fixture
def policy():
    """The embedded model, fresh for every test that updates it."""
    import torch

    from erclip.config import ModelConfig
    from erclip.training.policy import load_policy

    torch.manual_seed(0)
    return load_policy(ModelConfig())


@pytest.fixture
def responses(policy, countdown):
    """Four responses to each of twelve prompts of different lengths."""
    from erclip.training.sampling import SamplingSettings, TransformersSampler

    sampler = TransformersSampler(policy.model, policy.tokenizer, batch_size=16)
    return sampler.sample(list(countdown.train[:12]), SamplingSettings(4, 24), range(12))
