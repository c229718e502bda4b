"""Where prompts come from, and what a response is worth."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from erclip.config.section import Count, Fraction, Section, to_tuple
from erclip.grading.extract import DEFAULT_FORMATS

AnswerFormats = Annotated[
    tuple[Literal["boxed", "tag", "gsm8k", "minerva", "dapo", "prose"], ...],
    Field(min_length=1),
    BeforeValidator(to_tuple),
]
Columns = dict[Annotated[str, Field(pattern="^(prompt|answer)$")], str]
RewardFile = Annotated[str, Field(pattern=r".+\.py:\w+$")]


class DataConfig(Section):
    """Where prompts come from and how answers are read."""

    path: str = Field(
        "countdown",
        description='"countdown", a local JSONL, JSON, CSV, TSV or Parquet file, a hub data set id '
        '(owner/name[:config]), "reasoning-gym:TASK", or a task that a package installed',
    )
    test_path: str | None = Field(None, description="held-out rows; None splits `path` by hash")
    split: str = Field("train", description="split of a hub data set")
    test_split: str | None = Field(None, description="held-out split of a hub data set")
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="share held out by hash where there is no test_path"
    )
    instruction: str = Field("", description="appended to the last user message of every prompt")
    system_prompt: str = Field("", description="system message put before every prompt")
    after_think: bool = Field(False, description="grade only the text after the last </think>")
    last_number: bool = Field(
        False, description="without a boxed answer, read the last number of the response"
    )
    answer_formats: AnswerFormats = Field(
        DEFAULT_FORMATS,
        description="how an answer may be announced, in the order tried: boxed, tag (<answer>), "
        "gsm8k (####), minerva, dapo (a line Answer: …), prose (the answer is …)",
    )
    columns: Columns = Field(
        default_factory=dict,
        description='fields of a row, { prompt = "…", answer = "…" }; without, by known names',
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="settings of the embedded or reasoning-gym task"
    )


class OverlongConfig(Section):
    """DAPO's soft overlong punishment: 0 up to max_length − cache, then linearly down to −1."""

    max_length: Count = Field(description="L_max, in tokens; beyond it the punishment is −1")
    cache: Count = Field(description="L_cache, in tokens")

    @model_validator(mode="after")
    def _cache_fits(self) -> OverlongConfig:
        if self.cache > self.max_length:
            raise ValueError(f"cache ({self.cache}) must not exceed max_length ({self.max_length})")
        return self


class LaterReward(Section):
    """A reward that moves: another function from some point of the run on."""

    after_prompts: Count = Field(description="training prompts that are rewarded as before")
    function: RewardFile = Field(description='"file.py:name", as reward.function')


class RewardConfig(Section):
    """From a grade to a number."""

    flip: Fraction = Field(
        0.0,
        description="share of training verdicts turned round before anything sees them; 0.5 is a "
        "coin flip",
    )

    correct: float = Field(1.0, description="reward of a right answer")
    wrong: float = Field(0.0, description="reward of any other")
    missing_think: float | None = Field(
        None, description="reward of a response without </think>; None = graded like any other"
    )
    overlong: OverlongConfig | None = Field(
        None, description="soft overlong punishment; None = off"
    )
    function: RewardFile | None = Field(
        None,
        description='"file.py:name" of fn(response, grade) → float; replaces correct, wrong and '
        "missing_think, the overlong punishment is still added",
    )

    later: LaterReward | None = Field(None, description="a reward that moves; None = it stays")

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> RewardConfig:
        if self.function is not None:
            for name in ("correct", "wrong", "missing_think"):
                value, default = getattr(self, name), RewardConfig.model_fields[name].default
                if value != default:
                    raise ValueError(
                        f"reward.{name} = {value} has no effect beside reward.function: "
                        f"leave it at its default ({default})"
                    )
        return self
