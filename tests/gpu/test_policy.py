"""Scoring, sampling and training on a device: the CPU's numbers, and generate's tokens."""

from __future__ import annotations

import json
import math

import pytest
import torch

from erclip.config.recipes import load_recipe
from erclip.training.sampling import SamplingSettings, TransformersSampler, encode_prompt
from erclip.training.sampling.decoder import Decoder
from erclip.training.trainer import Trainer

pytestmark = pytest.mark.gpu
SETTINGS = SamplingSettings(4, 24)


def sampled(policy, prompts, settings=SETTINGS):
    sampler = TransformersSampler(policy.model, policy.tokenizer, batch_size=64)
    return sampler.sample(prompts, settings, range(len(prompts)))


@pytest.fixture
def groups(load, countdown):
    """Responses that the CPU sampled."""
    return sampled(load("cpu"), list(countdown.train[:12]))


def test_scores_are_the_cpus(load, groups, batch_of):
    with torch.no_grad():
        here, there = (
            policy.score(batch_of(policy, groups), slopes=True) for policy in (load(), load("cpu"))
        )
    for name in ("logprobs", "entropies", "slopes"):
        torch.testing.assert_close(
            getattr(here, name).cpu(), getattr(there, name), rtol=1e-4, atol=5e-5
        )


def test_scores_have_the_same_bits_with_and_without_gradient(load, groups, batch_of):
    policy = load()
    batch = batch_of(policy, groups)
    with torch.no_grad():
        old = policy.score(batch)
    new = policy.score(batch)
    assert torch.equal(old.logprobs, new.logprobs)
    assert torch.equal(old.entropies, new.entropies)


@pytest.mark.parametrize("settings", [{"dtype": "bfloat16"}, {"autocast": "bfloat16"}], ids=str)
def test_narrow_trunks_are_near_float32(load, groups, batch_of, settings):
    exact, rough = load(), load(**settings)
    with torch.no_grad():
        a, b = (policy.score(batch_of(policy, groups)) for policy in (exact, rough))
    assert b.logprobs.dtype == b.entropies.dtype == torch.float32
    gap = (a.logprobs - b.logprobs)[batch_of(exact, groups).mask].abs()
    assert 0 < gap.mean() < 0.05


def test_checkpointing_changes_no_gradient(load, groups, batch_of):
    found = []
    for checkpointing in (False, True):
        policy = load(gradient_checkpointing=checkpointing)
        policy.score(batch_of(policy, groups)).logprobs.sum().backward()
        found.append([p.grad.clone() for p in policy.model.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * a.abs().max().item())


def test_greedy_is_generate(load, countdown):
    policy, prompts = load(), list(countdown.test[:16])
    ours = sampled(policy, prompts, SamplingSettings(1, 24, temperature=1e-6))
    for prompt, (response,) in zip(prompts, ours, strict=True):
        ids = torch.tensor([encode_prompt(policy.tokenizer, prompt)], device=policy.device)
        theirs = policy.model.generate(ids, do_sample=False, max_new_tokens=24)
        assert list(response.token_ids) == theirs[0, ids.shape[1] :].tolist()


def test_logprobs_of_the_sampler_are_the_trainers(load, countdown, batch_of):
    policy = load()
    batch = batch_of(policy, sampled(policy, list(countdown.train[:12])))
    with torch.no_grad():
        scores = policy.score(batch)
    assert (scores.logprobs - batch.sampler_logprobs)[batch.mask].abs().max() < 1e-4


def test_most_tokens_are_those_that_the_cpu_draws(load, groups, countdown):
    """The same uniform numbers: only where a sum rounds another way is a token another one."""
    here = sampled(load(), list(countdown.train[:12]))
    pairs = [(a, b) for x, y in zip(here, groups, strict=True) for a, b in zip(x, y, strict=True)]
    same = sum(a.token_ids == b.token_ids for a, b in pairs)
    assert same >= 0.9 * len(pairs)


@pytest.mark.parametrize("trunk", [{}, {"autocast": "bfloat16"}, {"dtype": "bfloat16"}], ids=str)
def test_decoding_by_a_graph_draws_the_same(load, countdown, trunk):
    """Replayed kernels in fixed buffers against calls in growing ones."""
    policy, prompts = load(**trunk), list(countdown.train[:16])
    runs = []
    for fixed in (False, True):
        sampler = TransformersSampler(policy.model, policy.tokenizer, batch_size=64)
        sampler._decoder = Decoder(policy.model, fixed=fixed)
        assert sampler._decoder.fixed == fixed
        runs.append([r for group in sampler.sample(prompts, SETTINGS, range(16)) for r in group])
    pairs = list(zip(*runs, strict=True))
    same = [(a, b) for a, b in pairs if a.token_ids == b.token_ids]
    assert len(same) >= (1.0 if not trunk else 0.8) * len(pairs)
    limit = 1e-4 if not trunk else 0.1
    assert all(a.logprobs == pytest.approx(b.logprobs, abs=limit) for a, b in same)


@pytest.mark.parametrize("more", [(), ('model.autocast="bfloat16"',)], ids=["float32", "autocast"])
def test_a_short_run(device, tmp_path, more):
    values = (
        *("trainer.rollouts=2", "rollout.prompts=16", "rollout.responses=4", "eval.prompts=4"),
        *("trainer.updates_per_rollout=4", "eval.responses=1", f'model.device="{device}"'),
    )
    Trainer(load_recipe("quickstart", [*values, *more]), tmp_path / "run").train()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    rollouts = [line for line in lines if line["kind"] == "rollout"]
    updates = [line for line in lines if line["kind"] == "update"]
    assert len(rollouts) == 2
    assert len(updates) == 8
    assert all(math.isfinite(line["grad/norm"]) and line["grad/norm"] > 0 for line in updates)
    assert all(line["erc/noise_frac"] == 0 for line in rollouts)  # ρ = 1 in a first update
    assert all(line["sampler/logprob_diff"] < (1e-4 if not more else 0.1) for line in rollouts)
