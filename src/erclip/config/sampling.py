"""Who samples, and how much of it a rollout keeps."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from erclip.config.section import Count, CountOrZero, Positive, Section, by_kind


class SamplerSection(Section):
    """What every sampler is told."""

    max_tokens: Count = Field(1024, description="longest response, in tokens")
    max_prompt_tokens: Count = Field(4096, description="a longer prompt is an error, not cut")
    temperature: Positive = Field(1.0, description="also divides the logits of both scoring passes")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="nucleus; 1 = everything")
    batch_size: Count = Field(256, description="sequences decoded at once")


class TransformersSampler(SamplerSection):
    """Batched sampling through transformers with a key-value cache."""

    kind: Literal["transformers"] = "transformers"
    dtype: Literal["model", "bfloat16", "int8"] = Field(
        "model",
        description="what weights are rounded to while it samples, as an engine of lower precision "
        'has them; products stay in model.dtype. "model" = not at all',
    )


class VllmSection(SamplerSection):
    """What both ways to use vLLM are told."""

    @model_validator(mode="after")
    def _logprobs_are_the_policys(self) -> VllmSection:
        if self.temperature != 1 and self.top_p != 1:
            raise ValueError(
                f"temperature = {self.temperature:g} with top_p = {self.top_p:g}: vLLM gives "
                "log-probs before the temperature or after the nucleus cut; set one of them to 1"
            )
        return self


class VllmSampler(VllmSection):
    """A vLLM engine in this process; its weights follow after each rollout's updates."""

    kind: Literal["vllm"] = "vllm"
    dtype: Literal["model", "float32", "bfloat16", "float16"] = Field(
        "model", description='of weights and activations; "model" = model.dtype'
    )
    memory_frac: Annotated[float, Field(gt=0, le=1)] = Field(
        0.3, description="share of the device's memory for weights, activations and cache"
    )
    kv_cache_gib: Positive | None = Field(
        None, description="size of the key-value cache; None = what memory_frac leaves"
    )
    max_model_len: Count | None = Field(
        None, description="prompt and response; None = max_prompt_tokens + max_tokens"
    )
    tensor_parallel: Count = Field(1, description="GPUs that share one engine")
    compile: bool | None = Field(
        None, description="torch.compile and CUDA graphs, a minute at the start; None = on a GPU"
    )

    @model_validator(mode="after")
    def _one_memory_limit(self) -> VllmSampler:
        if self.kv_cache_gib is not None and self.memory_frac != 0.3:
            raise ValueError("memory_frac has no effect beside kv_cache_gib; leave one out")
        return self


class VllmServerSampler(VllmSection):
    """A vLLM server elsewhere; its weights follow through a folder that both can read."""

    kind: Literal["vllm_server"] = "vllm_server"
    url: Annotated[str, Field(pattern=r"^https?://")] = Field(
        "http://localhost:8000", description="of the server, without /v1"
    )
    folder: str | None = Field(
        None,
        description="where new weights are handed over; None = a temporary folder of this machine",
    )
    timeout_s: Positive = Field(3600, description="longest wait for one answer")


def _sampler(value: Any) -> Any:
    value = by_kind(value)
    return {"kind": "transformers", **value} if isinstance(value, dict) else value


SamplerConfig = Annotated[
    TransformersSampler | VllmSampler | VllmServerSampler,
    Field(discriminator="kind"),
    BeforeValidator(_sampler),
]


class DropDynamicSampling(Section):
    """Drop groups that teach nothing (see `rollout.keep`) and train on what is left."""

    kind: Literal["drop"] = "drop"


class RefillDynamicSampling(Section):
    """Drop groups that teach nothing and sample again until the batch is full."""

    kind: Literal["refill"] = "refill"
    max_rounds: Count = Field(10, description="rounds of sampling before training on what is there")


class OversampleDynamicSampling(Section):
    """Sample factor × prompts once; keep up to `rollout.prompts` groups that teach something."""

    kind: Literal["oversample"] = "oversample"
    factor: Annotated[float, Field(ge=1)] = Field(
        2.0, description="prompts sampled, as a multiple of `rollout.prompts`"
    )


class NoDynamicSampling(Section):
    """Keep every group; one without differing rewards has zero advantage but counts in N."""

    kind: Literal["off"] = "off"


DynamicSampling = Annotated[
    DropDynamicSampling | RefillDynamicSampling | OversampleDynamicSampling | NoDynamicSampling,
    Field(discriminator="kind"),
    BeforeValidator(by_kind),
]


class Overlap(Section):
    """A process of its own samples while updates run, with a copy of the weights."""

    device: str | None = Field(
        None, description='where that copy lives, for instance "cuda:1"; None = model.device'
    )
    threads: Count | None = Field(
        None, description="threads of the sampler, taken from the trainer's; None = half of them"
    )
    cut_at_new_weights: bool = Field(
        False,
        description="train on a response's tokens only up to the first that newer weights drew",
    )


def _overlap(value: Any) -> Any:
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class RolloutConfig(Section):
    """How much is sampled between two changes of the old policy, and how far ahead."""

    prompts: Count = Field(64, description="groups per rollout")
    responses: Annotated[int, Field(ge=2)] = Field(8, description="responses per prompt, G")
    dynamic_sampling: DynamicSampling = Field(
        DropDynamicSampling(), description="what happens to groups that teach nothing"
    )
    keep: Literal["accuracy", "reward"] | None = Field(
        None,
        description="groups that dynamic sampling keeps, of those whose rewards differ: with right "
        "and wrong responses (DAPO), or all; None = accuracy, but reward beside reward.function",
    )
    staleness: CountOrZero = Field(
        0, description="rollouts sampled ahead: a rollout is trained on that many rollouts later"
    )
    old_policy: Literal["recomputed", "sampled"] = Field(
        "recomputed",
        description="what ratios are measured against: the policy just before the rollout's "
        "updates, or the one that sampled; the same at staleness 0",
    )
    overlap: Annotated[Overlap | None, BeforeValidator(_overlap)] = Field(
        None, description="true, or a table: sample while updates run; not bit-exact"
    )

    @model_validator(mode="after")
    def _overlap_needs_room(self) -> RolloutConfig:
        if self.overlap is not None and self.staleness == 0:
            raise ValueError(
                "overlap needs staleness of at least 1: at 0 a rollout is sampled with the weights "
                "after the updates before it, so neither can go on while the other works"
            )
        if self.overlap is not None and self.old_policy == "sampled":
            raise ValueError(
                'old_policy = "sampled" cannot be had with overlap: the weights that sampled are '
                'gone when the rollout arrives; use "recomputed", and loss.importance for the rest'
            )
        return self
