"""What `erclip eval` and `erclip compare` print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from erclip.console import Console
from erclip.errors import UserError
from erclip.evaluation import folder
from erclip.evaluation.benchmarks import check_names
from erclip.evaluation.compare import compare_evaluations
from erclip.evaluation.settings import check_settings
from erclip.evaluation.tables import comparison_json, comparison_sheet, result_sheet
from erclip.locks import Lock, lock_new_folder
from erclip.report.sheet import Sheet, markdown, print_sheet, write_sheet
from erclip.text import printable

FORMATS = ("text", "markdown", "json")


def evaluate(
    values: Mapping[str, Any], out: Path | None, data_dir: Path | None, console: Console
) -> None:
    """Run or continue an evaluation with a bar, then print its table."""
    settings = check_settings(**values)
    check_names(settings.benchmarks)
    if out is not None:
        folder.claim(out, settings.model_dump(mode="json"))

    from erclip.evaluation.run import COMMAND, run_evaluation  # torch and transformers: seconds

    lock = Lock(out, COMMAND) if out is not None else new_lock(settings.model, COMMAND)
    path = lock.folder
    console.print(f"writing to {path}")
    columns = (
        TextColumn("{task.description}", markup=False),
        MofNCompleteColumn(),
        BarColumn(bar_width=16),
        TimeRemainingColumn(compact=True),
    )
    bars: dict[str, Any] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def on_chunk(name: str, done: int, total: int) -> None:
            if name not in bars:
                bars[name] = progress.add_task(printable(name), total=total)
            progress.update(bars[name], completed=done)

        result = run_evaluation(settings, path, data_dir, on_chunk, lock)
    about = folder.read_about(path)
    print_sheet(result_sheet(result, about["remarks"], settings.model), console)


def new_lock(model: str, command: str) -> Lock:
    """A lock on evals/<model>-<date>-<time>, a folder that is this process's alone."""
    name = f"{Path(model).name[-80:]}-{datetime.now():%Y%m%d-%H%M%S}"
    return lock_new_folder(Path("evals"), name, command)


def compare_folders(folders: Sequence[Path], form: str, out: Path | None, console: Console) -> None:
    """Compare two evaluations, or runs: by what the folders hold."""
    if form not in FORMATS:
        raise UserError(f"--format {form!r}: give {', '.join(FORMATS)}.")
    evaluations = [folder.is_evaluation(path) for path in folders]
    if any(evaluations):
        if not all(evaluations) or len(folders) != 2:
            raise UserError("Give two evaluations, or only run directories.")
        comparison = compare_evaluations(*folders)
        sheet, page = comparison_sheet(comparison), out
        if form == "json":
            print(comparison_json(comparison))
    else:
        if form == "json":
            raise UserError("--format json is for two evaluations; runs give text or markdown.")
        sheet, page = _runs_sheet(folders), out or Path("compare.html")
    if form == "markdown":
        print(markdown(sheet))
    elif form == "text":
        print_sheet(sheet, console)
    if page is not None:
        written = write_sheet(sheet, page)
        if form == "text":
            console.print(f"page: {written}")


def _runs_sheet(folders: Sequence[Path]) -> Sheet:
    from erclip.diagnostics.compare import compare_sheet

    return compare_sheet(folders)
