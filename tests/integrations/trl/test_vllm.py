"""TRL's vLLM modes, with a sampler in vLLM's place whose log-probs are off by a known amount."""

from __future__ import annotations

import pytest
import torch
import trl.trainer.grpo_trainer as stock
from trl import GRPOConfig, GRPOTrainer

from .conftest import NO_ERC, gradients, history, next_batches

STOCK = {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28, "beta": 0.0}


class Sampler:
    """What the trainer uses of TRL's `VLLMGeneration`."""

    def __init__(self, model, accelerator, processing_class, **settings):
        self.model, self.settings = model, settings
        self.synced, self.calls = [], 0

    def sync_weights(self):
        self.synced.append({name: tuple(p.shape) for name, p in self.model.named_parameters()})

    def generate(self, prompts, images, num_generations, profiler=None):
        self.calls += 1
        width = max(map(len, prompts))
        padded = torch.tensor([[0] * (width - len(ids)) + ids for ids in prompts])
        inside = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(self.calls)
            out = self.model.generate(
                padded,
                attention_mask=inside,
                max_new_tokens=self.settings["max_completion_length"],
                do_sample=True,
                temperature=self.settings["temperature"],
                top_k=0,
                output_scores=True,
                return_dict_in_generate=True,
            )
        scores = self.model.compute_transition_scores(
            out.sequences, out.scores, normalize_logits=True
        )
        scores += 0.3 * (out.sequences[:, width:] + torch.arange(scores.shape[1])).cos()
        completions, logprobs = [], []
        for ids, row in zip(out.sequences[:, width:].tolist(), scores.tolist(), strict=True):
            end = self.model.generation_config.eos_token_id
            length = ids.index(end) + 1 if end in ids else len(ids)
            completions.append(ids[:length])
            logprobs.append([[lp] for lp in row[:length]])
        return prompts, completions, logprobs, None


@pytest.fixture
def run(make, monkeypatch):
    """A trainer whose responses come from `Sampler`, with a reward that has signal in them."""
    monkeypatch.setattr(stock, "VLLMGeneration", Sampler)

    def run(*args, learning_rate=0.3, **settings):
        trainer = make(
            *args, use_vllm=True, learning_rate=learning_rate, max_completion_length=12, **settings
        )
        trainer.reward_funcs = [even]
        return trainer

    return run


def even(completion_ids, **_):
    return [float(sum(ids) % 2 == 0) for ids in completion_ids]


MODES = {
    "no correction": {"vllm_importance_sampling_correction": False},
    **{
        mode: {
            "vllm_importance_sampling_mode": mode,
            "vllm_importance_sampling_clip_max": 1.1,  # below the largest weight, so that it acts
        }
        for mode in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
    },
}


@pytest.mark.parametrize("mode", MODES)
def test_with_erc_off_a_run_is_stock(run, mode):
    settings = {"temperature": 0.9, "learning_rate": 0.3, "max_steps": 6}
    ours = run(loss=NO_ERC, **settings, **MODES[mode])
    ours.train()
    other = run(GRPOTrainer, GRPOConfig, **STOCK, **settings, **MODES[mode])
    other.train()
    assert history(ours, "loss") == pytest.approx(history(other, "loss"), abs=1e-6)
    assert len(gradients(ours)) == len(gradients(other)) == 6
    for got, want in zip(gradients(ours), gradients(other), strict=True):
        for name in want:
            torch.testing.assert_close(got[name], want[name], rtol=0, atol=1e-6)
    generation = ours.vllm_generation
    assert generation.calls == len(generation.synced) == 2  # vLLM has the weights of each rollout
    assert generation.synced == other.vllm_generation.synced  # under the names that vLLM knows
    if mode != "no correction":
        for kind in ("min", "mean", "max"):
            key = f"sampling/importance_sampling_ratio/{kind}"
            assert history(ours, key) == pytest.approx(history(other, key), abs=1e-5)
        assert history(ours, key)[0] > 1.05


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "no correction"])
def test_a_mode_truncates_or_masks_a_token_or_a_sequence(run, mode):
    """The weights of each of TRL's four modes, from the two log-probs of a batch."""
    whole = next_batches(run(loss=NO_ERC, vllm_importance_sampling_mode="token_truncate"))[0]
    batch = next_batches(run(loss=NO_ERC, **MODES[mode]))[0]
    assert torch.equal(whole["completion_ids"], batch["completion_ids"])
    inside = batch["completion_mask"].bool()
    want = whole["importance_sampling_ratio"].masked_fill(~inside, 1.0)
    if mode.startswith("sequence"):
        want = want.prod(1, keepdim=True)
    acts = want > 1.1
    assert 0 < acts.sum() < acts.numel()
    want = torch.where(acts, 1.1 if mode.endswith("truncate") else 0.0, want)
    got = batch["importance_sampling_ratio"]
    assert got.shape == want.shape
    if not mode.startswith("sequence"):
        got, want = got[inside], want[inside]
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dynamic_sampling", ["off", "refill"])
def test_the_samplers_mismatch_never_reaches_erc(run, mode, dynamic_sampling):
    """Old entropies and log-probs are the trainer's, so the first update clips nothing."""
    trainer = run(dynamic_sampling=dynamic_sampling, **MODES[mode])
    trainer.train()
    assert history(trainer, "erc/noise_frac") == [0.0]
    assert history(trainer, "ratio/mean")[0] == 1.0
    assert history(trainer, "clip/erc_frac")[-1] > 0.05


def test_weights_of_the_correction_scale_the_advantages(run):
    trainer = run(loss=NO_ERC)
    batch = next_batches(trainer)[0]
    weights = batch["importance_sampling_ratio"]
    assert weights.shape == batch["completion_mask"].shape or weights.shape[1] == 1
    assert (weights - 1).abs().max() > 0.01
    loss = trainer._compute_loss(trainer.model, batch)
    mask = batch["completion_mask"]
    count = batch["num_items_in_batch"] / trainer.args.steps_per_generation
    on_policy = (batch["advantages"][:, None] * weights * mask).sum() / count
    assert loss.item() == pytest.approx(-on_policy.item(), abs=1e-6)
