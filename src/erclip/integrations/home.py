"""What every adapter does alike: a recipe's `loss` section → a loss that its trainer can feed.

A trainer that is not ours has some of a loss's inputs and not others, and names of its own for some
keys of the section. Both are told here; what it cannot do is refused before anything is sampled.
Letters: B responses (rows), T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from erclip.config.loss import LossConfig, build_loss
from erclip.errors import UserError
from erclip.losses import LossOutput, policy_loss
from erclip.losses.types import Flags, Tokens
from erclip.runs.metrics import token_sums

MEASURES = ("nothing", "old", "current")
"""Whose numbers of a whole mini-batch a trainer can collect before the first backward pass."""


@dataclass(frozen=True)
class Home:
    """A trainer, as a loss sees it.

    `given` are the optional inputs of a loss that it has; `elsewhere` maps keys of the section that
    are its own business to the end of the sentence that refuses them; `measures` is one of
    `MEASURES`; `section` is what its users call the loss section.
    """

    name: str
    given: frozenset[str]
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    measures: str = "nothing"
    section: str = "loss"

    def read(self, section: Mapping[str, Any]) -> policy_loss:
        """The composition that a loss section describes; UserError names the key that is wrong.

        >>> home = Home("a trainer", given=frozenset())
        >>> home.read({"surrogate": {"kind": "gppo_clip", "low": 0.2, "high": 0.2}})
        policy_loss(surrogate=gppo_clip(low=0.2, high=0.2))
        >>> home.read({"constraints": ["entropy_ratio_clip"]})
        Traceback (most recent call last):
        erclip.errors.UserError: loss: entropy_ratio_clip(low=0.05, high=0.05) needs entropies, \
old_entropies, which a trainer does not have.
        """
        try:
            config = LossConfig.model_validate(dict(section))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in (self.section, *first["loc"]))
            message = first["msg"].removeprefix("Value error, ")
            raise UserError(f"{key} = {first['input']!r}: {message}.") from None
        return self.build(config)

    def build(self, config: LossConfig) -> policy_loss:
        """The composition, unless this trainer cannot serve it."""
        for key, why in self.elsewhere.items():
            value, default = getattr(config, key), LossConfig.model_fields[key].default
            if value != default:
                raise UserError(f"{self.section}.{key} {why}; leave it at {default!r}.")
        loss_fn = build_loss(config)
        for part in loss_fn.parts:
            missing = sorted(set(getattr(part, "needs", ())) - self.given)
            if missing:
                raise UserError(
                    f"{self.section}: {part!r} needs {', '.join(missing)}, which {self.name} does "
                    "not have."
                )
        if loss_fn.mini_batch_rules and self.measures == "nothing":
            raise UserError(
                f"{self.section}: {loss_fn.mini_batch_rules[0]!r} rests on the whole mini-batch, "
                f"of which {self.name} shows one part at a time; use a rule for single tokens."
            )
        if loss_fn.measures_current and self.measures == "old":
            raise UserError(
                f"{self.section}: {loss_fn!r} measures the policy in training, for which "
                f"{self.name} makes no forward pass; use a rule that measures the old one."
            )
        return loss_fn


def token_means(out: LossOutput, mask: Flags, entropies: Tokens | None = None) -> dict[str, Tensor]:
    """Each metric of `erclip.runs.metrics` over the tokens of one call, for trainers that average.

    An empty mask gives zeros.
    """
    count = mask.sum().clamp(min=1)
    return {name: value / count for name, value in token_sums(out, entropies, mask).items()}
