"""`erclip eval`: run or continue an evaluation, and print what it found."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from erclip.errors import UserError
from erclip.evaluation import folder
from erclip.evaluation.benchmarks import check_names
from erclip.evaluation.settings import EvaluationSettings, check_settings
from erclip.evaluation.tables import result_sheet
from erclip.machine.console import Console
from erclip.machine.locks import Lock, lock_new_folder
from erclip.pages.sheet import print_sheet
from erclip.text import printable

ROOT = Path("evals")


def evaluate(
    values: Mapping[str, Any], out: Path | None, data_dir: Path | None, console: Console
) -> None:
    """Run or continue an evaluation with a bar, then print its table."""
    settings = check_settings(**values)
    check_names(settings.benchmarks)
    if out is not None:
        folder.claim(out, settings.model_dump(mode="json"))

    from erclip.evaluation.run import COMMAND, run_evaluation  # torch and transformers: seconds

    begun = None if out is not None else unfinished(settings, COMMAND)
    if begun is not None:
        console.print(f"going on in {begun.folder}")
        lock = begun
    else:
        lock = Lock(out, COMMAND) if out is not None else new_lock(settings.model, COMMAND)
        console.print(f"writing to {lock.folder}")
    path = lock.folder
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


def unfinished(settings: EvaluationSettings, command: str) -> Lock | None:
    """A lock on the newest folder in evals/ that these settings began and nobody works in."""
    asked = settings.model_dump(mode="json")
    for path in sorted(ROOT.glob(f"{glob.escape(_stem(settings.model))}-*"), reverse=True):
        if not folder.is_evaluation(path) or (path / folder.RESULT).exists():
            continue
        with suppress(UserError):  # damaged, or another process's: a new one is made
            if folder.read_about(path)["settings"] == asked:
                return Lock(path, command)
    return None


def new_lock(model: str, command: str) -> Lock:
    """A lock on evals/<model>-<date>-<time>, a folder that is this process's alone."""
    return lock_new_folder(ROOT, f"{_stem(model)}-{datetime.now():%Y%m%d-%H%M%S}", command)


def _stem(model: str) -> str:
    return Path(model).name[-80:]
