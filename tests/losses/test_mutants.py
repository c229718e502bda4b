"""Each of these one-line bugs must be caught by the branch table: the table guards the losses."""

from __future__ import annotations

import types
from pathlib import Path

import pytest

import erclip.losses.constraints
import erclip.losses.importance
import erclip.losses.policy
import erclip.losses.surrogates
from losses import branches, test_branches

SURROGATES, CONSTRAINTS, IMPORTANCE, POLICY = (
    erclip.losses.surrogates,
    erclip.losses.constraints,
    erclip.losses.importance,
    erclip.losses.policy,
)

MUTANTS = [
    (SURROGATES, "ratio < 1 - low)\n    ppo_high", "ratio < 1 + low)\n    ppo_high"),
    (SURROGATES, "(advantages < 0) & (ratio < 1 - low)", "(ratio < 1 - low)"),
    (SURROGATES, "(advantages > 0) & (ratio > 1 + high)", "(ratio > 1 + high)"),
    (SURROGATES, "(advantages > 0) & (ratio > 1 + high)", "(advantages > 0) & (ratio > 1 + low)"),
    (SURROGATES, "_held(ratio, 1 - low, gradient_low)", "_held(ratio, 1 - low, gradient_high)"),
    (SURROGATES, "_held(ratio, 1 + high, gradient_high)", "_held(ratio, 1 + high, 0.0)"),
    (SURROGATES, "_held(ratio, 1 + high, gradient_high)", "_held(ratio, 1 - low, gradient_high)"),
    (SURROGATES, "gradient * bound * (ratio", "gradient * (ratio"),
    (SURROGATES, "(inputs.advantages < 0) & (inputs.ratio > dual)", "(inputs.ratio > dual)"),
    (SURROGATES, "dual * inputs.advantages, out", "dual * inputs.ratio, out"),
    (SURROGATES, "beta_low=1.0, beta_high=1.0", "beta_low=0.0, beta_high=1.0"),
    (SURROGATES, "ratio = inputs.ratio.detach()", "ratio = inputs.ratio"),
    (SURROGATES, "weight * inputs.advantages * inputs.logprobs", "weight * inputs.logprobs"),
    (SURROGATES, "4 / tau *", "4 *"),
    (
        SURROGATES,
        "torch.where(inputs.advantages > 0, tau_p",
        "torch.where(inputs.advantages < 0, tau_p",
    ),
    (CONSTRAINTS, "~(rho > 1 - low)", "~(rho >= 1 - low)"),
    (CONSTRAINTS, "~(rho < 1 + high)", "~(rho <= 1 + high)"),
    (CONSTRAINTS, "~(rho < 1 + high)", "~(rho < 1 + low)"),
    (CONSTRAINTS, "(entropies + ENTROPY_FLOOR)", "entropies"),
    (CONSTRAINTS, "erc_low & ~(entropy_gain >= 0)", "erc_low & ~(entropy_gain <= 0)"),
    (CONSTRAINTS, "erc_high & ~(entropy_gain <= 0)", "erc_high"),
    (CONSTRAINTS, "inputs.advantages * _slopes(inputs, rule)", "_slopes(inputs, rule)"),
    (CONSTRAINTS, "return -(inputs.logprobs.detach()", "return (inputs.logprobs.detach()"),
    (CONSTRAINTS, "logprobs.detach() + inputs.entropies)", "logprobs.detach())"),
    (CONSTRAINTS, "(1 - low - rho, rho - 1 - high)", "(1 - high - rho, rho - 1 - low)"),
    (CONSTRAINTS, "(-beyond / softness)", "(-beyond)"),
    (CONSTRAINTS, "torch.where(rho.isnan(), 0.0,", "torch.where(rho.isnan(), 1.0,"),
    (CONSTRAINTS, ".abs() < min_entropy_change", ".abs() > min_entropy_change"),
    (IMPORTANCE, ".clamp(max=cap)", ""),
    (IMPORTANCE, ".clamp(max=cap)", ".clamp(min=1 / cap, max=cap)"),
    (IMPORTANCE, "(ratio <= cap)", "(ratio > 0)"),
    (IMPORTANCE, "(ratio >= 1 / cap)", "(ratio > 0)"),
    (IMPORTANCE, "inputs.old_logprobs - inputs", "inputs.logprobs - inputs"),
    (IMPORTANCE, "inputs.old_logprobs - inputs", "inputs.old_logprobs + inputs"),
    (POLICY, "importance(inputs) * objective", "objective"),
    (
        POLICY,
        "return -torch.where(mask, objective, 0.0)",
        "return torch.where(mask, objective, 0.0)",
    ),
    (POLICY, "(logprobs - old_logprobs)", "(old_logprobs - logprobs)"),
    (POLICY, ".clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)", ""),
    (POLICY, "torch.where(hit, held, objective)", "torch.where(hit, 0.0, objective)"),
    (POLICY, "torch.where(hit, held, objective)", "objective"),
]


def mutate(module, before, after):
    """The module's namespace with one line changed."""
    source = Path(module.__file__).read_text(encoding="utf-8")
    assert source.count(before) >= 1, f"the mutant's line is gone: {before}"
    mutant = types.ModuleType(module.__name__)
    exec(compile(source.replace(before, after, 1), module.__file__, "exec"), mutant.__dict__)
    return mutant


def table_fails():
    """Whether any row of the table, or the clamp's own test, notices."""
    checks = [
        *((test_branches.test_surrogate, row) for row in branches.ROWS),
        *((test_branches.test_entropy_ratio_clip, row) for row in branches.ERC_ROWS),
        *((test_branches.test_importance, row) for row in branches.IMPORTANCE_ROWS),
        (lambda _: test_branches.test_log_ratio_is_clamped_at_20(), None),
    ]
    for check, row in checks:
        try:
            check(row)
        except AssertionError:
            return True
    return False


@pytest.mark.parametrize(("module", "before", "after"), MUTANTS, ids=lambda x: str(x)[:60])
def test_the_table_kills_every_mutant(module, before, after, monkeypatch):
    mutant = mutate(module, before, after)
    made = {**erclip.losses.__dict__, **{n: getattr(mutant, n) for n in dir(mutant) if n[0] != "_"}}
    factories = types.SimpleNamespace(**made)
    monkeypatch.setattr(test_branches, "SURROGATES", branches.surrogates(factories))
    monkeypatch.setattr(test_branches, "CONSTRAINTS", branches.constraints(factories))
    monkeypatch.setattr(test_branches, "IMPORTANCES", branches.importances(factories))
    monkeypatch.setattr(test_branches.erclip, "policy_loss", made["policy_loss"])
    assert table_fails(), "no row of the table notices this bug"


def test_the_unmutated_table_passes():
    assert not table_fails()
