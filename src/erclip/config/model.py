"""The policy: which model, in which precision, with which adapters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from erclip.config.section import Count, Section, to_tuple


class Lora(Section):
    """Low-rank adapters on a frozen model; dropout would fake ratios, so there is none."""

    rank: Count = Field(16, description="rank of B A, r")
    alpha: Count = Field(32, description="the change is (alpha / rank) · B A")
    targets: Annotated[Literal["all-linear"] | tuple[str, ...], BeforeValidator(to_tuple)] = Field(
        "all-linear", description='ends of layers\' names, such as ["q_proj", "v_proj"]'
    )


class ModelConfig(Section):
    """The policy: any Hugging Face causal language model."""

    path: str = Field("embedded", description='"embedded", a local folder or a hub id')
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="dtype of weights and activations; the head's outputs are float32"
    )
    autocast: Literal["bfloat16"] | None = Field(
        None,
        description="dtype of the products below the head, beside float32 weights; None = as dtype",
    )
    lora: Lora | None = Field(None, description="train adapters (peft); None = every weight")
    device: str = Field("auto", description='"auto" (CUDA if there is one), "cpu", "cuda:1", …')
    head: Literal["op", "logits"] = Field(
        "op",
        description='"op" never forms the whole vocabulary\'s logits; "logits" serves models whose '
        "logits are not hidden · weight, at full memory",
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations in backward")
    trust_remote_code: bool = Field(False, description="run code that comes with the model")

    @model_validator(mode="after")
    def _autocast_has_an_effect(self) -> ModelConfig:
        if self.autocast is None:
            return self
        if self.dtype != "float32":
            raise ValueError(
                f"model.autocast has no effect on {self.dtype} weights; set model.dtype = float32 "
                "or leave it out"
            )
        if self.lora is not None:
            raise ValueError(
                f"model.autocast keeps float32 weights for small updates, but model.lora freezes "
                f"them and its adapters are float32 anyway; set model.dtype = {self.autocast}"
            )
        return self
