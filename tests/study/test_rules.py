"""studies/own_rules.py: the quarters part the tokens, and every part keeps a rule's promises."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from erclip.config.rules import find_factory
from erclip.losses import policy_loss, ppo_clip
from erclip.losses.testing import check_loss

FILE = Path(__file__).parents[2] / "studies" / "own_rules.py"
RULES = {name: find_factory(f"{FILE}:{name}") for name in ("quarter", "sharpening")}
QUARTERS = list(itertools.product(("positive", "negative"), ("up", "down")))


@pytest.mark.parametrize(("advantage", "entropy"), QUARTERS)
def test_a_quarter_keeps_every_promise(advantage, entropy):
    check_loss(policy_loss(ppo_clip(), constraints=[RULES["quarter"](advantage, entropy, 0.5)]))


def test_sharpening_keeps_every_promise():
    check_loss(policy_loss(ppo_clip(), terms=[RULES["sharpening"]()]))


def test_each_token_is_in_one_quarter():
    generator = torch.Generator().manual_seed(0)
    slopes, advantages = torch.randn(2, 6, 5, generator=generator)
    logprobs = -torch.rand(6, 5, generator=generator)
    mask = torch.ones(6, 5).bool()
    found = []
    for advantage, entropy in QUARTERS:
        loss_fn = policy_loss(ppo_clip(), constraints=[RULES["quarter"](advantage, entropy)])
        out = loss_fn(
            logprobs=logprobs,
            old_logprobs=logprobs,
            advantages=advantages,
            mask=mask,
            entropies=-logprobs,
            entropy_slopes=slopes,
        )
        found.append(out.flags("quarter"))
        gain = advantages * slopes
        assert ((advantages > 0) == (advantage == "positive"))[found[-1]].all()
        assert ((gain > 0) == (entropy == "up"))[found[-1]].all()
        assert (out.weights["quarter"][found[-1]] == 0).all()
    assert (torch.stack(found).sum(0) == 1).all()


def test_sharpening_lowers_the_entropy():
    """The op's gradient of it is the entropy's own; here a stand-in that shows the sign."""
    entropies = torch.ones(1, 3, requires_grad=True)
    zero, mask = torch.zeros(1, 3), torch.ones(1, 3).bool()
    loss_fn = policy_loss(ppo_clip(), terms=[RULES["sharpening"](weight=0.3)])
    out = loss_fn(
        logprobs=zero,
        old_logprobs=zero,
        advantages=zero,
        mask=mask,
        entropies=entropies,
    )
    out.loss.backward()
    assert entropies.grad is not None
    torch.testing.assert_close(entropies.grad, torch.full((1, 3), 0.1))
