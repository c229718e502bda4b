"""`eval`, `compare`, `inspect-log` and `audit-grader`: how good a model is, and what graded it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from erclip.cli.app import Out, command, console, listed
from erclip.cli.options import given, parameters, set_signature
from erclip.evaluation.settings import EvaluationSettings

AnswerFormats = Annotated[
    str | None,
    typer.Option(help="How answers are announced: boxed,tag,gsm8k,minerva,dapo (these), prose."),
]
PromptColumn = Annotated[str | None, typer.Option(help="Field that asks.", show_default="by name")]
AnswerColumn = Annotated[
    str | None, typer.Option(help="Field that answers.", show_default="by name")
]
OWN = ("model", "benchmarks", "columns")  # arguments and options of another form


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help='"embedded", a model folder or a hub id.')
    ],
    benchmark: Annotated[
        str,
        typer.Option(
            help="aime24,aime25,hmmt25,amc23,math500,olympiadbench,gsm8k,countdown",
            show_default=False,
        ),
    ] = "",
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with the sets' files, instead of the hub.")
    ] = None,
    prompt_column: PromptColumn = None,
    answer_column: AnswerColumn = None,
    out: Out = None,
    **values: Any,
) -> None:
    """Evaluate a model, with intervals.

    The same command continues a stopped evaluation. Without --out it is in
    evals/<model>-<date>-<time>.
    """
    from erclip.diagnostics.look import columns
    from erclip.evaluation.command import evaluate as run

    settings = {"model": model, **given(EvaluationSettings, values)}
    settings["benchmarks"] = listed(benchmark) or ()
    named = columns(prompt_column, answer_column)
    try:
        run(settings | ({"columns": named} if named else {}), out, data_dir, console)
    except KeyboardInterrupt:
        console.print("Interrupted: the same command continues.")
        raise typer.Exit(130) from None


set_signature(evaluate, parameters(EvaluationSettings, OWN))
command(
    "eval",
    "eval embedded --benchmark countdown --k 4",
    "eval runs/first/checkpoints/rollout_00060 --benchmark gsm8k,math500 --out evals/after",
    "eval HuggingFaceTB/SmolLM2-135M-Instruct --data mine.jsonl --limit 100",
)(evaluate)


@command(
    "compare",
    "compare evals/before evals/after",
    "compare runs/erc-0 runs/erc-1 runs/dapo-0 runs/dapo-1 --format markdown",
)
def compare(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER",
            help="Two evaluations, or run directories of two methods or more.",
        ),
    ],
    form: Annotated[
        str, typer.Option("--format", help="text, markdown, or json (of evaluations).")
    ] = "text",
    out: Out = None,
) -> None:
    """Compare evaluations, or methods over seeds.

    With intervals: noise is never called a gain.
    """
    from erclip.compare import compare_folders

    compare_folders(folders, form, out, console)


@command("inspect-log", "inspect-log evals/after", "inspect-log evals/after --out logs")
def inspect_log(
    evaluation: Annotated[
        Path, typer.Argument(metavar="EVALUATION", help="The folder of a finished evaluation.")
    ],
    out: Out = None,
) -> None:
    """Write an evaluation as logs of inspect_ai.

    For `inspect view --log-dir`.
    """
    from erclip.evaluation.inspect_log import write_inspect_logs

    for file in write_inspect_logs(evaluation, out):
        console.print(f"log: {file}")


@command("audit-grader", "audit-grader responses.jsonl")
def audit_grader(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="JSONL with response and gold in every line."),
    ],
    answer_formats: AnswerFormats = None,
    after_think: Annotated[bool, typer.Option(help="Grade what follows </think>.")] = False,
    last_number: Annotated[bool, typer.Option(help="Without a box, read the last number.")] = False,
) -> None:
    """Grade saved responses; list where math-verify differs."""
    from erclip.evaluation.tables import audit_sheet
    from erclip.grading.audit import audit
    from erclip.grading.extract import DEFAULT_FORMATS
    from erclip.pages.sheet import print_sheet

    formats = listed(answer_formats) or DEFAULT_FORMATS
    found = audit(file, formats=formats, after_think=after_think, last_number=last_number)
    print_sheet(audit_sheet(found, str(file)), console)
