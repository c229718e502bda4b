"""Rows → estimates, against numbers worked out by hand; and files that survive a kill."""

from __future__ import annotations

import csv
import math

import pytest

from erclip.errors import UserError
from erclip.pages.sheet import Sheet
from erclip.statistics import Interval
from erclip.study.design import Cell, read_study
from erclip.study.findings import Findings
from erclip.study.page import study_document, study_sheet
from erclip.study.plots import Pictures, study_plots, write_plots
from erclip.study.results import Against, against, families, read, verdict
from erclip.study.rows import Results
from erclip.study.texts import interval

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


def findings_of(results: Results) -> Findings:
    return Findings.of(results.study, read(results))


def sheet_of(results: Results) -> Sheet:
    return study_sheet(results, findings_of(results), Pictures({}, {}))


def point_words(difference: Against) -> dict[float, str]:
    return {
        dict(point)["learning_rate"]: "tie" if own.low <= 0 <= own.high else f"{own.mean:+.2f}"
        for point, own in difference.points.items()
    }


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
    assert point_words(difference) == {1e-4: "tie", 1e-3: "+0.30"}
    assert difference.over_grid.mean == pytest.approx((0.155 + 0.15 + 0.145) / 3)
    assert point_words(against(found["A"], found["B"])) == {1e-4: "tie", 1e-3: "-0.30"}
    assert verdict(Interval.around(0.3, 0.1, 5), 0.049) == "win"
    assert verdict(Interval.around(0.3, 0.1, 5), 0.051) == "tie"
    assert verdict(Interval.around(0.3, 0.0, 2), 0.0) == "few seeds"


def test_the_page_says_wins_ties_and_losses(results):
    sheet = sheet_of(results)
    table = next(t for t in sheet.tables if t.title.startswith("Differences"))
    (line,) = table.rows
    # t = 0.08 / (0.02646 / √3) = 5.237, 2 degrees of freedom; one comparison: nothing to correct
    assert line[:6] == ("B", "A", "3", "+0.080 [+0.014, +0.146]", "0.035", "0.035")
    assert line[-2:] == ("win", "1/1/0")
    texts = [text for table in sheet.tables for line in table.rows for text in line]
    assert "0.300 [0.250, 0.350], 1 collapsed" in texts


def test_the_page_opens_with_three_sentences_and_one_picture(tmp_path, results):
    findings = findings_of(results)
    pictures = study_plots(results, findings)
    sheet = study_sheet(results, findings, pictures)
    assert sheet.sentences == [
        "1 of 1 rules help: at best B +0.080 [+0.014, +0.146] (Holm's p 0.035) in final avg@k over "
        "no rule, 3 seeds.",
        "Collapsed runs, of all settings: 1 of 6 without a rule, 0 of 6 with B.",
    ]
    assert list(pictures.first) == ["effects.svg"]
    text = study_document(sheet, pictures)
    places = [text.index(part) for part in (sheet.sentences[0], "effects.svg", "| B | A |")]
    assert places == sorted(places)
    assert text.index("a-accuracy.svg") > places[-1]
    captions = [table.caption for table in sheet.tables]
    assert all(captions)
    assert all(caption in text for caption in captions), "notes under the tables"


def test_one_setting_has_no_columns_for_a_grid(tmp_path, results):
    path = tmp_path / "made-up.toml"
    path.write_text(STUDY.replace("[1e-4, 1e-3]", "[1e-4]"), encoding="utf-8")
    tables = findings_of(Results(read_study(path), tmp_path)).tables()
    table = tables["differences"]
    assert table.headings[2:] == ("seeds", "at the best setting of each", "p", "Holm", "verdict")
    assert {len(line) for line in table.rows} == {len(table.headings)}


def test_a_picture_is_drawn_once_for_the_page_and_as_a_file(tmp_path, results):
    findings = findings_of(results)
    pictures = study_plots(results, findings)
    assert list(pictures.rest) == ["a-accuracy.svg", "a-steadiness.svg"]
    assert study_sheet(results, findings, pictures).appendix == list(pictures.rest.values())
    write_plots({**pictures.first, **pictures.rest}, tmp_path)
    assert "var(--series-1)" in (tmp_path / "a-accuracy.svg").read_text(encoding="utf-8")


def test_a_method_can_be_compared_with_several(tmp_path, results):
    path = tmp_path / "made-up.toml"
    path.write_text(STUDY + '[methods.C]\nagainst = ["A", "B"]\n', encoding="utf-8")
    results = Results(read_study(path), tmp_path)
    results.add(cell("C", 1e-4, 0), row(0.5), [])
    pairs = [line[:2] for line in findings_of(results).tables()["differences"].rows]
    assert pairs == [("B", "A"), ("C", "A"), ("C", "B")]
    assert [[r.method.name for r in family] for family in families(read(results))] == [
        ["A", "B", "C"]
    ]
    assert interval(Interval.around(0.9, 0.3, 2)) == "0.900 [0.600, 1.000]"


def test_one_family_per_base_and_the_rest_together(results):
    found = read(results)
    assert [[runs.method.name for runs in family] for family in families(found)] == [["A", "B"]]
    assert [[runs.method.name for runs in f] for f in families({"B": found["B"]})] == [["B"]]


def test_an_incomplete_study_says_so_and_compares_what_both_have(results):
    lines = results.runs.read_text(encoding="utf-8").splitlines(keepends=True)
    results.runs.write_text("".join(lines[:-3]), encoding="utf-8")  # B at 1e-3 is gone
    found = read(results)
    assert dict(found["B"].best()) == {"learning_rate": 1e-4}
    assert point_words(against(found["B"], found["A"])) == {1e-4: "tie"}
    # across the grid: the one point that both have, not A's two
    assert against(found["B"], found["A"]).over_grid.mean == pytest.approx(0.0)
    assert sheet_of(results).sentences[0] == "9 of 12 runs are there."


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


def test_rows_of_another_machine_are_not_compared(tmp_path, results):
    """The seed that moved has no partner; the others are compared as before."""
    results.add(cell("B", 1e-3, 0), row(0.9, hardware="another"), [point(0, 0.3), point(9, 0.9)])
    found = read(results)
    difference = against(found["B"], found["A"])
    assert difference.at_best.count == 2
    assert difference.at_best.mean == pytest.approx((0.09 + 0.05) / 2)
    flags = row(0.63, cpu="6/85/7, AVX512: avx2")
    results.add(cell("B", 1e-3, 1), flags, [point(0, 0.3), point(9, 0.63)])
    found = read(results)
    assert against(found["B"], found["A"]).at_best is None


def test_tuning_seeds_choose_and_are_not_reported(tmp_path):
    """Tuning says 1e-3, the reported seeds 1e-4: 1e-3 is taken, with what it is worth."""
    path = tmp_path / "made-up.toml"
    path.write_text(STUDY.replace("seeds =", "tuning_seeds = [7, 8]\nseeds ="), encoding="utf-8")
    results = Results(read_study(path), tmp_path)
    for rate, seeds in ((1e-4, {7: 0.1, 8: 0.1, 0: 0.5, 1: 0.5}), (1e-3, {7: 0.9, 8: 0.9, 0: 0.4})):
        for seed, value in seeds.items():
            results.add(cell("A", rate, seed), row(value), [point(0, 0.3), point(9, value)])
    runs = read(results)["A"]
    assert dict(runs.best()) == {"learning_rate": 1e-3}
    assert runs.values(runs.best()) == {0: 0.4}
    assert runs.collapsed == (0, 3), "none of the tuning runs is counted"


def test_edges_of_the_grid_are_named(results):
    table = findings_of(results).tables()["best"]
    assert [line[1] for line in table.rows] == [
        "learning rate 0.0001 (edge: learning rate)",
        "learning rate 0.001 (edge: learning rate)",
    ]
    runs = read(results)["A"]
    middle = type(runs)(runs.method, {**runs.points, (("learning_rate", 1e-5),): {}})
    assert middle.edges((("learning_rate", 1e-4),)) == []


def test_outcomes_are_worked_out_from_rows_that_lack_them(results):
    """A, 1e-4, seed 0: best 0.56, end 0.50; entropy 0.3 → 0.1; accuracy 0.3 at 0, 0.5 at 9."""
    more = {"best_accuracy": 0.56, "first_entropy": 0.3}
    results.add(cell("A", 1e-4, 0), row(0.5, **more), [point(0, 0.3), point(5, 0.4), point(9, 0.5)])
    (found,) = (
        r for s, r in read(results)["A"].points[(("learning_rate", 1e-4),)].items() if s == 0
    )
    assert float(found["fall"]) == pytest.approx(0.06)
    assert float(found["entropy_change"]) == pytest.approx(0.2)
    assert float(found["area"]) == pytest.approx((5 * 0.35 + 4 * 0.45) / 9)
    assert "kl_start" not in found or not found["kl_start"]


def test_a_file_of_older_columns_is_read_and_gets_the_new_ones(results):
    """As results/ has them: neither the CPU's flags nor the KL to the start."""
    with results.runs.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    old = [name for name in rows[0] if name not in ("cpu", "kl_start", "final_reward")]
    with results.runs.open("w", encoding="utf-8") as file:
        writer = csv.DictWriter(file, old, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    results.check()
    assert len(results.rows()) == 12
    results.add(cell("A", 1e-4, 0), row(0.51, cpu="x"), [point(0, 0.3), point(9, 0.51)])
    with results.runs.open(encoding="utf-8") as file:
        now = list(csv.DictReader(file))
    assert len(now) == 13
    assert (now[-1]["cpu"], now[-1]["final_accuracy"], now[0]["cpu"]) == ("x", "0.51", "")


def test_rows_of_another_grid_are_refused(tmp_path, results):
    path = tmp_path / "made-up.toml"
    path.write_text(STUDY.replace("learning_rate", "weight_decay"), encoding="utf-8")
    with pytest.raises(UserError, match=r"another grid \(method, learning_rate, seed;"):
        Results(read_study(path), tmp_path).check()
