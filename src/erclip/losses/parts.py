"""What a policy loss is composed of: frozen records that can be called, printed and compared.

A part is a dataclass with its settings as fields and its rule as `__call__`. Any callable with the
right signature will do in its place; these classes add what a trainer may want to know.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from erclip.losses.types import (
    ConstraintOutput,
    LossInputs,
    SurrogateOutput,
    Tokens,
)


class Part:
    """A piece of a policy loss. Its `repr` is how it is written."""

    @property
    def needs(self) -> frozenset[str]:
        """The optional fields of `LossInputs` that the rule reads; the loss refuses without them.

        A part whose `anchor` is the sampler needs the sampler's log-probs.
        """
        sampled = getattr(self, "anchor", "old") == "sampler"
        return frozenset({"sampler_logprobs"} if sampled else ())

    def __repr__(self) -> str:
        words = [f"{name}={value!r}" for name, value, shown in _settings(self) if shown]
        return f"{type(self).__name__}({', '.join(words)})"


class Surrogate(Part, ABC):
    """The objective of a token."""

    @abstractmethod
    def __call__(self, inputs: LossInputs) -> SurrogateOutput:
        """Objective per token, to be maximised, and where its bounds act."""


class Constraint(Part, ABC):
    """A rule that takes gradient away, whatever the surrogate wanted with it."""

    @abstractmethod
    def __call__(self, inputs: LossInputs) -> ConstraintOutput:
        """The tokens that lose their gradient, or the share that each keeps."""


class Importance(Part, ABC):
    """A weight for tokens that another policy drew."""

    @abstractmethod
    def __call__(self, inputs: LossInputs) -> Tokens:
        """The weight of each token; it carries no gradient."""


class Term(Part, ABC):
    """A cost that is added to the loss: weight · Σ_t cost_t / N.

    `weight` is a field of most terms, and 1 for those that have none; 0 only measures the cost.
    """

    @abstractmethod
    def __call__(self, inputs: LossInputs) -> Tokens:
        """The cost of each token, with gradient."""


class MiniBatchRule(ABC):
    """A part whose decision about a token rests on all tokens of the mini-batch.

    `measure` says what each token contributes, `summarise` turns the contributions of all of them
    into a few numbers, and the part finds these in `inputs.statistics` when it is called. The
    tokens come to `summarise` in an order of their own, so that its result does not depend on
    micro-batches, packing or processes.
    """

    @property
    def measures_current(self) -> bool:
        """Whether `measure` looks at the policy in training.

        If so, the trainer makes one more forward pass, without gradient, over the mini-batch.
        Otherwise `measure` cannot read `logprobs`, `ratio`, `entropies` or slopes.
        """
        return False

    @abstractmethod
    def measure(self, inputs: LossInputs) -> Mapping[str, Tokens]:
        """What each token contributes, by name; `inputs.clipped` holds the surrogate's flags."""

    @abstractmethod
    def summarise(
        self, values: Mapping[str, Float[Tensor, " N"]], previous: Mapping[str, float]
    ) -> Mapping[str, float]:
        """Numbers from the contributions (float64) of all N tokens; N may be 0.

        `previous` is what this returned for the mini-batch before, empty at first: a rule that
        adapts keeps its state there, and checkpoints keep it too.
        """


def name_of(part: Any) -> str:
    """What a part, or a function in its place, is called in messages and metrics."""
    return getattr(part, "__name__", type(part).__name__)


def needs_of(part: Any) -> frozenset[str]:
    """The optional inputs that a part reads; a plain function is taken to read none."""
    return getattr(part, "needs", frozenset())


def weight_of(term: Term) -> float:
    """What a term's cost is multiplied with."""
    return getattr(term, "weight", 1.0)


def _settings(part: Any) -> Iterator[tuple[str, Any, bool]]:
    """Name, value and whether it is worth printing: a switch that is off, or a word that is not
    said, is not.
    """
    for field in fields(part) if is_dataclass(part) else ():
        if not field.repr:
            continue
        value = getattr(part, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        number = isinstance(value, int | float) and not isinstance(value, bool) and value != 0
        yield field.name, value, number or value != default
