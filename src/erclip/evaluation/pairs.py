"""Two evaluations → paired differences with intervals, or one sentence on why not.

Differences are B − A, problem by problem: what both find hard cancels out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from erclip.errors import UserError
from erclip.evaluation import folder
from erclip.statistics import Interval, difference_interval, difference_of_sets
from erclip.tasks.repeats import problem_of

# Settings that are part of what a number means; the others are how it was computed.
MEANING = (
    *("temperature", "top_p", "instruction", "system_prompt"),
    *("after_think", "last_number", "answer_formats"),
)


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation: what was asked, and each problem's share of correct responses."""

    name: str
    about: Mapping[str, Any]
    sets: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Difference:
    """One row: mean accuracies over the same problems, and B − A with its interval."""

    name: str
    problems: int
    a: float
    b: float
    difference: Interval

    @property
    def verdict(self) -> str:
        """A gain or a loss of B against A, or no difference shown."""
        return self.difference.outcome


@dataclass(frozen=True)
class Comparison:
    """A row per set, the pooled rows where there are several, and what the reader should know."""

    a: str
    b: str
    rows: tuple[Difference, ...]
    remarks: tuple[str, ...]


def read_evaluation(path: Path) -> Evaluation:
    """A finished evaluation; an unfinished one is refused, its problems are not a fair sample."""
    if not folder.is_evaluation(path):
        raise UserError(f"{path} is not the folder of an evaluation: it has no {folder.ABOUT}.")
    about = folder.read_about(path)
    if not (path / folder.RESULT).is_file():
        raise UserError(f"{path} is not finished: give its `erclip eval` command again.")
    sets = {}
    for name in about["texts"]:
        verdicts: dict[str, list[bool]] = {}
        for line in folder.read_responses(path, name):
            verdicts.setdefault(problem_of(line["prompt_id"]), []).append(line["correct"])
        sets[name] = {prompt_id: fmean(row) for prompt_id, row in verdicts.items()}
    return Evaluation(path.name, about, sets)


def compare_evaluations(path_a: Path, path_b: Path) -> Comparison:
    """Pair two evaluations by problem.

    Refused when the texts differ, no set is shared, or model and settings differ at once: then the
    difference could be either's. k and seed may differ: they change the noise, not the mean.
    """
    a, b = read_evaluation(path_a), read_evaluation(path_b)
    shared = [name for name in a.sets if name in b.sets]
    if not shared:
        raise UserError(
            f"{path_a} has {', '.join(a.sets)}, {path_b} has {', '.join(b.sets)}: no set in common."
        )
    _refuse_other_texts(a, b, shared)
    remarks = [*_settings_remarks(a, b), *_left_out(a, b, shared)]
    paired = {name: _pair(a, b, name) for name in shared}
    rows = [_row(name, pairs) for name, pairs in paired.items()]
    if len(shared) > 1:
        rows += [_pooled(paired), _mean_of(rows, paired)]
    return Comparison(str(path_a), str(path_b), tuple(rows), tuple(remarks))


Pairs = Sequence[tuple[float, float]]


def _pair(a: Evaluation, b: Evaluation, name: str) -> Pairs:
    mine, theirs = a.sets[name], b.sets[name]
    pairs = [(mine[key], theirs[key]) for key in mine if key in theirs]
    if not pairs:
        raise UserError(f"the two evaluations share no problem of {name}.")
    return pairs


def _row(name: str, pairs: Pairs) -> Difference:
    interval = difference_interval([b - a for a, b in pairs])
    return Difference(
        name, len(pairs), fmean(a for a, _ in pairs), fmean(b for _, b in pairs), interval
    )


def _pooled(paired: Mapping[str, Pairs]) -> Difference:
    return _row("all problems", [pair for pairs in paired.values() for pair in pairs])


def _mean_of(rows: Sequence[Difference], paired: Mapping[str, Pairs]) -> Difference:
    """The average that papers print: every set counts the same."""
    interval = difference_of_sets([[b - a for a, b in pairs] for pairs in paired.values()])
    return Difference(
        "mean of sets",
        sum(row.problems for row in rows),
        fmean(row.a for row in rows),
        fmean(row.b for row in rows),
        interval,
    )


def _refuse_other_texts(a: Evaluation, b: Evaluation, shared: Sequence[str]) -> None:
    for name in shared:
        if a.about["texts"][name] != b.about["texts"][name]:
            raise UserError(
                f"The two evaluations asked different texts of {name} (SHA-256 "
                f"{a.about['texts'][name][:12]} and {b.about['texts'][name][:12]}); evaluate both "
                "on the same file."
            )


def _settings_remarks(a: Evaluation, b: Evaluation) -> list[str]:
    mine = {**a.about["settings"], "max_tokens": a.about["max_tokens"]}
    theirs = {**b.about["settings"], "max_tokens": b.about["max_tokens"]}
    differing = [
        f"{key} {mine.get(key)!r} and {theirs.get(key)!r}"
        for key in (*MEANING, "max_tokens")
        if mine.get(key) != theirs.get(key)
    ]
    same_model = a.about["weights_sha256"] == b.about["weights_sha256"]
    if differing and not same_model:
        raise UserError(
            f"The two evaluations differ in the model and in {'; '.join(differing)}: the "
            "difference could come from either; evaluate both models with the same settings."
        )
    remarks = [f"same model, different {'; '.join(differing)}"] if differing else []
    if same_model and not differing:
        remarks.append("same model, same settings: the difference is noise of sampling")
    noise = [key for key in ("k", "seed", "dtype") if mine.get(key) != theirs.get(key)]
    return remarks + [f"{key} is {mine.get(key)} in A, {theirs.get(key)} in B" for key in noise]


def _left_out(a: Evaluation, b: Evaluation, shared: Sequence[str]) -> list[str]:
    names = [name for name in {**a.sets, **b.sets} if name not in shared]
    remarks = [f"{name} is only in one of the two" for name in names]
    for name in shared:
        both = len(a.sets[name].keys() & b.sets[name].keys())
        if both < max(len(a.sets[name]), len(b.sets[name])):
            remarks.append(
                f"{name}: {both} problems are in both ({len(a.sets[name])} in A, "
                f"{len(b.sets[name])} in B)"
            )
    return remarks
