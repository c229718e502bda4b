"""policy_loss: surrogate × importance × constraints × aggregation, plus terms, as one function."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from erclip.losses.constraints import entropy_ratio
from erclip.losses.inputs import TOP, check_needs, prepare
from erclip.losses.minibatch import alone, statistics_of, take_statistics
from erclip.losses.parts import MiniBatchRule, Part, Term, name_of, needs_of, weight_of
from erclip.losses.types import (
    Aggregate,
    ConstraintFn,
    ConstraintOutput,
    Flags,
    Gather,
    ImportanceFn,
    LossInputs,
    LossOutput,
    Statistics,
    SurrogateFn,
    SurrogateOutput,
    Tokens,
)

T = TypeVar("T")


def token_mean(objective: Tokens, mask: Flags, num_tokens: float | Tensor) -> Tensor:
    """−Σ objective / N with one N for the whole mini-batch, never a mean of micro-batch means.

    N counts all response tokens, clipped ones included (DAPO, 2503.14476).

    >>> token_mean(torch.tensor([[1.0, 2.0]]), torch.tensor([[True, True]]), 4).item()
    -0.75
    """
    return -torch.where(mask, objective, 0.0).sum() / num_tokens


@dataclass(frozen=True, repr=False)
class policy_loss(Part):
    """L = −Σ_t keep_t · w_t · surrogate_t / N + Σ_terms weight · Σ_t cost_t / N.

    Any surrogate under any constraints: they say keep, the share of its gradient that a token
    keeps. `importance` says w, the weight for tokens that another policy drew; without it w = 1.
    The result is a function of tensors, and a value: it can be printed, compared and pickled.

    >>> erc_gppo = policy_loss(gppo_clip(0.2, 0.2), constraints=[entropy_ratio_clip(0.05, 0.05)])
    >>> one = torch.ones(1, 2)
    >>> erc_gppo(logprobs=-one, old_logprobs=-one, advantages=one, mask=one.bool(),
    ...          entropies=one, old_entropies=one).loss.item()
    -1.0
    >>> erc_gppo
    policy_loss(surrogate=gppo_clip(low=0.2, high=0.2), \
constraints=(entropy_ratio_clip(low=0.05, high=0.05),))
    """

    surrogate: SurrogateFn
    constraints: Sequence[ConstraintFn] = ()
    aggregate: Aggregate = token_mean
    importance: ImportanceFn | None = None
    terms: Sequence[Term] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "constraints", tuple(self.constraints))
        object.__setattr__(self, "terms", tuple(self.terms))

    @functools.cached_property
    def parts(self) -> tuple[Any, ...]:
        """Everything that it is composed of, in the order in which it acts."""
        weight = () if self.importance is None else (self.importance,)
        return (self.surrogate, *weight, *self.constraints, *self.terms)

    @property
    def needs(self) -> frozenset[str]:
        """The optional inputs that its parts read; `live_entropies` are entropies with gradient."""
        return self._needs

    @functools.cached_property
    def _needs(self) -> frozenset[str]:  # to pyright a cached property is no attribute of a LossFn
        return frozenset().union(*map(needs_of, self.parts))

    @property
    def top(self) -> int:
        """How many of the sampler's likeliest tokens its parts look at, at each position."""
        asking = (part for part in self.parts if "sampler_top_logprobs" in needs_of(part))
        return max((getattr(part, "top", 128) for part in asking), default=0)

    @functools.cached_property
    def mini_batch_rules(self) -> tuple[MiniBatchRule, ...]:
        """The parts that need `statistics` of the whole mini-batch."""
        return tuple(part for part in self.parts if isinstance(part, MiniBatchRule))

    @property
    def measures_current(self) -> bool:
        """Whether these statistics cost a forward pass of the policy in training."""
        return any(rule.measures_current for rule in self.mini_batch_rules)

    @functools.cached_property
    def reports(self) -> frozenset[str]:
        """The names under which its parts report clipped tokens, from a call on one token."""
        one, live = torch.zeros(1, 1), torch.zeros(1, 1, requires_grad=True)
        optional: dict[str, Any] = dict.fromkeys(self.needs - {"correct", "live_entropies"}, one)
        optional |= dict.fromkeys(self.needs & {"entropies"}, live)
        optional |= dict.fromkeys(self.needs & TOP, live[..., None])
        with torch.random.fork_rng(devices=[]):
            out = self(
                logprobs=live,
                old_logprobs=one,
                advantages=one,
                mask=one == 0,
                correct=one == 0,
                **optional,
            )
        return frozenset(out.clipped)

    def __call__(
        self,
        *,
        logprobs: Float[Tensor, "B T"],
        old_logprobs: Float[Tensor, "B T"],
        advantages: Float[Tensor, "B T"] | Float[Tensor, "B 1"] | Float[Tensor, " B"],
        mask: Bool[Tensor, "B T"],
        entropies: Float[Tensor, "B T"] | None = None,
        old_entropies: Float[Tensor, "B T"] | None = None,
        entropy_slopes: Float[Tensor, "B T"] | None = None,
        entropy_slope_means: Float[Tensor, "B T"] | None = None,
        sampler_logprobs: Float[Tensor, "B T"] | None = None,
        top_logprobs: Float[Tensor, "B T K"] | None = None,
        sampler_top_logprobs: Float[Tensor, "B T K"] | None = None,
        reference_logprobs: Float[Tensor, "B T"] | None = None,
        correct: Bool[Tensor, "B T"] | Bool[Tensor, "B 1"] | Bool[Tensor, " B"] | None = None,
        lots: Float[Tensor, "B T"] | None = None,
        num_tokens: float | Tensor | None = None,
        statistics: Statistics | None = None,
    ) -> LossOutput:
        """Loss of one (micro-)batch; `num_tokens` is the mini-batch's count, None this batch's own.

        Losses and gradients of micro-batches that share `num_tokens` (and `statistics`, see there)
        add up to the mini-batch's. What lies outside `mask` is never read, NaN included. Raises
        ValueError for mismatched shapes, low-precision log-probs, and tensors that a part needs and
        does not get. Without `lots`, rules of chance draw from torch's generator; one that has been
        measured with lots has to see the same again.
        """
        inputs = prepare(
            logprobs=logprobs,
            old_logprobs=old_logprobs,
            advantages=advantages,
            mask=mask,
            entropies=entropies,
            correct=correct,
            live="live_entropies" in self.needs,
            old_entropies=old_entropies,
            entropy_slopes=entropy_slopes,
            entropy_slope_means=entropy_slope_means,
            sampler_logprobs=sampler_logprobs,
            top_logprobs=top_logprobs,
            sampler_top_logprobs=sampler_top_logprobs,
            reference_logprobs=reference_logprobs,
            lots=lots,
        )
        if lots is None and "lots" in self.needs:
            measured = any("lots" in needs_of(rule) for rule in self.mini_batch_rules)
            inputs = inputs if measured and statistics is not None else _drawn(inputs)
        for part in self.parts:
            check_needs(name_of(part), needs_of(part), inputs)
        if statistics is None and self.mini_batch_rules:
            if num_tokens is not None:
                raise ValueError(
                    f"{self!r} rests on the whole mini-batch, of which this is a part: pass "
                    "statistics=loss_fn.statistics(micro_batches), taken before its first "
                    "backward pass."
                )
            statistics = take_statistics(self.surrogate, self.mini_batch_rules, [inputs])
        denominator = mask.sum().clamp(min=1) if num_tokens is None else num_tokens
        return self._evaluate(inputs, statistics or {}, denominator)

    def statistics(
        self,
        micro_batches: Iterable[Mapping[str, Any]],
        gather: Gather = alone,
        previous: Statistics | None = None,
    ) -> Statistics:
        """What the parts have to know of a whole mini-batch, before its first backward pass.

        Each micro-batch holds the arguments of the loss by name; `logprobs` and what else belongs
        to the policy in training only if `measures_current`. `gather` concatenates a vector [N]
        over all processes, each of which has at least one micro-batch (its mask may be empty).
        `previous` are the statistics of the mini-batch before, for rules that adapt. The result is
        plain numbers, the same for every cut into micro-batches and processes.
        """
        parts = list(micro_batches)
        if self.measures_current and any(part.get("logprobs") is None for part in parts):
            raise ValueError(
                f"{self!r} measures the policy in training: its micro-batches need `logprobs`."
            )
        prepared = [prepare(**{"logprobs": part["old_logprobs"], **part}) for part in parts]
        return take_statistics(self.surrogate, self.mini_batch_rules, prepared, gather, previous)

    def _evaluate(
        self, inputs: LossInputs, statistics: Statistics, num_tokens: float | Tensor
    ) -> LossOutput:
        mask = inputs.mask
        out = _of(self.surrogate, inputs, statistics)
        objective, fired = _checked(out, SurrogateOutput, self.surrogate)
        clipped, weights, terms = _masked(fired, mask), {}, {}
        if self.importance is not None:
            weights = _shares(
                {name_of(self.importance): _of(self.importance, inputs, statistics)}, mask
            )
            objective = weights[name_of(self.importance)] * objective
        inputs = replace(inputs, clipped=dict(clipped))
        for constraint in self.constraints:
            out = _of(constraint, inputs, statistics)
            flags, shares = _checked(out, ConstraintOutput, constraint)
            flags, shares = _masked(flags, mask), _shares(shares, mask)
            objective = _held(objective, flags, shares)
            _merge(clipped, flags, operator.or_)
            _merge(weights, shares, operator.mul)
        loss = self.aggregate(objective, mask, num_tokens)
        for term in self.terms:
            cost = torch.where(mask, _of(term, inputs, statistics), 0.0)
            if weight_of(term) and inputs.logprobs.requires_grad and not cost.requires_grad:
                raise ValueError(
                    f"{name_of(term)} has a cost without gradient, which teaches nothing: make it "
                    "of logprobs, top_logprobs or live_entropies, or give it a weight of 0."
                )
            if weight_of(term):
                loss = loss + weight_of(term) * cost.sum() / num_tokens
            _merge(terms, {name_of(term): cost.detach()}, operator.add)
        return LossOutput(
            loss=loss,
            ratio=inputs.ratio.detach(),
            entropy_ratio=_entropy_ratio(inputs),
            clipped=clipped,
            weights=weights,
            terms=terms,
        )


def _of(part: Any, inputs: LossInputs, statistics: Statistics) -> Any:
    """What a part makes of the inputs; a rule over the mini-batch gets its own statistics."""
    own = statistics_of(part, statistics) if isinstance(part, MiniBatchRule) else None
    return part(inputs if own is None else replace(inputs, statistics=own))


def _drawn(inputs: LossInputs) -> LossInputs:
    """With lots from torch's generator."""
    lots = torch.rand(inputs.mask.shape, device=inputs.mask.device)
    return replace(inputs, lots=lots.to(inputs.logprobs.dtype))


def _held(objective: Tokens, flags: Mapping[str, Flags], shares: Mapping[str, Tokens]) -> Tokens:
    """The same values, with what gradient a constraint leaves them."""
    constant = objective.detach()
    if shares:
        return constant + functools.reduce(operator.mul, shares.values()) * (objective - constant)
    if flags:
        return torch.where(functools.reduce(operator.or_, flags.values()), constant, objective)
    return objective


def _merge(into: dict[str, Tensor], new: Mapping[str, Tensor], combine: Callable[..., Any]) -> None:
    """Two parts that report under one name are one rule to whoever reads the report."""
    for name, values in new.items():
        into[name] = combine(into[name], values) if name in into else values


def _masked(flags: Mapping[str, Tensor], mask: Flags) -> dict[str, Flags]:
    """Flags inside the mask; [B, 1] stands for whole responses."""
    for name in flags:
        if not name.isidentifier():
            raise ValueError(f"{name!r} is no name for a rule: letters, digits and _ only.")
    return {name: flag & mask for name, flag in flags.items()}


def _shares(weights: Mapping[str, Tensor], mask: Flags) -> dict[str, Tokens]:
    """Weights without gradient, 1 outside the mask."""
    return {name: torch.where(mask, weight.detach(), 1.0) for name, weight in weights.items()}


def _entropy_ratio(inputs: LossInputs) -> Tokens | None:
    if inputs.entropies is None or inputs.old_entropies is None:
        return None
    return entropy_ratio(inputs.entropies, inputs.old_entropies)


def _checked(out: Any, kind: type[T], part: Any) -> T:
    if not isinstance(out, kind):
        raise ValueError(f"{name_of(part)} returned {type(out).__name__}, not a {kind.__name__}.")
    return out
