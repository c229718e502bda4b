"""ERCConfig: TRL's `GRPOConfig` plus the sections `loss`, `dynamic_sampling` and `overlong`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from trl import GRPOConfig

from erclip.config import LossConfig
from erclip.config.data import OverlongConfig
from erclip.config.loss import keep_erc
from erclip.config.sampling import DynamicSampling, OversampleDynamicSampling
from erclip.config.section import Section
from erclip.errors import UserError
from erclip.integrations.trl.replaced import refuse_replaced
from erclip.losses import policy_loss
from erclip.losses.parts import name_of, needs_of
from erclip.training.updates import build_loss

GIVEN = frozenset(
    {"entropies", "old_entropies", "live_entropies", "entropy_slopes", "lots"}
    | {"sampler_logprobs", "reference_logprobs"}
)
"""Optional inputs of a loss that an `ERCTrainer` can give."""

NO_VERDICTS = "needs verdicts, and TRL's reward functions return numbers"
MISSING = {"correct": NO_VERDICTS}
"""Inputs that it cannot give, and why."""

ELSEWHERE = {
    "mask_truncated": "is mask_truncated_completions in TRL",
    "positive_nll": NO_VERDICTS,
}
"""What a recipe's loss can have and an `ERCTrainer` cannot, or has under another name."""


class _Sections(Section):
    """What an `ERCConfig` adds, validated like a recipe."""

    loss: LossConfig
    dynamic_sampling: DynamicSampling
    overlong: OverlongConfig | None


def _erc_dapo() -> dict[str, Any]:
    return LossConfig.model_validate(keep_erc({})).model_dump(mode="json")


@dataclass
class ERCConfig(GRPOConfig):
    """`GRPOConfig` whose policy loss is the `loss` section of a recipe (ERC-DAPO if not given).

    A table that names no `constraints` keeps ERC; `constraints = []` is a loss without. A
    `LossConfig`, as of a recipe, is taken as it is. `beta` stands for `loss.kl`, with
    TRL's `use_bias_correction_kl` as its `corrected`.

    The three sections hold plain tables after construction, so that the arguments can be logged
    and saved as JSON; `sections()` gives them as typed records.

    Raises UserError for a TRL setting that has no effect here, for an unknown or ill-typed key, and
    for ERC where every update is on-policy: with one update per generation each ratio is exactly 1.
    """

    _VALID_DICT_FIELDS = [  # noqa: RUF012, transformers' way to read a JSON table from a command line
        *GRPOConfig._VALID_DICT_FIELDS,
        "loss",
        "dynamic_sampling",
        "overlong",
    ]

    disable_dropout: bool = field(
        default=True,
        metadata={"help": "Dropout makes old and new log-probs differ at equal weights."},
    )
    loss: dict[str, Any] | str | None = field(
        default_factory=_erc_dapo,
        metadata={"help": "The `loss` section of a recipe: surrogate and constraints."},
    )
    dynamic_sampling: dict[str, Any] | str | None = field(
        default="off",
        metadata={"help": "off, drop, refill or oversample; or a table with that `kind`."},
    )
    overlong: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Soft overlong punishment: a table with max_length and cache."},
    )

    def __post_init__(self) -> None:
        """Validate what transformers and TRL cannot know about."""
        super().__post_init__()
        refuse_replaced(self, GRPOConfig.__dataclass_fields__)
        sections = self.sections()
        for name in ("loss", "dynamic_sampling", "overlong"):
            section = getattr(sections, name)
            setattr(self, name, section and section.model_dump(mode="json"))
        _refuse_elsewhere(sections.loss)
        self._refuse_a_second_weight(sections.loss)
        _refuse_idle_overlong(sections.overlong, self.max_completion_length)
        loss_fn = build_loss(sections.loss)
        self._refuse_inert_erc(loss_fn)
        self._refuse_what_cannot_be_given(loss_fn)
        self._refuse_idle_oversampling(sections.dynamic_sampling)

    def sections(self) -> _Sections:
        """The added sections as typed, frozen records."""
        given = {
            "loss": self._loss(),
            "dynamic_sampling": self.dynamic_sampling,
            "overlong": self.overlong,
        }
        try:
            return _Sections.model_validate(given)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            raise UserError(f"{key} = {first['input']!r}: {message}.") from None

    def _loss(self) -> Any:
        """The loss with what a table leaves to the defaults of this home: ERC, and `beta`."""
        table: Any = {} if self.loss is None else self.loss
        if isinstance(table, LossConfig):
            table = table.model_dump(mode="json")
        if not isinstance(table, dict):
            return table
        table = keep_erc(table)
        if self.beta and not table.get("kl"):
            table["kl"] = {"weight": self.beta, "corrected": self.use_bias_correction_kl}
        return table

    def _refuse_a_second_weight(self, loss: LossConfig) -> None:
        weight = 0.0 if loss.kl is None else loss.kl.weight
        if self.beta not in (0.0, weight):
            raise UserError(
                f"beta = {self.beta} and loss.kl.weight = {weight} are the same weight; leave one "
                "of them out."
            )
        if loss.kl is not None and loss.kl.model is not None:
            raise UserError(
                f"loss.kl.model = {loss.kl.model!r}: TRL's reference is the model that the run "
                "began with; leave it out."
            )

    def _refuse_idle_oversampling(self, plan: DynamicSampling) -> None:
        prompts = self.generation_batch_size // self.num_generations
        if isinstance(plan, OversampleDynamicSampling) and round(prompts * (plan.factor - 1)) < 1:
            raise UserError(
                f"dynamic_sampling.factor = {plan.factor:g} adds no prompt to {prompts}; raise it, "
                "or use dynamic_sampling = 'drop'."
            )

    def _refuse_what_cannot_be_given(self, loss_fn: policy_loss) -> None:
        for part in loss_fn.parts:
            for name in sorted(needs_of(part) - GIVEN):
                why = MISSING.get(name, f"needs {name}, which an ERCTrainer does not have")
                raise UserError(f"loss: {name_of(part)} {why}; leave it out.")
        corrected = self.use_vllm and self.vllm_importance_sampling_correction
        if loss_fn.importance is not None and corrected:
            raise UserError(
                f"loss.importance = {name_of(loss_fn.importance)!r} and vllm_importance_sampling_"
                "correction would weigh every token twice; set vllm_importance_sampling_correction "
                "= False."
            )
        cut = self.steps_per_generation % self.gradient_accumulation_steps
        if loss_fn.mini_batch_rules and cut:
            raise UserError(
                f"steps_per_generation = {self.steps_per_generation} is no multiple of "
                f"gradient_accumulation_steps = {self.gradient_accumulation_steps}: an update "
                f"would span two generations, and {loss_fn.mini_batch_rules[0]!r} must see it all."
            )

    def _refuse_inert_erc(self, loss_fn: policy_loss) -> None:
        per_generation = self.steps_per_generation * self.num_iterations
        on_policy = self.gradient_accumulation_steps % per_generation == 0
        if on_policy and "erc_low" in loss_fn.reports:
            raise UserError(
                f"steps_per_generation = {self.steps_per_generation} with gradient_accumulation_"
                f"steps = {self.gradient_accumulation_steps} and num_iterations = "
                f"{self.num_iterations} updates once per generation, where every ratio is 1 and "
                "entropy_ratio_clip does nothing; set steps_per_generation = "
                f"{8 * self.gradient_accumulation_steps} (the paper's 8 updates), or "
                "loss.constraints = []."
            )


def _refuse_elsewhere(loss: LossConfig) -> None:
    """What of a recipe's loss belongs to other settings, or nowhere, here."""
    for name, why in ELSEWHERE.items():
        default = LossConfig.model_fields[name].default
        if getattr(loss, name) != default:
            raise UserError(f"loss.{name} {why}; leave it at {default!r}.")


def _refuse_idle_overlong(overlong: OverlongConfig | None, longest: int | None) -> None:
    if overlong and longest is not None and overlong.max_length - overlong.cache >= longest:
        raise UserError(
            f"overlong starts above {overlong.max_length - overlong.cache} tokens, which "
            f"max_completion_length = {longest} never exceeds; lower overlong.max_length."
        )
