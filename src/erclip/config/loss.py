"""surrogate × importance × constraints, plus terms: see `erclip.config.rules`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_serializer, model_validator

from erclip.config.rules import (
    ConstraintConfig,
    ImportanceConfig,
    Rule,
    SurrogateConfig,
    TermConfig,
    read_rule,
)
from erclip.config.section import NonNegative, Section, to_tuple

if TYPE_CHECKING:
    from erclip.losses import Term, policy_loss


class KlConfig(Section):
    """A penalty for leaving a reference model, token mean with the mini-batch's N."""

    weight: NonNegative = Field(description="factor of the penalty; 0 measures it alone")
    estimator: Literal["k1", "k2", "k3"] = Field(
        "k3", description="k3 is GRPO's; k1 and k2 have the gradient of KL(policy‖reference)"
    )
    model: str | None = Field(
        None, description="a folder or hub id; None = the weights that the run began with"
    )
    corrected: bool = Field(
        False, description="weigh it with π/π_old, so that its gradient is that of the policy's KL"
    )

    @model_serializer(mode="wrap")
    def _written(self, write: Callable[[KlConfig], dict[str, Any]]) -> dict[str, Any]:
        """A switch that is off is not written: runs that knew none read alike."""
        written = write(self)
        return written if self.corrected else {k: v for k, v in written.items() if k != "corrected"}


def _ppo_clip() -> Rule:
    return read_rule("Surrogate", "ppo_clip")


class LossConfig(Section):
    """surrogate × importance × constraints, and what is added to them."""

    surrogate: SurrogateConfig = Field(
        default_factory=_ppo_clip, description="the objective of a token"
    )
    constraints: Annotated[tuple[ConstraintConfig, ...], BeforeValidator(to_tuple)] = Field(
        (), description="rules that take gradient away from tokens"
    )
    importance: ImportanceConfig = Field(
        None, description="weight for tokens that an inference engine drew; None = 1"
    )
    positive_nll: NonNegative = Field(
        0.0, description="weight of the mean negative log-likelihood of correct responses"
    )
    kl: KlConfig | None = Field(None, description="KL penalty to a reference model; None = off")
    entropy_bonus: NonNegative = Field(0.0, description="weight of the mean entropy, to raise it")
    terms: Annotated[tuple[TermConfig, ...], BeforeValidator(to_tuple)] = Field(
        (), description="further costs that are added to the loss, each with a `weight`"
    )
    mask_truncated: bool = Field(
        False, description="DAPO's overlong filtering: cut responses teach nothing"
    )

    @model_validator(mode="after")
    def _bands_that_clip(self) -> LossConfig:
        for rule in self.constraints:
            if rule.kind == "entropy_ratio_clip":
                for side in ("low", "high"):
                    width = getattr(rule, side)
                    if 1 <= width < math.inf:
                        raise ValueError(
                            f"{side} = {width:g} of entropy_ratio_clip is a share, of which the "
                            f"paper takes 0.05 (5 %): at {width:g} hardly any is clipped on that "
                            "side; inf says so"
                        )
        return self

    @model_serializer(mode="wrap")
    def _written(self, write: Callable[[LossConfig], dict[str, Any]]) -> dict[str, Any]:
        """No terms, no word of them: the settings of runs that knew none read alike."""
        written = write(self)
        return written if self.terms else {k: v for k, v in written.items() if k != "terms"}


def build_loss(config: LossConfig) -> policy_loss:
    """The composition that a section describes; loads torch."""
    from erclip.losses import entropy_bonus, kl_penalty, policy_loss, positive_nll

    terms: list[Term] = [term.build() for term in config.terms]
    if config.positive_nll:
        terms.append(positive_nll(config.positive_nll))
    if config.entropy_bonus:
        terms.append(entropy_bonus(config.entropy_bonus))
    if config.kl is not None:
        kl = config.kl
        terms.append(kl_penalty(kl.weight, kl.estimator, corrected=kl.corrected))
    importance = config.importance
    return policy_loss(
        config.surrogate.build(),
        [constraint.build() for constraint in config.constraints],
        importance=None if importance is None else importance.build(),
        terms=terms,
    )


def keep_erc(table: dict[str, Any]) -> dict[str, Any]:
    """A `loss` table in another trainer, whose default is ERC: no word of constraints keeps it.

    >>> keep_erc({"surrogate": "gppo_clip"})
    {'constraints': ['entropy_ratio_clip'], 'surrogate': 'gppo_clip'}
    >>> keep_erc({"constraints": []})
    {'constraints': []}
    """
    return {"constraints": ["entropy_ratio_clip"], **table}
