"""Rows → estimates, against numbers worked out by hand; and files that survive a kill."""

from __future__ import annotations

import csv
import math

import pytest

from erclip.diagnostics.seeds import Estimate
from erclip.study.design import Cell, read_study
from erclip.study.page import interval, study_sheet
from erclip.study.plots import study_plots, write_plots
from erclip.study.results import against, families, read, verdict
from erclip.study.rows import Results

STUDY = """
description = "made up"
seeds = [0, 1, 2]
[base]
loss = { constraints = [] }
[grid]
"trainer.learning_rate" = [1e-4, 1e-3]
[methods.A]
[methods.B]
against = "A"
loss = { constraints = ["entropy_ratio_clip"] }
"""
ACCURACY = {  # method → learning rate → by seed
    "A": {1e-4: (0.50, 0.54, 0.52), 1e-3: (0.30, 0.32, 0.28)},
    "B": {1e-4: (0.51, 0.53, 0.52), 1e-3: (0.60, 0.63, 0.57)},
}


@pytest.fixture
def results(tmp_path):
    path = tmp_path / "made-up.toml"
    path.write_text(STUDY, encoding="utf-8")
    results = Results(read_study(path), tmp_path)
    for method, points in ACCURACY.items():
        for rate, values in points.items():
            for seed, value in enumerate(values):
                results.add(cell(method, rate, seed), row(value), [point(0, 0.3), point(9, value)])
    return results


def cell(method: str, rate: float, seed: int) -> Cell:
    return Cell(method, (("learning_rate", rate),), seed)


def row(accuracy: float, **more) -> dict:
    collapsed = accuracy < 0.29
    values = {"settings": "x", "status": "finished", "k": 4, "final_accuracy": accuracy}
    return {**values, "collapsed": collapsed, "final_entropy": 0.1, "grad_norm": 1.0, **more}


def point(rollout: int, accuracy: float) -> dict:
    return {"rollout": rollout, "accuracy": accuracy, "kl_old": math.nan}


def test_best_setting_and_grid(results):
    found = read(results)
    assert dict(found["A"].best()) == {"learning_rate": 1e-4}
    assert dict(found["B"].best()) == {"learning_rate": 1e-3}
    assert found["A"].over_grid() == pytest.approx({0: 0.40, 1: 0.43, 2: 0.40})
    assert found["A"].collapsed == (1, 6)
    assert found["A"].estimate(found["A"].best()).mean == pytest.approx(0.52)


def test_differences_are_paired_by_seed(results):
    found = read(results)
    difference = against(found["B"], found["A"])
    # own best: (0.60 − 0.50, 0.63 − 0.54, 0.57 − 0.52), t(2) = 4.3027, sd = 0.02646
    assert difference.at_best.mean == pytest.approx(0.08)
    assert difference.at_best.half == pytest.approx(4.30265 * 0.0264575 / math.sqrt(3), rel=1e-4)
    # by point: 1e-4 differs by (0.01, −0.01, 0), a tie; 1e-3 by (0.30, 0.31, 0.29), a win
    assert difference.counts == (1, 1, 0)
    assert difference.over_grid.mean == pytest.approx((0.155 + 0.15 + 0.145) / 3)
    assert verdict(difference.over_grid) == "win"
    assert against(found["A"], found["B"]).counts == (0, 1, 1)
    assert verdict(Estimate(0.3, 0.0, 2)) == "few seeds"


def test_the_page_says_wins_ties_and_losses(results):
    sheet = study_sheet(results)
    assert sheet.sentences == []
    lines = {line[:2]: line for table in sheet.tables for line in table.rows}
    assert lines["B", "A"][2:5] == ("3", "+0.080 [+0.014, +0.146]", "win")
    assert lines["B", "A"][-1] == "1/1/0"
    texts = [text for line in lines.values() for text in line]
    assert "0.300 [0.250, 0.350], 1 collapsed" in texts


def test_one_setting_has_no_columns_for_a_grid(tmp_path, results):
    path = tmp_path / "made-up.toml"
    path.write_text(STUDY.replace("[1e-4, 1e-3]", "[1e-4]"), encoding="utf-8")
    table = study_sheet(Results(read_study(path), tmp_path)).tables[1]
    assert table.headings[2:] == ("seeds", "avg@k", "verdict", "pass@k", "verdict")
    assert {len(line) for line in table.rows} == {len(table.headings)}


def test_a_picture_is_drawn_once_for_the_page_and_as_a_file(tmp_path, results):
    plots = study_plots(results)
    assert list(plots) == ["a-accuracy.svg", "a-steadiness.svg"]
    assert study_sheet(results, list(plots.values())).plots == list(plots.values())
    write_plots(plots, tmp_path)
    assert "var(--series-1)" in (tmp_path / "a-accuracy.svg").read_text(encoding="utf-8")


def test_a_method_can_be_compared_with_several(tmp_path, results):
    path = tmp_path / "made-up.toml"
    path.write_text(STUDY + '[methods.C]\nagainst = ["A", "B"]\n', encoding="utf-8")
    results = Results(read_study(path), tmp_path)
    results.add(cell("C", 1e-4, 0), row(0.5), [])
    pairs = [line[:2] for line in study_sheet(results).tables[1].rows]
    assert pairs == [("B", "A"), ("C", "A"), ("C", "B")]
    assert [[r.method.name for r in family] for family in families(read(results))] == [
        ["A", "B", "C"]
    ]
    assert interval(Estimate(0.9, 0.3, 2)) == "0.900 [0.600, 1.000]"


def test_one_family_per_base_and_the_rest_together(results):
    found = read(results)
    assert [[runs.method.name for runs in family] for family in families(found)] == [["A", "B"]]
    assert [[runs.method.name for runs in f] for f in families({"B": found["B"]})] == [["B"]]


def test_an_incomplete_study_says_so_and_compares_what_both_have(results):
    lines = results.runs.read_text(encoding="utf-8").splitlines(keepends=True)
    results.runs.write_text("".join(lines[:-3]), encoding="utf-8")  # B at 1e-3 is gone
    found = read(results)
    assert dict(found["B"].best()) == {"learning_rate": 1e-4}
    assert against(found["B"], found["A"]).counts == (0, 1, 0)
    # across the grid: the one point that both have, not A's two
    assert against(found["B"], found["A"]).over_grid.mean == pytest.approx(0.0)
    assert study_sheet(results).sentences[0] == "9 of 12 runs are there."


def test_a_line_cut_by_a_kill_is_no_row_and_is_cut_off_by_the_next(results):
    whole = results.runs.read_text(encoding="utf-8")
    results.runs.write_text(whole[:-5], encoding="utf-8")
    assert len(results.rows()) == 11
    results.add(cell("B", 1e-3, 2), row(0.57), [point(0, 0.3), point(9, 0.57)])
    assert results.runs.read_text(encoding="utf-8") == whole


def test_a_run_made_again_replaces_the_one_before(results):
    again = cell("A", 1e-4, 1)
    results.add(again, row(0.9), [point(0, 0.3), point(5, 0.8), point(9, 0.9)])
    assert results.rows()[again]["final_accuracy"] == "0.9"
    assert [p["accuracy"] for p in results.curve()[again]] == ["0.3", "0.8", "0.9"]
    results.tidy()
    with results.runs.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    keys = [(r["method"], r["learning_rate"], r["seed"]) for r in rows]
    assert len(keys) == len(set(keys)) == 12
    order = [
        (c.method, f"{dict(c.point)['learning_rate']:g}", str(c.seed))
        for c in results.study.cells()
    ]
    assert keys == order
    assert results.rows()[again]["final_accuracy"] == "0.9"
