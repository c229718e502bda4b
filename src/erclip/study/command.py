"""`erclip study`: make the runs that are missing, then write the page and its pictures."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from erclip.errors import UserError
from erclip.machine.console import Console
from erclip.machine.files import leftovers, write_text
from erclip.machine.locks import Lock
from erclip.pages.sheet import write_sheet
from erclip.study.design import Cell, Study, in_words, read_study, settings_hash
from erclip.study.findings import Findings
from erclip.study.outcomes import Row, number
from erclip.study.page import study_document, study_sheet
from erclip.study.plots import study_plots, write_plots
from erclip.study.processes import Done, Job, run_jobs
from erclip.study.results import read
from erclip.study.rows import Results


def study(
    file: Path,
    out: Path | None,
    processes: int | None,
    seeds: Iterable[int],
    methods: Iterable[str],
    settings: Iterable[str],
    console: Console,
) -> int:
    """Run what is missing of a study and report all of it; the number of runs that failed.

    `seeds`, `methods` and `settings` ("learning_rate=3e-4") choose among those of the file; none
    chooses all.
    """
    plan = read_study(file)
    folder = out or Path("results") / plan.name
    chosen = _choose(plan, list(seeds), list(methods), _at(plan, settings))
    with _locked(folder):
        results = Results(plan, folder)
        results.check()
        work = Work(plan, results, chosen, console)
        try:
            if work.pending:
                console.print(work.opening())
                signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
                run_jobs(work.next_job, min(processes or _cores(), len(work.pending)), work.log)
        finally:
            if work.rows:
                results.tidy()
        _report(results, console)
    return work.failed


def _report(results: Results, console: Console) -> None:
    """Write the page, the document and the pictures; say what they say first."""
    findings, folder = Findings.of(results.study, read(results)), results.folder
    pictures = study_plots(results, findings)
    sheet = study_sheet(results, findings, pictures)
    page = write_sheet(sheet, folder / "report.html")
    write_plots({**pictures.first, **pictures.rest}, folder)
    write_text(folder / "report.md", study_document(sheet, pictures))
    console.print(sheet.title, style="bold")
    for sentence in sheet.sentences:
        console.print(f"• {sentence}")
    console.print(f"tables and pictures: {page}, {folder / 'report.md'}")


class Work:
    """Which cells are still to be run, and what has become of the others."""

    def __init__(self, study: Study, results: Results, chosen: list[Cell], console: Console):
        self.study, self.results, self.console = study, results, console
        self.rows = results.rows()
        self.total = len(chosen)
        self.failed = 0
        self.pending = [cell for cell in chosen if not self._is_done(cell)]
        self._hashes: dict[Cell, str] = {}

    def opening(self) -> str:
        """What is about to happen, in a sentence."""
        done = self.total - len(self.pending)
        return (
            f"{self.study.name}: {len(self.pending)} runs to make, {done} of {self.total} are "
            f"there; rows go to {self.results.runs}"
        )

    def next_job(self) -> Job | None:
        """The first cell that can be run now: a random mask waits for the run that it copies."""
        for cell in list(self.pending):
            source = self.study.source(cell)
            if source is not None and source not in self.rows:
                if source in self.pending or source in self._hashes:
                    continue
                self.pending.remove(cell)
                self._fail(cell, f"{source} has no row, whose clipped share it copies")
                continue
            self.pending.remove(cell)
            config = self._config(cell)
            self._hashes[cell] = settings_hash(config)
            name = re.sub(r"[^\w.+-]+", "-", str(cell))
            return Job(cell, config, self.results.folder / "runs" / f"{name}-{self._hashes[cell]}")
        return None

    def log(self, done: Done) -> None:
        """Write a row, or say why there is none."""
        cell = done.job.cell
        self._hashes.pop(cell, None)
        if done.problem is not None:
            self._fail(cell, done.problem)
            return
        self.rows[cell] = row = self.results.add(cell, done.outcome.values, done.outcome.curve)
        ended = self.total - len(self.pending) - len(self._hashes) - self.failed
        text = (
            f"{ended}/{self.total} {cell}: {number(row, 'first_accuracy'):.3f} → "
            f"{number(row, 'final_accuracy'):.3f}, {number(row, 'cpu_s'):.0f} CPU s"
        )
        if row["collapsed"] == "True":
            text += f" ({'diverged' if row['status'] == 'diverged' else 'collapsed'})"
        self.console.print(text)

    def _is_done(self, cell: Cell) -> bool:
        row = self.rows.get(cell)
        if row is None:
            return False
        source = self.study.source(cell)
        if source is not None and source not in self.rows:
            return False
        return row["settings"] == settings_hash(self._config(cell))

    def _config(self, cell: Cell):
        source = self.study.source(cell)
        return self.study.config(cell, None if source is None else _clipped(self.rows[source]))

    def _fail(self, cell: Cell, why: str) -> None:
        self.failed += 1
        self.console.print(f"{cell}: {why}", style="red")


def _clipped(row: Row) -> float:
    """The share that a random mask copies."""
    share = number(row, "clip_erc_frac")
    return share if share == share else 0.0


def _choose(
    study: Study, seeds: list[int], methods: list[str], at: dict[str, set[Any]]
) -> list[Cell]:
    names = [method.name for method in study.methods]
    all_seeds = (*study.file.tuning_seeds, *study.seeds)
    for given, known, what in ((seeds, all_seeds, "seed"), (methods, names, "method")):
        for value in given:
            if value not in known:
                raise UserError(
                    f"{study.name} has no {what} {value!r}: it has {', '.join(map(str, known))}."
                )
    return [
        cell
        for cell in study.cells()
        if (not seeds or cell.seed in seeds)
        and (not methods or cell.method in methods)
        and all(value in at[name] for name, value in cell.point if name in at)
    ]


def _at(study: Study, settings: Iterable[str]) -> dict[str, set[Any]]:
    """Column of the grid → the values to run."""
    chosen: dict[str, set[Any]] = {}
    for text in settings:
        name, _, value = text.partition("=")
        key = next((key for key in study.grid if name in (key, study.columns[key])), None)
        if key is None:
            there = ", ".join(study.columns.values()) or "nothing"
            raise UserError(f"{study.name} has no {name!r} in its grid: it has {there}.")
        found = [v for v in study.grid[key] if value == in_words(v) or _same_number(value, v)]
        if not found:
            there = ", ".join(map(str, study.grid[key]))
            raise UserError(f"{study.name} has no {name} {value!r}: it has {there}.")
        chosen.setdefault(study.columns[key], set()).update(found)
    return chosen


def _same_number(text: str, value: Any) -> bool:
    try:
        return isinstance(value, int | float) and value is not True and float(text) == value
    except ValueError:
        return False


def _locked(folder: Path) -> Lock:
    """One study at a time in a folder; what a killed one was writing is removed."""
    lock = Lock(folder, "erclip study")
    for scratch in leftovers(folder):
        scratch.unlink()
    return lock


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
