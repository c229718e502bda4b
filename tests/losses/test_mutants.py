"""Each of these one-line bugs must be caught by the branch table: the table guards the losses."""

from __future__ import annotations

import types
from pathlib import Path

import pytest

import erclip.losses.constraints
import erclip.losses.importance
import erclip.losses.inputs
import erclip.losses.policy
import erclip.losses.selection
import erclip.losses.sequences
import erclip.losses.surrogates
import erclip.losses.trust_region
from losses import branches, test_branches

SURROGATES, CONSTRAINTS, IMPORTANCE, INPUTS, POLICY, REGION, SEQUENCES, SELECTION = (
    erclip.losses.surrogates,
    erclip.losses.constraints,
    erclip.losses.importance,
    erclip.losses.inputs,
    erclip.losses.policy,
    erclip.losses.trust_region,
    erclip.losses.sequences,
    erclip.losses.selection,
)

MUTANTS = [
    (SURROGATES, "ratio < 1 - low)\n    ppo_high", "ratio < 1 + low)\n    ppo_high"),
    (SURROGATES, "(advantages < 0) & (ratio < 1 - low)", "(ratio < 1 - low)"),
    (SURROGATES, "(advantages > 0) & (ratio > 1 + high)", "(ratio > 1 + high)"),
    (SURROGATES, "(advantages > 0) & (ratio > 1 + high)", "(advantages > 0) & (ratio > 1 + low)"),
    (SURROGATES, "_held(ratio, 1 - low, keep[0])", "_held(ratio, 1 - low, keep[1])"),
    (SURROGATES, "_held(ratio, 1 + high, keep[1])", "_held(ratio, 1 + high, 0.0)"),
    (SURROGATES, "_held(ratio, 1 + high, keep[1])", "_held(ratio, 1 - low, keep[1])"),
    (SURROGATES, "gradient * bound * (ratio", "gradient * (ratio"),
    (SURROGATES, "(advantages < 0) & (ratio > dual)", "(ratio > dual)"),
    (SURROGATES, "dual * advantages, obj", "dual * ratio, obj"),
    (SURROGATES, "keep=(1.0, 1.0)", "keep=(0.0, 1.0)"),
    (SURROGATES, "ratio_to(inputs, self.anchor).detach()", "ratio_to(inputs, self.anchor)"),
    (SURROGATES, "weight * inputs.advantages * inputs.logprobs", "weight * inputs.logprobs"),
    (SURROGATES, "4 / tau *", "4 *"),
    (
        SURROGATES,
        "torch.where(inputs.advantages > 0, self.tau_p",
        "torch.where(inputs.advantages < 0, self.tau_p",
    ),
    (CONSTRAINTS, "~(rho > 1 - self.low)", "~(rho >= 1 - self.low)"),
    (CONSTRAINTS, "~(rho < 1 + self.high)", "~(rho <= 1 + self.high)"),
    (CONSTRAINTS, "~(rho < 1 + self.high)", "~(rho < 1 + self.low)"),
    (CONSTRAINTS, "(entropies + ENTROPY_FLOOR)", "entropies"),
    (CONSTRAINTS, "erc_low & ~(entropy_gain >= 0)", "erc_low & ~(entropy_gain <= 0)"),
    (CONSTRAINTS, "erc_high & ~(entropy_gain <= 0)", "erc_high"),
    (CONSTRAINTS, "inputs.advantages * self._slopes(inputs)", "self._slopes(inputs)"),
    (CONSTRAINTS, "return -(inputs.logprobs.detach()", "return (inputs.logprobs.detach()"),
    (CONSTRAINTS, "logprobs.detach() + inputs.entropies)", "logprobs.detach())"),
    (
        CONSTRAINTS,
        "1 - self.low - rho, rho - 1 - self.high",
        "1 - self.high - rho, rho - 1 - self.low",
    ),
    (CONSTRAINTS, "(-beyond / self.softness)", "(-beyond)"),
    (CONSTRAINTS, "torch.where(rho.isnan(), 0.0,", "torch.where(rho.isnan(), 1.0,"),
    (CONSTRAINTS, ".abs() < self.min_entropy_change", ".abs() > self.min_entropy_change"),
    (IMPORTANCE, ".clamp(max=self.cap)", ""),
    (IMPORTANCE, ".clamp(max=self.cap)", ".clamp(min=1 / self.cap, max=self.cap)"),
    (IMPORTANCE, "(ratio <= self.cap)", "(ratio > 0)"),
    (IMPORTANCE, "(ratio >= 1 / self.cap)", "(ratio > 0)"),
    (IMPORTANCE, "inputs.old_logprobs - inputs", "inputs.logprobs - inputs"),
    (IMPORTANCE, "inputs.old_logprobs - inputs", "inputs.old_logprobs + inputs"),
    (POLICY, "weights[name_of(self.importance)] * objective", "objective"),
    (
        POLICY,
        "return -torch.where(mask, objective, 0.0)",
        "return torch.where(mask, objective, 0.0)",
    ),
    (INPUTS, "(logprobs - old_logprobs)", "(old_logprobs - logprobs)"),
    (INPUTS, ".clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)", ""),
    (POLICY, ".values()), constant, objective)", ".values()), 0.0, objective)"),
    (POLICY, ".values()), constant, objective)", ".values()), objective, objective)"),
    (POLICY, "constant + functools", "functools"),
    (REGION, "inputs.advantages > 0", "inputs.advantages >= 0"),
    (REGION, "~rising & low", "low"),
    (REGION, "rising & high", "high"),
    (REGION, "moved < -self.low", "moved < -self.high"),
    (REGION, "moved > self.high", "moved > self.low"),
    (REGION, "logprobs.detach().exp() - ", "logprobs.detach() - "),
    (REGION, "anchor_logprobs(inputs, anchor)", "inputs.old_logprobs"),
    (SEQUENCES, "number < lowest", "number < highest"),
    (SEQUENCES, "~(number <= highest)", "number > 2 * highest"),
    (SEQUENCES, "row_mean(gap, inputs.mask).exp()", "row_mean(gap.exp(), inputs.mask)"),
    (SEQUENCES, "gap**2 / 2", "gap**2"),
    (SEQUENCES, "row_max(gap", "row_mean(gap"),
    (SEQUENCES, "gap.exp() - 1 - gap", "(-gap).exp() - 1 + gap"),
    (SEQUENCES, "log_ratio(inputs, self.anchor)", "log_ratio(inputs)"),
    (SELECTION, 'inputs.statistics["threshold"]', "0.0"),
    (SELECTION, "self._entropies(inputs) < ", "self._entropies(inputs) > "),
    (SELECTION, "self._entropies(inputs) < ", "self._entropies(inputs) <= "),
    (SELECTION, "math.ceil(", "math.floor("),
    (SELECTION, "inputs.entropies if self", "inputs.old_entropies if self"),
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
        *((test_branches.test_rules, row) for row in branches.RULE_ROWS),
        (lambda _: test_branches.test_log_ratio_is_clamped_at_20(), None),
    ]
    for check, row in checks:
        try:
            check(row)
        except AssertionError:
            return True
    return False


@pytest.mark.usefixtures("unchecked")  # the table itself runs with its shapes checked
@pytest.mark.parametrize(("module", "before", "after"), MUTANTS, ids=lambda x: str(x)[:60])
def test_the_table_kills_every_mutant(module, before, after, monkeypatch):
    mutant = mutate(module, before, after)
    made = {**erclip.losses.__dict__, **{n: getattr(mutant, n) for n in dir(mutant) if n[0] != "_"}}
    factories = types.SimpleNamespace(**made)
    monkeypatch.setattr(test_branches, "SURROGATES", branches.surrogates(factories))
    monkeypatch.setattr(test_branches, "CONSTRAINTS", branches.constraints(factories))
    monkeypatch.setattr(test_branches, "IMPORTANCES", branches.importances(factories))
    monkeypatch.setattr(test_branches, "RULES", branches.rules(factories))
    monkeypatch.setattr(test_branches.erclip, "policy_loss", made["policy_loss"])
    if module is INPUTS:
        monkeypatch.setattr(POLICY, "prepare", mutant.prepare)
    assert table_fails(), "no row of the table notices this bug"


def test_the_unmutated_table_passes():
    assert not table_fails()
