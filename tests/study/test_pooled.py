"""Effects pooled over surrogates and regimes, on rows whose answer is known."""

from __future__ import annotations

import math

import pytest

from erclip.statistics import Interval, holm, p_value
from erclip.study.answer import answer
from erclip.study.design import Cell, read_study
from erclip.study.findings import Findings
from erclip.study.results import corrected, read, share
from erclip.study.rows import Results

STUDY = """
seeds = [0, 1, 2, 3]
outcomes = ["final_accuracy", "collapsed"]
[base]
loss = { constraints = [] }
[regimes.clean]
[regimes.noise]
sampler = { max_tokens = 12 }
[methods.DAPO]
[methods.GPPO]
loss = { surrogate = "gppo_clip" }
[methods."DAPO, tight"]
rule = "ERC"
against = "DAPO"
loss = { constraints = [{ kind = "entropy_ratio_clip", low = 0.02, high = 0.02 }] }
[methods."DAPO, wide"]
rule = "ERC"
against = "DAPO"
loss = { constraints = [{ kind = "entropy_ratio_clip", low = 0.2, high = 0.2 }] }
[methods."ERC-GPPO"]
rule = "ERC"
against = "GPPO"
loss = { surrogate = "gppo_clip", constraints = ["entropy_ratio_clip"] }
"""
NOISE = (0.01, -0.01, 0.02, -0.02)  # of a seed, alike in all that it runs
# Effects by (regime, surrogate): 0.04, 0.02, −0.01, 0.05; of DAPO's two bands the better one.
EFFECTS = {
    ("clean", "DAPO, tight"): 0.00,
    ("clean", "DAPO, wide"): 0.04,
    ("noise", "DAPO, tight"): 0.02,
    ("noise", "DAPO, wide"): -0.30,
    ("clean", "ERC-GPPO"): -0.01,
    ("noise", "ERC-GPPO"): 0.05,
}
OWN = (0.01, -0.01, 0.00, 0.00)  # what a seed adds to every effect


@pytest.fixture
def findings(tmp_path):
    path = tmp_path / "made-up.toml"
    path.write_text(STUDY, encoding="utf-8")
    results = Results(read_study(path), tmp_path)
    for cell in results.study.cells():
        regime = dict(cell.point)["regime"]
        effect = EFFECTS.get((regime, cell.method))
        value = (0.6 if regime == "clean" else 0.4) + NOISE[cell.seed]
        value += 0.0 if effect is None else effect + OWN[cell.seed]
        add(results, cell, value)
    return Findings.of(results.study, read(results))


def add(results: Results, cell: Cell, accuracy: float) -> None:
    row = {"settings": "x", "status": "finished", "k": 4, "final_accuracy": accuracy}
    results.add(cell, {**row, "collapsed": accuracy < 0.2}, [])


def test_a_seed_counts_once_with_its_mean_over_strata(findings):
    (effect,) = findings.pooled
    assert (effect.rule, effect.against) == ("ERC", "no rule")
    assert [(s.regime, s.surrogate) for s in effect.strata] == [
        ("clean", "DAPO"),
        ("clean", "GPPO"),
        ("noise", "DAPO"),
        ("noise", "GPPO"),
    ]
    found = effect.outcomes["final_accuracy"]
    # (0.04 + 0.02 − 0.01 + 0.05) / 4 = 0.025, plus a seed's own; sd of OWN = 0.00816, t(3) = 3.1824
    assert found.mean == pytest.approx(0.025)
    assert found.half == pytest.approx(3.18245 * 0.00816497 / 2, rel=1e-4)
    assert found.count == 4, "four seeds, not sixteen observations"


def test_collapses_are_compared_over_all_settings(findings):
    """Of DAPO's two bands under noise one collapses always: half of one stratum in four."""
    (effect,) = findings.pooled
    found = effect.outcomes["collapsed"]
    assert found.mean == pytest.approx(0.5 / 4)
    assert found.low < found.mean < found.high, "alike in all seeds, and yet not certain"


def test_the_table_and_the_sentences_have_the_same_numbers(findings):
    table = findings.tables()["pooled"]
    assert table.headings[:5] == ("rule", "against", "surrogates", "seeds", "final avg@k")
    (line,) = table.rows
    assert line[2:5] == ("2 in 2 regimes", "4", "+0.025 [+0.012, +0.038], p 0.0088")
    said = answer(findings)
    assert said[0].startswith("1 of 1 rules help: at best ERC +0.025 [+0.012, +0.038]")
    assert "(Holm's p 0.0088)" in said[0]
    assert "pooled over 2 surrogates and 2 regimes, 4 seeds" in said[0]


def test_every_table_names_the_regime(findings):
    tables = findings.tables()
    for name in ("best", "differences", "settings", "training"):
        assert tables[name].headings[0] == "regime"
        assert {row[0] for row in tables[name].rows} == {"clean", "noise"}


def test_a_share_of_runs_has_an_interval():
    """Agresti and Coull's: none of five is no proof that it never happens."""
    low, high = share(0, 5)[1:3]
    assert low == 0.0
    assert 0.3 < high < 0.6
    assert share(5, 5).low == pytest.approx(1 - high)


def test_p_values_are_those_of_students_t():
    """Published quantiles: P(|T| > 2.776) = 0.05 at 4, P(|T| > 4.604) = 0.01 at 4 degrees."""
    from erclip.student import t_quantile, two_sided_p

    for t, degrees, p in ((2.776445, 4, 0.05), (4.604095, 4, 0.01), (12.706205, 1, 0.05)):
        assert two_sided_p(t, degrees) == pytest.approx(p, rel=1e-5)
        assert two_sided_p(-t, degrees) == pytest.approx(p, rel=1e-5)
    half = t_quantile(4)  # an interval whose end is at 0 has p = 0.05 by construction
    assert p_value(Interval.around(half, half, 5)) == pytest.approx(0.05)
    assert p_value(Interval.around(0.0, 0.0, 5)) == 1.0
    assert math.isnan(p_value(Interval.around(0.3, math.nan, 1)))


def test_holms_correction():
    """Holm's own order: 4 · 0.005, 3 · 0.01, 2 · 0.03, 1 · 0.04 raised to the one before."""
    found = holm([0.01, 0.04, 0.03, 0.005])
    assert found == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    assert corrected([None, Interval.around(0.1, 0.05, 5)])[1] == p_value(
        Interval.around(0.1, 0.05, 5)
    )
