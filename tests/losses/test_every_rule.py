"""Every part keeps the promises of `check_loss`, and rules that break one are found out."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, dataclass, fields

import pytest
import torch

import erclip
from erclip import (
    Constraint,
    ConstraintOutput,
    MiniBatchRule,
    SurrogateOutput,
    policy_loss,
    ppo_clip,
    reinforce,
)
from erclip.losses.testing import check_loss, random_inputs

ROLES = (erclip.Surrogate, erclip.Constraint, erclip.Importance, erclip.Term)
EXAMPLES = [
    erclip.ppo_clip(),
    erclip.ppo_clip(0.1, 0.2, dual=1.5),
    erclip.ppo_clip(anchor="sampler"),
    erclip.gppo_clip(),
    erclip.gppo_clip(anchor="sampler"),
    erclip.ce_gppo_clip(),
    erclip.ce_gppo_clip(anchor="sampler"),
    erclip.cispo_clip(0.2, 0.3),
    erclip.cispo_clip(anchor="sampler"),
    erclip.gspo_clip(0.2, 0.2),
    erclip.gspo_clip(0.1, 0.1, anchor="sampler"),
    erclip.sapo(),
    erclip.sapo(anchor="sampler"),
    erclip.reinforce(),
    erclip.entropy_ratio_clip(),
    erclip.entropy_ratio_clip(rule="directional"),
    erclip.entropy_ratio_clip(rule="directional_sampled", min_entropy_change=0.01),
    erclip.entropy_ratio_clip(softness=0.1),
    erclip.random_mask(0.3),
    erclip.shuffled_erc(),
    erclip.shuffled_erc(0.02, rule="directional", match="gradient"),
    erclip.dppo_tv(0.05, 0.05),
    erclip.dppo_tv(0.05, 0.05, anchor="old"),
    erclip.sequence_mask(),
    erclip.sequence_mask("k2_max", high=0.1),
    erclip.sequence_mask("k3_mean", high=0.05, anchor="old"),
    erclip.top_entropy(),
    erclip.top_entropy(0.3, of="current"),
    erclip.dppo_kl(),
    erclip.dppo_kl(0.01, anchor="old"),
    erclip.ipo(),
    erclip.ipo(anchor="old"),
    erclip.kpop(0.1),
    erclip.kpop(0.1, anchor="old"),
    erclip.off_policy_sequence_mask(0.05),
    erclip.off_policy_sequence_mask(0.05, anchor="old"),
    erclip.m2po(),
    erclip.m2po(scope="all", anchor="old"),
    erclip.clip_cov(0.2, 0.1, 5.0),
    erclip.clip_b(1.0),
    erclip.clip_v(0.5, 0.1),
    erclip.spo(),
    erclip.spo(anchor="sampler"),
    erclip.drpo(0.1),
    erclip.drpo(0.1, anchor="old"),
    erclip.truncated_reinforce(1.5),
    erclip.truncated_reinforce(1.5, anchor="old"),
    erclip.dgpo(),
    erclip.dgpo(anchor="sampler"),
    erclip.aspo(),
    erclip.aspo(anchor="sampler"),
    erclip.gmpo(),
    erclip.gmpo(anchor="sampler"),
    erclip.vespo(),
    erclip.vespo(anchor="sampler"),
    erclip.bandpo(),
    erclip.bandpo("chi2", anchor="sampler"),
    erclip.bandpo("kl"),
    erclip.truncated_importance(1.1),
    erclip.truncated_importance(1.1, "sequence"),
    erclip.masked_importance(1.2),
    erclip.icepop(),
    erclip.log_ratio_penalty(0.1),
    erclip.log_ratio_penalty(0.1, anchor="old"),
    erclip.kl_cov(0.2),
    erclip.kl_cov(0.2, anchor="sampler"),
    erclip.adaptive_entropy(0.5, 0.1, 0.0, 1.0),
    erclip.adaptive_entropy(0.5, 0.1, 0.0, 1.0, of="current"),
    erclip.score_centering(),
    erclip.score_centering(0.5, cap=2.0),
    erclip.positive_nll(0.3),
    erclip.kl_penalty(0.3),
    erclip.kl_penalty(0.3, "k1"),
    erclip.kl_penalty(0.3, corrected=True),
    erclip.entropy_bonus(0.2),
]


def in_a_loss(part):
    """The part in its place, with the plainest of everything else."""
    if isinstance(part, erclip.Surrogate):
        return policy_loss(part)
    if isinstance(part, erclip.Constraint):
        return policy_loss(reinforce(), [part])
    if isinstance(part, erclip.Importance):
        return policy_loss(reinforce(), importance=part)
    return policy_loss(reinforce(), terms=[part])


@pytest.fixture
def keeps_its_promises(request):
    """`check_loss`: the first draw with every shape and type checked, the others as users run."""

    def check(loss_fn):
        check_loss(loss_fn, seeds=[0])
        request.getfixturevalue("unchecked")
        check_loss(loss_fn, seeds=[1, 2, 3])

    return check


@pytest.mark.parametrize("part", EXAMPLES, ids=repr)
def test_every_part_keeps_its_promises(part, keeps_its_promises):
    keeps_its_promises(in_a_loss(part))


def test_a_composition_of_them_does_too(keeps_its_promises):
    rules = [part for part in EXAMPLES if isinstance(part, erclip.Constraint)]
    terms = [part for part in EXAMPLES if isinstance(part, erclip.Term)]
    weight = erclip.truncated_importance(1.1)
    keeps_its_promises(policy_loss(ppo_clip(), rules, importance=weight, terms=terms))


def test_there_is_an_example_of_every_part():
    parts = {getattr(erclip, name) for name in erclip.__all__} - set(ROLES)
    parts = {part for part in parts if isinstance(part, type) and issubclass(part, ROLES)}
    assert parts == {type(example) for example in EXAMPLES}


def test_every_ratio_rule_says_what_it_is_measured_against():
    """Whatever reads the ratio has an anchor, and with the sampler's it reads nothing else."""
    one = torch.ones(1, 1)
    for part in EXAMPLES:
        if "anchor" in {field.name for field in fields(part)} and part.anchor == "sampler":
            assert "sampler_logprobs" in part.needs
            found = [
                in_a_loss(part)(
                    logprobs=0.7 * one,
                    old_logprobs=old * one,
                    sampler_logprobs=0 * one,
                    advantages=one,
                    mask=one.bool(),
                )
                for old in (0.0, 5.0)
            ]
            assert torch.equal(found[0].loss, found[1].loss), part
            assert [*found[0].clipped.values()] == [*found[1].clipped.values()]


# A part is a value --------------------------------------------------------------------------------


def test_a_loss_prints_as_it_is_written_and_compares_by_value():
    erc = erclip.entropy_ratio_clip(low=0.05, high=0.05, rule="directional")
    loss_fn = policy_loss(ppo_clip(low=0.2, high=0.28), [erc])
    assert repr(ppo_clip(low=0.2, high=0.28)) == "ppo_clip(low=0.2, high=0.28)"
    assert repr(erc) == "entropy_ratio_clip(low=0.05, high=0.05, rule='directional')"
    assert eval(repr(loss_fn), vars(erclip)) == loss_fn
    assert pickle.loads(pickle.dumps(loss_fn)) == loss_fn
    assert loss_fn == policy_loss(ppo_clip(0.2, 0.28), constraints=(erc,))
    assert loss_fn != policy_loss(ppo_clip(0.2, 0.3), [erc])
    assert len({loss_fn, policy_loss(ppo_clip(), [erc])}) == 1
    with pytest.raises(FrozenInstanceError):
        loss_fn.surrogate.low = 0.3


def test_a_loss_says_what_it_needs_and_what_it_reports():
    directional = erclip.entropy_ratio_clip(rule="directional")
    loss_fn = policy_loss(ppo_clip(dual=3.0), [directional, erclip.dppo_tv()])
    needs = {"entropies", "old_entropies", "entropy_slopes", "sampler_logprobs"}
    assert loss_fn.needs == needs
    assert policy_loss(ppo_clip(), [erclip.entropy_ratio_clip()]).needs < needs
    names = {"ppo_low", "ppo_high", "dual", "erc_low", "erc_high", "dppo_low", "dppo_high"}
    assert loss_fn.reports == names
    state = torch.get_rng_state()
    assert policy_loss(reinforce(), [erclip.random_mask(0.5)]).reports == {"random"}
    assert torch.equal(torch.get_rng_state(), state)


def test_flags_that_a_loss_does_not_have_are_false_everywhere():
    out = policy_loss(reinforce())(**few(random_inputs(0)))
    assert not out.clipped
    for name in ("ppo_low", "ppo_high", "dual", "erc_low", "erc_high", "random"):
        assert getattr(out, name).shape == out.ratio.shape
        assert not getattr(out, name).any()


def few(inputs):
    return {name: inputs[name] for name in ("logprobs", "old_logprobs", "advantages", "mask")}


# Functions in the place of parts ------------------------------------------------------------------


def test_a_plain_function_is_a_part_too():
    def above_average(inputs):
        return ConstraintOutput({"my_rule": inputs.ratio.detach() > 1.5})

    inputs = random_inputs(1)
    out = policy_loss(ppo_clip(), [above_average])(**few(inputs))
    assert torch.equal(out.clipped["my_rule"], inputs["mask"] & (out.ratio > 1.5))


def test_two_parts_under_one_name_are_one_rule():
    rules = [erclip.dppo_tv(0.05, 0.05), erclip.dppo_tv(0.5, 0.01)]
    inputs = random_inputs(2)
    flags = [policy_loss(reinforce(), [rule])(**inputs).clipped["dppo_high"] for rule in rules]
    both = policy_loss(reinforce(), rules)(**inputs).clipped["dppo_high"]
    assert torch.equal(both, flags[0] | flags[1])


def test_constraints_see_what_the_surrogate_clipped():
    seen = []

    def constraint(inputs):
        seen.append(dict(inputs.clipped))
        return ConstraintOutput({"again": inputs.clipped["ppo_high"]})

    out = policy_loss(ppo_clip(), [constraint, constraint])(**few(random_inputs(3)))
    assert torch.equal(out.clipped["again"], out.ppo_high)
    assert [set(flags) for flags in seen] == [{"ppo_low", "ppo_high"}] * 2


@pytest.mark.parametrize(
    ("loss_fn", "sentence"),
    [
        (policy_loss(lambda inputs: inputs.ratio), "returned Tensor, not a SurrogateOutput"),
        (
            policy_loss(reinforce(), [lambda inputs: inputs.mask]),
            "returned Tensor, not a ConstraintOutput",
        ),
        (
            policy_loss(reinforce(), [lambda i: ConstraintOutput({"a b": i.mask})]),
            "'a b' is no name for a rule",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_a_function_returns_is_checked(loss_fn, sentence):
    with pytest.raises(ValueError, match=sentence):
        loss_fn(**few(random_inputs(0)))


# Statistics of the mini-batch ---------------------------------------------------------------------


def test_a_part_of_a_mini_batch_is_refused_without_its_statistics():
    inputs = random_inputs(0)
    loss_fn = policy_loss(reinforce(), [erclip.top_entropy()])
    with pytest.raises(ValueError, match=r"pass statistics=loss_fn\.statistics"):
        loss_fn(**inputs, num_tokens=100)
    other = policy_loss(reinforce(), [erclip.top_entropy(0.9)]).statistics([inputs])
    with pytest.raises(ValueError, match="of another loss"):
        loss_fn(**inputs, num_tokens=100, statistics=other)
    with pytest.raises(ValueError, match="no micro-batch"):
        loss_fn.statistics([])
    with pytest.raises(ValueError, match="needs `old_entropies`"):
        loss_fn.statistics([few(inputs)])


def test_statistics_of_the_past_need_nothing_of_the_present():
    inputs = random_inputs(0)
    past = {k: v for k, v in inputs.items() if k not in ("logprobs", "entropies")}
    old = policy_loss(reinforce(), [erclip.top_entropy()])
    assert old.statistics([past]) == old.statistics([inputs])
    assert not old.measures_current
    current = policy_loss(reinforce(), [erclip.top_entropy(of="current")])
    assert current.measures_current
    with pytest.raises(ValueError, match="need `logprobs`"):
        current.statistics([past])


@dataclass(frozen=True)
class counting(Constraint, MiniBatchRule):
    """A rule that adapts: its state is the number of mini-batches that it has seen."""

    def measure(self, inputs):
        return {"advantage": inputs.advantages}

    def summarise(self, values, previous):
        return {"seen": previous.get("seen", 0) + 1, "tokens": len(values["advantage"])}

    def __call__(self, inputs):
        return ConstraintOutput({"third": inputs.mask & (inputs.statistics["seen"] == 3)})


def test_a_rule_that_adapts_gets_its_own_last_statistics():
    loss_fn, inputs = policy_loss(reinforce(), [counting()]), random_inputs(0)
    statistics, fired = None, []
    for _ in range(4):
        statistics = loss_fn.statistics([inputs], previous=statistics)
        fired.append(loss_fn(**inputs, statistics=statistics).clipped["third"].any().item())
    assert fired == [False, False, True, False]
    assert statistics == {"counting()": {"seen": 4, "tokens": inputs["mask"].sum()}}


@dataclass(frozen=True)
class a_few_by_lot(Constraint, MiniBatchRule):
    """Drops the two tokens of the mini-batch with the smallest lots."""

    @property
    def needs(self):
        return frozenset({"lots"})

    def measure(self, inputs):
        return {"lots": inputs.lots}

    def summarise(self, values, previous):
        lots = values["lots"]
        return {"last": lots.sort().values[min(1, len(lots) - 1)] if len(lots) else 0.0}

    def __call__(self, inputs):
        return ConstraintOutput({"few": inputs.lots <= inputs.statistics["last"]})


def test_a_choice_by_lot_over_the_mini_batch():
    loss_fn = policy_loss(reinforce(), [a_few_by_lot(), erclip.random_mask(0.5)])
    check_loss(loss_fn)
    inputs = random_inputs(0)
    out = loss_fn(**inputs)
    assert out.clipped["few"].sum() == 2
    without = {name: value for name, value in inputs.items() if name != "lots"}
    assert loss_fn(**without).clipped["few"].sum() == 2  # drawn for this call alone
    statistics = loss_fn.statistics([inputs])
    with pytest.raises(ValueError, match="a_few_by_lot needs `lots`"):
        loss_fn(**without, num_tokens=9, statistics=statistics)
    with pytest.raises(ValueError, match="a_few_by_lot needs `lots`"):
        loss_fn.statistics([without])


# Rules that break a promise -----------------------------------------------------------------------


def mean_of_the_call(inputs):
    """Depends on the cut into micro-batches."""
    return ConstraintOutput({"mine": inputs.old_logprobs < inputs.old_logprobs.mean()})


def neighbour(inputs):
    """Depends on the order of responses."""
    return ConstraintOutput({"mine": inputs.old_logprobs < inputs.old_logprobs.roll(1, 0)})


def padded(inputs):
    """Depends on the width of the batch."""
    return ConstraintOutput({"mine": inputs.old_logprobs.mean(-1, keepdim=True) < -0.4})


def unsaid(inputs):
    """Reads what it does not say."""
    none = inputs.sampler_logprobs is None
    return ConstraintOutput({"mine": inputs.mask if none else ~inputs.mask})


@dataclass(frozen=True)
class present(Constraint, MiniBatchRule):
    """Measures the current policy and does not say so."""

    def measure(self, inputs):
        return {"ratio": inputs.ratio}

    def summarise(self, values, previous):
        return {"mean": values["ratio"].mean()}

    def __call__(self, inputs):
        return ConstraintOutput({"mine": inputs.ratio > inputs.statistics["mean"]})


@dataclass(frozen=True)
class greedy(Constraint):
    """Says that it needs what it does without."""

    needs = frozenset({"sampler_logprobs"})

    def __call__(self, inputs):
        return ConstraintOutput({"mine": inputs.mask})


def broken(inputs):
    """A root at 0, whose slope is infinite."""
    return SurrogateOutput((inputs.ratio - inputs.ratio.detach()).abs().sqrt())


@pytest.mark.parametrize(
    ("loss_fn", "sentence"),
    [
        (policy_loss(reinforce(), [mean_of_the_call]), "add up"),
        (policy_loss(reinforce(), [neighbour]), "order of responses"),
        (policy_loss(reinforce(), [padded]), "outside the mask"),
        (policy_loss(reinforce(), [unsaid]), "reads more than its `needs`"),
        (policy_loss(broken), "not finite"),
    ],
)
def test_a_rule_that_breaks_a_promise_is_found_out(loss_fn, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_loss(loss_fn)


def test_a_rule_that_hides_what_it_measures_is_refused():
    with pytest.raises(ValueError, match="measures_current"):
        check_loss(policy_loss(reinforce(), [present()]))


def test_a_need_that_is_enforced_is_no_lie():
    check_loss(policy_loss(reinforce(), [greedy()]))
