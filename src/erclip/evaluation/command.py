"""`erclip eval`: run or continue an evaluation, and print what it found."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from erclip.evaluation import folder
from erclip.evaluation.benchmarks import check_names
from erclip.evaluation.settings import check_settings
from erclip.evaluation.tables import result_sheet
from erclip.machine.console import Console
from erclip.machine.locks import Lock, lock_new_folder
from erclip.pages.sheet import print_sheet
from erclip.text import printable


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
