"""The device of `make gpu`: CUDA, or on a rehearsal the CPU with Triton's interpreter."""

from __future__ import annotations

import os

import pytest
import torch

from erclip.config import ModelConfig
from erclip.records import Grade, Sample
from erclip.training.batches import make_batch
from erclip.training.packing import single_rows
from erclip.training.policy import load_policy


@pytest.fixture(scope="session")
def device():
    name = os.environ.get("ERCLIP_TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return name


@pytest.fixture
def load(device):
    """The embedded model with these settings, there or on another device."""
    return lambda where=device, **settings: load_policy(ModelConfig(device=where, **settings))


@pytest.fixture
def batch_of():
    """Responses as one batch where the policy is."""

    def build(policy, groups):
        grade = Grade(False, None, "wrong")
        samples = [Sample(r, grade, 0.0, 0.0) for group in groups for r in group]
        return make_batch(single_rows(samples), pad_id=policy.pad_id, device=policy.device)

    return build
