"""`erclip eval`: run or continue an evaluation, and print what it found."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from erclip.evaluation import folder
from erclip.evaluation.benchmarks import check_names
from erclip.evaluation.settings import check_settings
from erclip.evaluation.tables import result_sheet
from erclip.report.sheet import print_sheet


def evaluate(
    values: Mapping[str, Any], out: Path | None, data_dir: Path | None, console: Console
) -> None:
    """Run or continue an evaluation with a bar, then print its table."""
    settings = check_settings(**values)
    check_names(settings.benchmarks)
    path = out or default_path(settings.model)
    folder.claim(path, settings.model_dump(mode="json"))

    from erclip.evaluation.run import run_evaluation  # torch and transformers take seconds

    console.print(f"writing to {path}", soft_wrap=True, highlight=False, markup=False)
    columns = (
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        BarColumn(bar_width=16),
        TimeRemainingColumn(compact=True),
    )
    bars: dict[str, Any] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def on_chunk(name: str, done: int, total: int) -> None:
            if name not in bars:
                bars[name] = progress.add_task(name, total=total)
            progress.update(bars[name], completed=done)

        result = run_evaluation(settings, path, data_dir, on_chunk)
    about = folder.read_about(path)
    print_sheet(result_sheet(result, about["remarks"], settings.model), console)


def default_path(model: str) -> Path:
    """evals/<model>-<date>-<time>."""
    return Path("evals") / f"{Path(model).name}-{datetime.now():%Y%m%d-%H%M%S}"
