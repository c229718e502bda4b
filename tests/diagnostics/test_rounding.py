"""What rounding alone clips, measured in a run: zero in float32, near the truth in 16 bits."""

from __future__ import annotations

import copy

import pytest
import torch

from diagnostics.conftest import train
from erclip.config import Config
from erclip.diagnostics.layouts import nudged_embeddings
from erclip.losses import entropy_ratio
from erclip.records import Grade, Sample
from erclip.training.batches import make_batch
from erclip.training.packing import micro_batches, single_rows
from erclip.training.rounding import rounding_share
from erclip.training.updates import ScoredBatch, Updater, score_old

ERC = {"loss": {"constraints": ["entropy_ratio_clip"]}, "trainer": {"warmup_updates": 0}}


@pytest.mark.parametrize(
    ("dtype", "whole"), [(torch.float32, torch.int32), (torch.bfloat16, torch.int16)]
)
def test_every_number_of_an_embedding_is_the_next_one(dtype, whole, policy):
    embed = copy.deepcopy(policy.model.get_input_embeddings()).to(dtype)
    wrapper = type("Model", (), {"get_input_embeddings": lambda self: embed})()
    ids = torch.arange(embed.num_embeddings)
    before = embed(ids)
    with nudged_embeddings(wrapper):
        during = embed(ids)
    assert during.dtype == dtype
    steps = during.view(whole) - before.view(whole)
    # exactly between two: the even one, which a power of two is (and zero stays)
    powers = (before.abs().float().frexp().mantissa == 0.5) | (before == 0)
    assert torch.equal(steps == 1, ~powers)
    assert torch.equal(embed(ids), before)


def scored(policy, responses, budget=300):
    samples = [
        Sample(r, Grade(True, "", "correct"), 1.0, (-1.0) ** i)
        for i, r in enumerate(response for group in responses for response in group)
    ]
    return [
        score_old(policy, make_batch(part, pad_id=policy.pad_id, device=policy.device))
        for part in micro_batches(single_rows(samples), budget)
    ]


def test_float32_rounds_nothing_out_of_the_band(policy, responses):
    assert rounding_share(Updater(policy, Config(**ERC)), scored(policy, responses)) == 0.0


@torch.no_grad()
def test_sixteen_bits_measure_about_what_an_update_gets_wrong(policy, responses):
    """The truth: bf16 and float32 scores of the same weights, before and after a nudge to them."""
    rough = copy.deepcopy(policy)
    rough.model.bfloat16()
    exact = copy.deepcopy(rough)
    exact.model.float()
    batches = scored(rough, responses)
    measured = rounding_share(Updater(rough, Config(**ERC)), batches)

    generator = torch.Generator().manual_seed(0)
    true_old = [exact.score(item.batch) for item in batches]
    for mine, wide in zip(rough.model.parameters(), exact.model.parameters(), strict=True):
        mine.mul_(1 + 1e-3 * torch.randn(mine.shape, generator=generator))
        wide.copy_(mine)

    def outside(item: ScoredBatch, scorer, old):
        mask = item.batch.mask
        return ~(
            (entropy_ratio(scorer.score(item.batch).entropies, old.entropies) - 1).abs() < 0.05
        )[mask]

    seen = torch.cat([outside(item, rough, item.old) for item in batches])
    true = torch.cat(
        [outside(item, exact, old) for item, old in zip(batches, true_old, strict=True)]
    )
    false = (seen & ~true).double().mean().item()
    assert false > 0.05
    assert 0.5 * false < measured < 2 * false


def test_a_run_measures_without_changing_a_number(tmp_path, monkeypatch):
    """Drawing a random mask for the measurement does not move what training draws."""
    settings = [
        'loss.constraints=[{kind="entropy_ratio_clip"},{kind="random_mask",rate=0.1}]',
        "trainer.rollouts=1",
        "model.dtype=bfloat16",
    ]
    with_it = train(tmp_path / "with", *settings)
    monkeypatch.setattr("erclip.training.rounding.due", lambda rollout: False)
    without = train(tmp_path / "without", *settings)

    def timeless(rows):
        dropped = ("time", "erc/rounding")
        return [{k: v for k, v in row.items() if not k.startswith(dropped)} for row in rows]

    assert timeless(with_it) == timeless(without)
    (rollout,) = (row for row in with_it if row["kind"] == "rollout")
    assert rollout["erc/noise_frac"] == 0.0
    assert rollout["erc/rounding_frac"] > 0.05
