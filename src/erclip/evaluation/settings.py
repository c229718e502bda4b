"""What one evaluation is: the settings of `erclip eval`, checked at the edge."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from erclip.config.data import AnswerFormats, Columns
from erclip.config.section import Count, Positive, Section
from erclip.errors import UserError
from erclip.grading.extract import DEFAULT_FORMATS

BOXED = r"Please reason step by step, and put your final answer within \boxed{}."


class EvaluationSettings(Section):
    """Two evaluations with equal settings and equal weights give the same numbers on one CPU."""

    model: str = Field(description='"embedded", a local folder or a hub id')
    benchmarks: tuple[str, ...] = ()
    data: str | None = None
    k: Count = Field(4, description="responses per problem")
    temperature: Positive = 0.6
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    max_tokens: Count | None = Field(None, description="None = 4,096, or what the context leaves")
    seed: int = 0
    batch_size: Count = Field(64, description="sequences decoded at once; part of what is drawn")
    limit: Count | None = Field(None, description="the first so many problems of every set")
    instruction: str = Field(BOXED, description="put after every problem")
    system_prompt: str = ""
    after_think: bool = False
    last_number: bool = False
    answer_formats: AnswerFormats = DEFAULT_FORMATS
    columns: Columns = Field(default_factory=dict)
    entropy: bool = True
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "auto"


def check_settings(**values: Any) -> EvaluationSettings:
    """The settings, or one sentence on the first value that can't be."""
    try:
        settings = EvaluationSettings(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = str(first["loc"][0]).replace("_", "-")
        message = first["msg"][0].lower() + first["msg"][1:]
        raise UserError(f"--{option} {first['input']}: {message}.") from None
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
