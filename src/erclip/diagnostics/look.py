"""`erclip data FILE`: how the rows of a file are read, before anything is trained on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from erclip.errors import UserError
from erclip.grading import Grader
from erclip.grading.audit import kind_of
from erclip.machine.hub import from_hub
from erclip.pages.sheet import Sheet, Table
from erclip.records import Prompt
from erclip.tasks.base import Wording
from erclip.tasks.files import Source, read_prompts
from erclip.tasks.repeats import first_of_each, problem_of, repeats_remark
from erclip.tasks.rows import fields_of
from erclip.tasks.sources import read_rows

SHOWN = 3
LONGEST_SHOWN = 600  # characters of a rendered prompt


def data_sheet(
    source: Source, wording: Wording, columns: Mapping[str, str] | None, model: str | None
) -> Sheet:
    """Three prompts as the model sees them, kinds of golds, lengths, and what repeats."""
    prompts = read_prompts(source, wording, columns)
    problems = first_of_each(prompts)
    first = next(iter(read_rows(source.path, source.split)))
    asks, answers = fields_of(first.row, first.where, columns)
    unit, texts, lengths = _measured(problems, model)
    rows = [
        (str(number), _short(text), str(prompt.gold))
        for number, (text, prompt) in enumerate(zip(texts, problems[:SHOWN], strict=False), start=1)
    ]
    kinds = Counter(kind_of(prompt.gold) for prompt in problems)
    tables = [
        Table(f"{source.path}: the first problems", ("", "prompt", "gold"), rows, labels=3),
        Table("Golds", ("kind", "problems"), [(k, str(n)) for k, n in kinds.most_common()]),
        Table(f"Lengths of prompts, {unit}", *_spread(lengths)),
    ]
    sentences = [
        f"{len(prompts)} rows, {len(problems)} problems; the first row asks in `{asks}` and "
        f"answers in `{answers}`.",
        *_repeats(prompts),
        *_unverified(problems),
        *([] if model else ["Give --model for lengths in its tokens and its chat template."]),
    ]
    return Sheet(source.path, sentences, [], tables)


def columns(prompt: str | None, answer: str | None) -> dict[str, str] | None:
    """`data.columns` from two options of the command line."""
    named = {"prompt": prompt, "answer": answer}
    return {role: name for role, name in named.items() if name is not None} or None


def _measured(problems: Sequence[Prompt], model: str | None) -> tuple[str, list[str], list[int]]:
    """(unit, the first prompts rendered, the length of every prompt)."""
    if model is None:
        texts = ["\n".join(m["content"] for m in prompt.messages) for prompt in problems]
        return "words", texts[:SHOWN], [len(text.split()) for text in texts]
    tokenizer = _tokenizer(model)
    from erclip.training.sampling import encode_prompt  # torch: only if a model is asked for

    encoded = [encode_prompt(tokenizer, prompt) for prompt in problems]
    return "tokens", [tokenizer.decode(ids) for ids in encoded[:SHOWN]], list(map(len, encoded))


def _tokenizer(model: str) -> Any:
    from transformers import AutoTokenizer

    from erclip.training.policy.loading import model_folder

    try:
        with from_hub("Model", model_folder(model), "give a model folder, or connect"):
            return AutoTokenizer.from_pretrained(model_folder(model))
    except UserError:
        raise
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--model {model}: its tokenizer cannot be loaded ({reason}).") from error


def _spread(lengths: Sequence[int]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    ordered = sorted(lengths)
    picked = (ordered[0], median(ordered), ordered[int(0.95 * (len(ordered) - 1))], ordered[-1])
    return ("shortest", "median", "95 % below", "longest"), [tuple(f"{n:.0f}" for n in picked)]


def _repeats(prompts: Sequence[Prompt]) -> list[str]:
    remark = repeats_remark(prompts)
    if not remark:
        return ["No problem is repeated."]
    most = Counter(problem_of(prompt.id) for prompt in prompts).most_common(1)[0]
    return [f"{remark}; the most frequent, {most[0]}, stands there {most[1]} times."]


def _unverified(problems: Sequence[Prompt]) -> list[str]:
    """Golds that no other form of the right answer may meet."""
    with Grader() as grader:
        failed = grader.check_golds({prompt.id: prompt.gold for prompt in problems})
    golds = {prompt.id: str(prompt.gold) for prompt in problems}
    shown = ", ".join(
        f"{_short(golds[name], 40)!r} ({why})" for name, why in list(failed.items())[:5]
    )
    return [f"{len(failed)} golds do not verify against themselves: {shown}."] if failed else []


def _short(text: str, length: int = LONGEST_SHOWN) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
