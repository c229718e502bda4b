"""`erclip compare`: two evaluations, or runs of several methods, by what the folders hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from erclip.errors import UserError
from erclip.evaluation import folder
from erclip.evaluation.pairs import compare_evaluations
from erclip.evaluation.tables import comparison_json, comparison_sheet
from erclip.machine.console import Console
from erclip.machine.places import new_page
from erclip.pages.sheet import markdown, print_sheet, write_sheet
from erclip.report.methods import compare_sheet

FORMATS = ("text", "markdown", "json")


def compare_folders(folders: Sequence[Path], form: str, out: Path | None, console: Console) -> None:
    """Compare two evaluations, or runs: by what the folders hold."""
    if form not in FORMATS:
        raise UserError(f"--format {form!r}: give {', '.join(FORMATS)}.")
    evaluations = [folder.is_evaluation(path) for path in folders]
    if any(evaluations):
        if not all(evaluations) or len(folders) != 2:
            raise UserError("Give two evaluations, or only run directories.")
        comparison = compare_evaluations(*folders)
        sheet = comparison_sheet(comparison)
        if form == "json":
            print(comparison_json(comparison))
    else:
        if form == "json":
            raise UserError("--format json is for two evaluations; runs give text or markdown.")
        sheet = compare_sheet(folders)
    if form == "markdown":
        print(markdown(sheet))
    elif form == "text":
        print_sheet(sheet, console)
    if out is not None or (form == "text" and not any(evaluations)):
        with new_page(out, "compare", "compare.html") as page:
            written = write_sheet(sheet, page)
        if form == "text":
            console.print(f"page: {written}")
