"""`report`, `ledger`, `noise-floor` and `data`: pages about runs, models and files."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from erclip.cli.app import Out, command, console, listed
from erclip.cli.evaluating import AnswerColumn, PromptColumn
from erclip.machine.places import new_page


@command("report", "report runs/first", "report runs/first runs/second --out reports/both")
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Run directories; several are overlaid."),
    ],
    out: Out = None,
) -> None:
    """Rebuild a run's report, or overlay several runs.

    The report of one run is in its folder.
    """
    from erclip.report import build_report

    if len(runs) == 1 and out is None:
        console.print(f"report: {build_report(runs)}")
        return
    with new_page(out, "report", "report.html") as page:
        console.print(f"report: {build_report(runs, page)}")


@command("watch", "watch runs/first", "watch runs/first runs/second --port 9000")
def watch(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Run directories; several are overlaid."),
    ],
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="8117 or a free one.", show_default=False),
    ] = None,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between looks for news.")] = 5.0,
) -> None:
    """Serve a run's report while it trains.

    On this machine only; Ctrl-C ends it.
    """
    from erclip.report.live import watch as serve

    serve(runs, port, every, console)


@command(
    "ledger",
    "ledger runs/first --beta 0.02,0.05,0.1",
    "ledger runs/first --clip 0.2:0.28,0.1:0.1 --min-entropy-change 1e-4",
)
def ledger(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory with a ledger.")],
    beta: Annotated[
        str, typer.Option(help="Entropy bands to try: 0.02,0.05,0.1", show_default=False)
    ] = "",
    clip: Annotated[
        str, typer.Option(help="Clip ranges to try: 0.2:0.28,0.1:0.1", show_default=False)
    ] = "",
    min_entropy_change: Annotated[
        float | None,
        typer.Option(help="In nats, for every band; without it the run's own.", show_default=False),
    ] = None,
    out: Out = None,
) -> None:
    """Say what ERC clipped, and what others would have.

    Others are bands, rules and clip ranges. Without --out the page is ledger.html in the run's
    folder.
    """
    from erclip.diagnostics.ledger_page import ledger_sheet, numbers, ranges
    from erclip.pages.sheet import print_sheet, write_sheet

    sheet = ledger_sheet(run, numbers(beta, "--beta"), ranges(clip, "--clip"), min_entropy_change)
    print_sheet(sheet, console)
    own = nullcontext(run / "ledger.html")
    with own if out is None else new_page(out, "ledger", "ledger.html") as page:
        console.print(f"page: {write_sheet(sheet, page)}")


@command(
    "noise-floor",
    "noise-floor embedded",
    "noise-floor models/smollm2 --data train.jsonl --dtype bfloat16 --out reports/noise",
)
def noise_floor(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help='"embedded", a model folder or a hub id.')
    ],
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
    """Measure what is clipped for rounding alone.

    As a share of tokens, and what ends it.
    """
    from erclip.config import DataConfig
    from erclip.diagnostics.noise_floor import Plan, measure
    from erclip.diagnostics.noise_page import noise_sheet
    from erclip.pages.sheet import print_sheet, write_sheet

    dtypes, heads, passes = (listed(text) or () for text in (dtype, head_dtype, layouts))
    plan = Plan(dtypes, heads, passes, prompts, responses, max_tokens, batch_size)
    with new_page(out, "noise-floor", "noise-floor.html") as page:
        with console.status("") as status:
            measured = measure(model, DataConfig(path=data), plan, status.update)
        sheet = noise_sheet(model, measured, plan)
        print_sheet(sheet, console)
        console.print(f"page: {write_sheet(sheet, page)}")


@command(
    "data",
    "data train.jsonl --model Qwen/Qwen3-0.6B",
    "data openai/gsm8k:main --split test",
)
def data_file(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A data file or hub id, as in data.path.")
    ],
    model: Annotated[
        str | None, typer.Option(help="Lengths in its tokens, prompts in its chat template.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of a hub data set.")] = "train",
    prompt_column: PromptColumn = None,
    answer_column: AnswerColumn = None,
    instruction: Annotated[
        str, typer.Option(help="Put after every problem.", show_default=False)
    ] = "",
    system_prompt: Annotated[
        str, typer.Option(help="Put before every problem.", show_default=False)
    ] = "",
) -> None:
    """Show how data is read: prompts, golds, lengths, repeats."""
    from erclip.diagnostics.look import columns, data_sheet
    from erclip.pages.sheet import print_sheet
    from erclip.tasks.base import Wording
    from erclip.tasks.files import Source

    named = columns(prompt_column, answer_column)
    sheet = data_sheet(Source(file, split), Wording(instruction, system_prompt), named, model)
    print_sheet(sheet, console)
