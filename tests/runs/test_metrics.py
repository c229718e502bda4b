"""Numbers of metrics.jsonl against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from erclip.runs.metrics import METRICS, Pool, sampler_mismatch, sampler_sums, staleness


def test_sampler_mismatch_by_hand():
    """w = 2, 1/2, 1, 1: Σw = 4.5, Σw² = 6.25, quantiles of the sorted (0.5, 1, 1, 2)."""
    found = sampler_mismatch(torch.tensor([math.log(2), -math.log(2), 0.0, 0.0]))
    expected = {
        "sampler/logprob_diff": math.log(2) / 2,
        "sampler/kl": 0.125,  # the logarithms cancel
        "sampler/chi2": (1 + 0.25) / 4,
        "sampler/ratio_mean": 1.125,
        "sampler/ratio_q01": 0.5 + 0.03 * 0.5,
        "sampler/ratio_q99": 1 + 0.97 * 1,
        "sampler/ratio_max": 2.0,
        "sampler/effective_frac": 4.5**2 / (4 * 6.25),
    }
    assert found == {name: pytest.approx(value, abs=1e-7) for name, value in expected.items()}
    assert set(found) <= set(METRICS)


def test_staleness_of_pooled_sums_is_that_of_the_tokens():
    """The same four w over two micro-batches, one position masked and NaN."""
    log_w = torch.tensor([[math.log(2), -math.log(2), math.nan], [0.0, 0.0, math.nan]])
    mask = ~log_w.isnan()
    pool = Pool()
    for row, own in zip(log_w, mask, strict=True):
        pool.add(sampler_sums(row[None], torch.zeros(1, 3), own[None]), int(own.sum()))
    found = staleness(pool.means())
    whole = sampler_mismatch(log_w[mask])
    for name in ("kl", "chi2", "effective_frac"):
        assert found[f"staleness/{name}"] == pytest.approx(whole[f"sampler/{name}"], abs=1e-7)
    assert staleness({"w": 0.0, "w²": 0.0}) == {
        "staleness/chi2": 0.0,
        "staleness/effective_frac": 0.0,
    }


def test_chi2_is_that_of_two_known_distributions():
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.5, 0.3])
    drawn = torch.multinomial(p, 200_000, True, generator=torch.Generator().manual_seed(0))
    found = sampler_mismatch((q.log() - p.log())[drawn])
    assert found["sampler/chi2"] == pytest.approx((q**2 / p).sum().item() - 1, abs=0.01)


def test_kl_estimate_is_that_of_two_known_distributions():
    """Tokens drawn from p: the mean of w − 1 − log w goes to Σ p log(p/q)."""
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.5, 0.3])
    drawn = torch.multinomial(p, 200_000, True, generator=torch.Generator().manual_seed(0))
    found = sampler_mismatch((q.log() - p.log())[drawn])
    assert found["sampler/kl"] == pytest.approx((p * (p / q).log()).sum().item(), abs=0.01)
    assert found["sampler/ratio_mean"] == pytest.approx(1.0, abs=0.01)
