"""The frontier on made-up rows: its height over no rule is what was put in."""

from __future__ import annotations

import csv
import random
from dataclasses import replace

import pytest

from erclip.study.answer import answer
from erclip.study.design import Cell, read_study
from erclip.study.figures import frontier_plots
from erclip.study.findings import Findings
from erclip.study.frontier import Frontier, front, frontiers, height_between
from erclip.study.plots import study_plots
from erclip.study.results import by_regime, read
from erclip.study.rows import Results

RATES = (5e-5, 1e-4, 2e-4, 4e-4)
STUDY = """
seeds = [0, 1, 2, 3, 4, 5]
tuning_seeds = [10, 11, 12]
[base]
loss = { constraints = [] }
[regimes.clean]
[regimes.noise]
sampler = { max_tokens = 12 }
[frontier]
gained = "clean"
kept = ["noise"]
[grid]
"trainer.learning_rate" = [5e-5, 1e-4, 2e-4, 4e-4]
[methods.DAPO]
[methods."shy 1"]
rule = "shy"
against = "DAPO"
loss = { constraints = [{ kind = "entropy_ratio_clip", low = 0.1, high = 0.1 }] }
[methods."shy 2"]
rule = "shy"
against = "DAPO"
loss = { constraints = [{ kind = "entropy_ratio_clip", low = 0.3, high = 0.3 }] }
[methods.better]
against = "DAPO"
loss = { constraints = [{ kind = "entropy_ratio_clip", low = 0.5, high = 0.5 }] }
"""
LIFT = 0.03


def line(x: float) -> float:
    """No rule's frontier: a straight line."""
    return 0.4 - 0.5 * (x - 0.3)


def gained(method: str, rate: float) -> float:
    """More with the rate, up to 2e-4, and less beyond; shy rules gain as slower rates do."""
    shy = {"shy 1": 0.02, "shy 2": 0.04}.get(method, 0.0)
    return {5e-5: 0.38, 1e-4: 0.44, 2e-4: 0.50, 4e-4: 0.46}[rate] - shy


def kept(method: str, rate: float) -> float:
    """On the line, or above it by `LIFT`; the largest rate is beaten in both."""
    beaten = 0.1 if rate == 4e-4 else 0.0
    return line(gained(method, rate)) - beaten + (LIFT if method == "better" else 0.0)


@pytest.fixture
def results(tmp_path):
    path = tmp_path / "made-up.toml"
    path.write_text(STUDY, encoding="utf-8")
    return Results(read_study(path), tmp_path)


def fill(results: Results, scatter: float) -> list[Frontier]:
    """Rows with a seed's own luck, of which `scatter` is each run's alone."""
    draw = random.Random(0)
    luck = {seed: draw.gauss(0, 0.02) for seed in range(20)}
    rows = {}
    for cell in results.study.cells():
        point = dict(cell.point)
        value = {"clean": gained, "noise": kept}[point["regime"]](
            cell.method, point["learning_rate"]
        )
        if point["regime"] == "noise":  # luck along x would also move where the curves overlap
            value += luck[cell.seed]
        rows[cell] = value + draw.gauss(0, scatter)
    write(results, rows)
    return frontiers(by_regime(read(results)), "clean", "noise", "final_accuracy")


def add(results: Results, cell: Cell, accuracy: float, **more: str) -> None:
    row = {"settings": "x", "status": "finished", "k": 4, "final_accuracy": accuracy}
    results.add(cell, {**row, "collapsed": False, **more}, [])


def write(results: Results, accuracies: dict[Cell, float]) -> None:
    """All rows at once: hundreds of safe appends would take a test a minute."""
    (first, value), *rest = accuracies.items()
    add(results, first, value)
    with results.runs.open(encoding="utf-8") as file:
        (pattern,) = csv.DictReader(file)
    with results.runs.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, pattern, lineterminator="\n")
        for cell, accuracy in rest:
            own = {name: f"{v:g}" if isinstance(v, float) else v for name, v in cell.point}
            key = {"method": cell.method, **own, "seed": cell.seed}
            writer.writerow({**pattern, **key, "final_accuracy": repr(accuracy)})


def of(found: list[Frontier], method: str) -> Frontier:
    (own,) = (own for own in found if own.method == method)
    return own


def test_a_rule_that_only_slows_down_lies_on_no_rules_curve(results):
    """It keeps more at every rate, which no comparison at one rate would take for nothing."""
    found = fill(results, 0.0)
    assert kept("shy 2", 1e-4) > kept("DAPO", 1e-4)
    for name, right in (("shy 1", 0.48), ("shy 2", 0.46)):
        shy = of(found, name)
        assert shy.rule == "shy"
        assert shy.height.mean == pytest.approx(0.0, abs=1e-9)
        assert shy.span == pytest.approx((0.38, right))
        assert shy.height.count == 6


def test_a_lift_of_the_whole_curve_is_its_height(results):
    found = fill(results, 0.0)
    better = of(found, "better")
    assert better.height.mean == pytest.approx(LIFT)
    assert better.height.half == pytest.approx(0.0, abs=1e-9), "a seed's luck cancels in pairs"
    assert better.area.mean == pytest.approx(LIFT * (0.50 - 0.38))
    none = of(found, "DAPO")
    assert [s.front for s in none.settings] == [True, True, True, False]
    assert none.height is None


def test_with_scatter_the_interval_holds_the_truth(results):
    found = fill(results, 0.004)
    better, shy = of(found, "better").height, of(found, "shy 1").height
    assert better.low <= LIFT <= better.high
    assert shy.low <= 0.0 <= shy.high
    assert 0 < better.half < 0.02


def test_the_page_says_draws_and_tabulates_it(results):
    fill(results, 0.001)
    findings = Findings.of(results.study, read(results))
    table = findings.tables()["frontier"]
    assert [row[1] for row in table.rows] == ["shy 1", "shy 2", "better"]
    assert [row[-1] for row in table.rows] == ["tie", "tie", "win"]
    said = answer(findings)
    assert len(said) == 3
    assert "1 of 3 curves: highest is better on DAPO under noise" in said[2]
    assert "breaking.svg" in study_plots(results, findings).rest
    plots = frontier_plots(findings)
    assert list(plots) == ["frontier-noise.svg"]
    assert [key.label for key in plots["frontier-noise.svg"].legend] == ["no rule", "shy", "better"]


def test_seeds_of_two_machines_are_not_in_one_curve(results):
    found = fill(results, 0.0)
    assert of(found, "better").height.count == 6
    moved = Cell("better", (("regime", "noise"), ("learning_rate", 1e-4)), 3)
    add(results, moved, 0.9, hardware="another")
    better = of(frontiers(by_regime(read(results)), "clean", "noise", "final_accuracy"), "better")
    assert better.height.count == 5
    assert better.height.mean == pytest.approx(LIFT)


def test_a_frontier_of_each_outcome_that_is_asked_for(results):
    file = results.study.file
    asked = file.frontier.model_copy(update={"outcomes": ("final_accuracy", "final_greedy")})
    study = replace(results.study, file=file.model_copy(update={"frontier": asked}))
    for cell in study.cells():
        point = dict(cell.point)
        x = gained(cell.method, point["learning_rate"])
        y = kept(cell.method, point["learning_rate"])
        greedy = x if point["regime"] == "clean" else y
        add(results, cell, 0.9 * greedy, final_greedy=greedy)
    findings = Findings.of(study, read(results))
    heights = {own.outcome: own.height.mean for own in findings.fronts if own.method == "better"}
    assert heights["final_greedy"] == pytest.approx(LIFT, abs=1e-4)
    assert heights["final_accuracy"] == pytest.approx(0.9 * LIFT, abs=1e-4)
    (page,) = frontier_plots(findings).values()
    assert "final greedy accuracy, noise" in page.svg
    table = findings.tables()["frontier"]
    assert table.headings[0] == "outcome"
    assert {row[0] for row in table.rows} == {"final avg@k", "final greedy accuracy"}


def test_curves_without_a_common_part_are_not_compared():
    assert height_between([(0.1, 0.3), (0.2, 0.2)], [(0.3, 0.3), (0.4, 0.2)]) is None
    assert height_between([(0.1, 0.3)], [(0.0, 0.3), (0.4, 0.2)]) is None


def test_height_is_exact_between_knots():
    """A tent over a flat line: 0 → 1 → 0 for x from 0 to 2, mean 0.5; from 0.5 on, 0.875 / 1.5."""
    tent, flat = [(0.0, 0.0), (1.0, 1.0), (2.0, 0.0)], [(0.0, 0.0), (2.0, 0.0)]
    assert height_between(tent, flat)[0] == pytest.approx(0.5)
    assert height_between(tent, [(0.5, 0.0), (3.0, 0.0)])[0] == pytest.approx(0.875 / 1.5)
    assert height_between(flat, tent)[0] == pytest.approx(-0.5)


def test_the_front_has_no_beaten_point():
    points = {"a": (0.3, 0.3), "b": (0.4, 0.2), "c": (0.35, 0.2), "d": (0.4, 0.2)}
    assert front(points) == ["a", "b", "d"]
