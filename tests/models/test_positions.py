"""Texts of any length get the same factors, and nothing runs past a table of positions."""

from __future__ import annotations

import pytest
import torch

from erclip.config import ModelConfig
from erclip.errors import UserError
from erclip.records import Grade, Prompt, Response, Sample
from erclip.training.batches import make_batch
from erclip.training.packing import single_rows
from erclip.training.policy import load_policy
from erclip.training.policy.positions import Positions
from models.zoo import build, naive, saved

DYNAMIC = ["phi3, longrope", "llama, dynamic NTK"]  # short texts: up to 40 tokens


def text(length):
    ids = tuple(10 + i % 200 for i in range(length))
    response = Response(Prompt("", (), None), ids[:10], ids[10:], "", False, (0.0,) * (length - 10))
    return Sample(response, Grade(False, None, "wrong"), 0.0, 0.0)


def scores(policy, *samples):
    batch = make_batch(single_rows(samples), pad_id=0, device=policy.device)
    with torch.no_grad():
        return policy.score(batch).logprobs[0, : len(samples[0].response.token_ids)]


@pytest.mark.parametrize("name", DYNAMIC)
def test_short_texts_are_transformers_own(name, tmp_path):
    model = build(name)
    policy = load_policy(ModelConfig(path=str(saved(tmp_path, model))))
    assert policy.fit(20, 20) is None
    expected = naive(model, [10 + i for i in range(30)], 10)
    assert (scores(policy, text(30)) - expected).abs().max() < 1e-5
    assert torch.equal(scores(policy, text(30)), scores(policy, text(30), text(30)))
    with pytest.raises(UserError, match="41 tokens is longer than the 40"):
        scores(policy, text(30), text(42))  # the last is never read


@pytest.mark.parametrize("name", DYNAMIC)
def test_long_runs_give_every_text_the_factors_of_the_longest(name, tmp_path):
    model = build(name)
    policy = load_policy(ModelConfig(path=str(saved(tmp_path, model))))
    said = policy.fit(30, 40)
    assert said is not None
    assert "70 tokens" in said
    alone = scores(policy, text(30))
    assert (scores(policy, text(30), text(70)) - alone).abs().max() < 1e-5
    assert torch.equal(scores(policy, text(30)), alone)  # whatever was scored in between
    longest = naive(model, [10 + i % 200 for i in range(70)], 10)
    assert (scores(policy, text(70)) - longest).abs().max() < 1e-5
    policy.save_model(tmp_path / "again")  # read back with the same factors


class Keeping(torch.nn.Module):
    """Factors of the longest text so far, as the dynamic NTK of transformers 5.6 has them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("inv_freq", torch.ones(4), persistent=False)
        self.longest = 40

    def forward(self, x, position_ids):
        self.longest = max(self.longest, int(position_ids.max()) + 1)
        return position_ids[..., None] * self.inv_freq / self.longest


def test_finding_out_leaves_no_trace():
    model = torch.nn.ModuleList([Keeping()])
    assert Positions(model).held == 40
    assert model[0].longest == 40


def test_a_table_of_positions_ends(tmp_path):
    policy = load_policy(ModelConfig(path=str(saved(tmp_path, build("gpt2", n_positions=64)))))
    assert policy.fit(30, 34) is None
    with pytest.raises(UserError, match=r"may take 35, but GPT2LMHeadModel was made for 64; lower"):
        policy.fit(30, 35)


def test_rotary_positions_go_on_with_a_warning(tmp_path):
    folder = saved(tmp_path, build("llama", max_position_embeddings=64))
    policy = load_policy(ModelConfig(path=str(folder)))
    said = policy.fit(30, 35)
    assert said is not None
    assert "was made for 64" in said
    with pytest.raises(UserError, match="leave long prompts out"):
        policy.fit(64, 1)
