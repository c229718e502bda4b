"""Runs of a million lines: read in columns, drawn thin, and odd values in every field."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import numpy as np
import pytest

from erclip.report import build_report
from erclip.runs import series
from erclip.runs.read import read_run
from erclip.runs.series import DRAWN, Curve, thinned


def write_long(path, write_run, lines):
    """A run of so many lines, a few rollouts over and over; one gradient norm sticks out."""
    rows: list[str] = []
    write_run(path, rollouts=8, updates=8, change=lambda found: rows.extend(map(json.dumps, found)))
    rows = [row for row in rows if '"eval"' not in row]
    with (path / "metrics.jsonl").open("w") as file:
        for number in range(lines):
            turn, place = divmod(number, len(rows))
            row = json.loads(rows[place]) if lines <= 100_000 else None
            text = rows[place]
            old = text.split('"rollout": ')[1].split(",")[0]
            text = text.replace(f'"rollout": {old}', f'"rollout": {int(old) + 8 * turn}', 1)
            if number == lines // 3 and row is not None:
                text = json.dumps({**json.loads(text), "grad/norm": 777.0})
            file.write(text + "\n")
    return path


def test_a_long_report_is_small_and_keeps_its_extremes(tmp_path, write_run):
    path = write_long(tmp_path / "long", write_run, 20_000)
    run = read_run(path)
    assert len(run.updates) + len(run.rollouts) == 20_000
    drawn = thinned(series.by_update(run, "grad/norm"))
    assert len(drawn.x) <= DRAWN < len(run.updates)
    assert drawn.y.max() == 777.0
    page = build_report([path])
    assert page.stat().st_size < 2_000_000


@pytest.mark.slow
def test_a_million_lines(tmp_path, write_run):
    """Under 1 GB, 5 MB and, of a core's time, 60 s: a machine of its own needs half of that."""
    path = write_long(tmp_path / "million", write_run, 1_000_000)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "erclip", "report", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{after.ru_utime - before.ru_utime:.1f} CPU s, {time.monotonic() - started:.1f} s")
    assert after.ru_maxrss < 1_000_000
    assert (path / "report.html").stat().st_size < 5_000_000
    assert after.ru_utime - before.ru_utime < 60


def test_thinning_keeps_ends_extremes_and_gaps():
    rng = np.random.default_rng(0)
    y = rng.normal(size=50_000)
    y[123], y[40_000], y[7_000:9_000] = 50.0, -50.0, np.nan
    thin = thinned(Curve(np.arange(50_000.0), y))
    assert len(thin.x) <= DRAWN
    assert (thin.x[0], thin.x[-1]) == (0.0, 49_999.0)
    assert {123.0, 40_000.0} <= {*thin.x}
    assert np.isnan(thin.y[(thin.x >= 7_000) & (thin.x < 9_000)]).all()
    short = Curve(np.arange(10.0), np.arange(10.0))
    assert thinned(short) is short


ODD = [
    *("text", "", [], {}, True, None, 1e308, -1e308, 1e-320, "NaN", 10**400, float("inf")),
    *(float("nan"), -1, 0, "<b>", "=1+1", "\u202e"),
]


@pytest.mark.parametrize(
    "value",
    [pytest.param(v, id=str(i), marks=[pytest.mark.slow] * (i % 3 > 0)) for i, v in enumerate(ODD)],
)
def test_any_value_in_any_field_gives_a_page(value, tmp_path, write_run):
    """Every metric of one line, the places of another, the kind of a third."""

    def change(rows):
        for name in rows[12]:
            if name not in ("kind", "rollout", "time_s"):
                rows[12][name] = value
        for row, name in ((20, "update_in_rollout"), (21, "rollout"), (22, "kind"), (23, "time_s")):
            rows[row][name] = value
        rows[-1] = dict.fromkeys(rows[-1], value) | {"kind": "eval", "rollout": 12}
        rows.append({"kind": "rollout", "rollout": 10**30})
        rows.append({"kind": "update", "rollout": 999_999_999, "update_in_rollout": 10**9})

    samples = [{"rollout": 1, "prompt": value, "response": value, "reward": value, "gold": value}]
    path = write_run(tmp_path / "run", change=change, samples=samples)
    (path / "tokens.jsonl").write_text(
        json.dumps({"rollout": 1, "number": value, "pieces": ["a"], "old_logprobs": value}) + "\n"
    )
    page = build_report([path]).read_text()
    assert "<b>" not in page
    assert "\u202e" not in page
