"""ERC off: TRL's own `dapo` loss and gradients."""

from __future__ import annotations

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from erclip.integrations.hf import head

from .conftest import NO_ERC, gradients, history, next_batches, nudge

STOCK = {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28, "beta": 0.0}


@pytest.mark.parametrize(
    "batches",
    [
        {"steps_per_generation": 4},
        {"steps_per_generation": 4, "gradient_accumulation_steps": 2, "num_iterations": 2},
    ],
    ids=["one pass", "accumulated, two passes"],
)
def test_a_run_has_stock_losses_and_gradients(make, batches):
    ours = make(loss=NO_ERC, max_steps=6, learning_rate=0.3, **batches)
    ours.train()
    stock = make(GRPOTrainer, GRPOConfig, max_steps=6, learning_rate=0.3, **STOCK, **batches)
    stock.train()
    assert history(ours, "reward") == history(stock, "reward")  # the same responses were drawn
    assert history(ours, "loss") == pytest.approx(history(stock, "loss"), abs=1e-6)
    assert len(gradients(ours)) == len(gradients(stock)) == 6
    assert max(history(ours, "clip/ppo_frac")) > 0
    for got, want in zip(gradients(ours), gradients(stock), strict=True):
        assert got.keys() == want.keys()
        for name in want:
            torch.testing.assert_close(got[name], want[name], rtol=0, atol=1e-6)


def test_the_loss_is_stock_bit_for_bit_on_the_same_log_probs(make, monkeypatch):
    """With TRL's head, so that only the losses differ: value and every gradient."""
    monkeypatch.setattr(head, "why_no_head", lambda _: "the test says so")
    with pytest.warns(UserWarning, match="the test says so"):
        ours = make(loss=NO_ERC)
    stock = make(GRPOTrainer, GRPOConfig, **STOCK)
    batches = next_batches(ours)
    nudge(ours.model)
    stock.model.load_state_dict(ours.model.state_dict())
    stock.model.train()
    stock.current_gradient_accumulation_steps = 1
    clipped = 0.0
    for batch in batches:
        got, want = ours._compute_loss(ours.model, batch), stock._compute_loss(stock.model, batch)
        clipped += ours._metrics["train"]["clip/ppo_frac"][-1]
        assert got.item() == want.item()
        got.backward()
        want.backward()
    assert clipped > 0
    for (name, a), (_, b) in zip(
        ours.model.named_parameters(), stock.model.named_parameters(), strict=True
    ):
        assert torch.equal(a.grad, b.grad), name
