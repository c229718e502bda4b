"""ERCConfig: TRL's `GRPOConfig` plus the sections `loss`, `dynamic_sampling` and `overlong`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from trl import GRPOConfig

from erclip.config import LossConfig
from erclip.config.data import OverlongConfig
from erclip.config.sampling import DynamicSampling, OversampleDynamicSampling
from erclip.config.section import Section
from erclip.errors import UserError
from erclip.losses import policy_loss
from erclip.training.updates import build_loss

REPLACED = (
    "beta",
    "cast_lm_head_to_fp32",
    "delta",
    "entropy_coef",
    "epsilon",
    "epsilon_high",
    "importance_sampling_level",
    "loss_type",
    "off_policy_mask_threshold",
    "sapo_temperature_neg",
    "sapo_temperature_pos",
    "sync_ref_model",
    "top_entropy_quantile",
    "use_adaptive_entropy",
    "use_bias_correction_kl",
    "use_liger_kernel",
    "vespo_k_neg",
    "vespo_k_pos",
    "vespo_lambda_neg",
    "vespo_lambda_pos",
)
"""TRL's settings of its own loss and head: they would have no effect, so they are refused."""

GIVEN = frozenset({"entropies", "old_entropies", "entropy_slopes", "sampler_logprobs", "lots"})
"""Optional inputs of a loss that an `ERCTrainer` can give."""

ELSEWHERE = {
    "entropy_bonus": "is not part of an ERCTrainer's loss",
    "importance": "is vllm_importance_sampling_correction in TRL",
    "kl": "needs a reference model, which an ERCTrainer does not keep",
    "mask_truncated": "is mask_truncated_completions in TRL",
    "positive_nll": "needs verdicts, and TRL's reward functions return numbers",
}
"""What a recipe's loss can have and an `ERCTrainer` cannot, or has under another name."""


class _Sections(Section):
    """What an `ERCConfig` adds, validated like a recipe."""

    loss: LossConfig
    dynamic_sampling: DynamicSampling
    overlong: OverlongConfig | None


def _erc_dapo() -> dict[str, Any]:
    return LossConfig.model_validate({"constraints": ["entropy_ratio_clip"]}).model_dump(
        mode="json"
    )


@dataclass
class ERCConfig(GRPOConfig):
    """`GRPOConfig` whose policy loss is the `loss` section of a recipe (ERC-DAPO if not given).

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
        self._refuse_replaced()
        sections = self.sections()
        for name in ("loss", "dynamic_sampling", "overlong"):
            section = getattr(sections, name)
            setattr(self, name, section and section.model_dump(mode="json"))
        _refuse_elsewhere(sections.loss)
        _refuse_idle_overlong(sections.overlong, self.max_completion_length)
        loss_fn = build_loss(sections.loss)
        self._refuse_inert_erc(loss_fn)
        self._refuse_what_cannot_be_given(loss_fn)
        self._refuse_idle_oversampling(sections.dynamic_sampling)

    def sections(self) -> _Sections:
        """The added sections as typed, frozen records."""
        given = {
            "loss": self.loss or {},
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

    def _refuse_replaced(self) -> None:
        for name in REPLACED:
            known = GRPOConfig.__dataclass_fields__.get(name)
            value = getattr(self, name, None)
            if known is not None and value != known.default:
                raise UserError(
                    f"{name} = {value!r} has no effect in an ERCTrainer, whose policy loss is its "
                    f"`loss` section and whose head is exact; leave it at {known.default!r}."
                )

    def _refuse_idle_oversampling(self, plan: DynamicSampling) -> None:
        prompts = self.generation_batch_size // self.num_generations
        if isinstance(plan, OversampleDynamicSampling) and round(prompts * (plan.factor - 1)) < 1:
            raise UserError(
                f"dynamic_sampling.factor = {plan.factor:g} adds no prompt to {prompts}; raise it, "
                "or use dynamic_sampling = 'drop'."
            )

    def _refuse_what_cannot_be_given(self, loss_fn: policy_loss) -> None:
        missing = sorted(loss_fn.needs - GIVEN)
        if missing:
            raise UserError(
                f"loss: {loss_fn!r} needs {', '.join(missing)}, which an ERCTrainer does not have."
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
                f"{8 * self.gradient_accumulation_steps} (the paper's 8 updates)."
            )


def _refuse_elsewhere(loss: LossConfig) -> None:
    """Whatever a recipe's loss can have beside rules and terms."""
    for name, known in LossConfig.model_fields.items():
        value = getattr(loss, name)
        if name not in ("surrogate", "constraints", "terms") and value != known.default:
            why = ELSEWHERE.get(name, "is unknown to an ERCTrainer")
            raise UserError(f"loss.{name} {why}; leave it at {known.default!r}.")


def _refuse_idle_overlong(overlong: OverlongConfig | None, longest: int | None) -> None:
    if overlong and longest is not None and overlong.max_length - overlong.cache >= longest:
        raise UserError(
            f"overlong starts above {overlong.max_length - overlong.cache} tokens, which "
            f"max_completion_length = {longest} never exceeds; lower overlong.max_length."
        )
