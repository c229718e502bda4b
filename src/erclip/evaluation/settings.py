"""What one evaluation is: the settings of `erclip eval`, checked at the edge."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from erclip.config.data import AnswerFormats, Columns
from erclip.config.section import Count, Positive, Section
from erclip.config.words import allowed
from erclip.errors import UserError
from erclip.grading.extract import DEFAULT_FORMATS

BOXED = r"Please reason step by step, and put your final answer within \boxed{}."


class EvaluationSettings(Section):
    """Two evaluations with equal settings and equal weights give the same numbers on one CPU."""

    model: str = Field(description='"embedded", a local folder or a hub id')
    benchmarks: tuple[str, ...] = ()
    data: str | None = Field(None, description="a file of one's own problems")
    k: Count = Field(4, description="responses per problem")
    temperature: Positive = Field(0.6, description="divides the logits")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(0.95, description="nucleus; 1 = everything")
    max_tokens: Count | None = Field(
        None, description="longest response; None = 4,096, or what the context leaves"
    )
    seed: int = Field(0, description="of every draw")
    batch_size: Count = Field(64, description="sequences decoded at once; part of what is drawn")
    limit: Count | None = Field(None, description="the first so many problems of every set")
    instruction: str = Field(BOXED, description="put after every problem")
    system_prompt: str = Field("", description="put before every problem")
    after_think: bool = Field(False, description="grade what follows </think>")
    last_number: bool = Field(False, description="without a box, read the last number")
    answer_formats: AnswerFormats = Field(
        DEFAULT_FORMATS,
        description="how answers are announced: boxed,tag,gsm8k,minerva,dapo (these), prose",
    )
    columns: Columns = Field(default_factory=dict)
    entropy: bool = Field(True, description="one more pass over the responses")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of weights and activations: float32, bfloat16, float16"
    )
    device: str = Field("auto", description='"auto", "cpu", "cuda:1", …')


def check_settings(**values: Any) -> EvaluationSettings:
    """The settings, or one sentence on the first value that can't be."""
    try:
        settings = EvaluationSettings(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = str(first["loc"][0])
        may = allowed(EvaluationSettings.model_fields[key]).removesuffix(" (or left out)")
        raise UserError(f"--{key.replace('_', '-')} {first['input']} must be {may}.") from None
    if not settings.benchmarks and settings.data is None:
        raise UserError("Nothing to evaluate on: give --benchmark NAME or --data FILE.")
    if len(set(settings.benchmarks)) < len(settings.benchmarks):
        raise UserError(f"--benchmark {','.join(settings.benchmarks)} names a set twice.")
    if settings.benchmarks == ("countdown",) and settings.data is None:
        _refuse_useless(values)
    return settings


def _refuse_useless(values: dict[str, Any]) -> None:
    for key in ("instruction", "system_prompt", "after_think", "last_number", "answer_formats"):
        if values.get(key):
            raise UserError(f"--{key.replace('_', '-')} has no effect on countdown: leave it out.")
