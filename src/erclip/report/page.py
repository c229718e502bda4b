"""Run directories → one HTML file that needs nothing else: the entry point of this package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from erclip.pages.canvas import Key, run_color
from erclip.pages.html import environment, scripts, write
from erclip.report import tables, verdict
from erclip.report.headline import headline
from erclip.report.methods import differences_of
from erclip.report.plots import AHEAD_ONLY, PLOTS
from erclip.report.tokens import token_view
from erclip.runs import words
from erclip.runs.read import Run, read_runs


class Live(NamedTuple):
    """Of a page that renews itself: which state of the runs it shows, and how often it asks."""

    version: str
    every: float  # s


def build_report(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write the report of one run, or of several laid over each other, and return its path.

    A single run's verdicts are written beside it, as verdict.json.

    `out` defaults to report.html in the run directory of a single run, and in the current folder
    for several. Raises `UserError` for a folder that is not a run, or a file that can't be written.
    """
    paths = [Path(path) for path in run_dirs]
    runs = read_runs(paths)
    if out is None:
        out = paths[0] / "report.html" if len(paths) == 1 else Path("report.html")
    write(out, render(runs))
    if len(runs) == 1:
        write(out.with_name("verdict.json"), verdict.as_json(verdict.verdicts(runs[0])))
    return out


def render(runs: Sequence[Run], live: Live | None = None) -> str:
    """Return the HTML of a report: verbatim text of models and configs is escaped."""
    samples, tokens = tables.samples(runs), token_view(runs)
    drawn = [(name, plot(runs)) for name, plot in PLOTS]
    used = ["charts.js", "samples.js", *(["tokens.js"] if tokens.responses else [])]
    return (
        environment()
        .get_template("page.html.jinja")
        .render(
            title=" · ".join(words.printable(run.label) for run in runs[:4]),
            live=live,
            scripts=scripts(*used, *(["live.js"] if live else []), connect=live is not None),
            runs=runs,
            run_keys=[Key(words.printable(run.label), run_color(i)) for i, run in enumerate(runs)],
            differences=differences_of(runs) if len(runs) > 1 else [],
            headlines=[headline(run) for run in runs],
            verdicts=[verdict.verdicts(run) for run in runs],
            facts=tables.facts(runs),
            differing=tables.differing_settings(runs),
            settings=[words.printable(json.dumps(r.config.get("config"), indent=2)) for r in runs],
            results=tables.results(runs),
            plots=[plot for _, plot in drawn if plot],
            missing=[name for name, plot in drawn if not plot and name not in AHEAD_ONLY],
            samples=samples,
            whens=sorted({sample.when for sample in samples}),
            outcomes=tables.OUTCOMES,
            tokens=tokens,
            svg=Markup,  # pictures are our own markup; matplotlib escapes the names in them
        )
    )
