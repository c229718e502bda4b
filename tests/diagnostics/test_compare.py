"""Differences over seeds: worked by hand, and silent inside the noise."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from erclip.errors import UserError
from erclip.report.methods import compare_sheet, difference, group
from erclip.runs.read import read_runs
from erclip.statistics import estimate, paired, unpaired

KEY = ("countdown", 4)


def write(path: Path, value: float, seed: int, erc: bool = False, half: float = 0.02) -> Path:
    path.mkdir()
    constraints = [{"kind": "entropy_ratio_clip", "low": 0.05, "high": 0.05}] if erc else []
    loss = {"surrogate": {"kind": "ppo_clip", "low": 0.2, "high": 0.28}, "constraints": constraints}
    settings = {"loss": loss, "trainer": {"seed": seed}, "ledger": {"every": 10 * seed}}
    config = {"recipe": "r", "seed": seed, "config": settings}
    (path / "config.json").write_text(json.dumps(config))
    name = "eval/countdown/avg_at_4"
    rows = [
        {"kind": "eval", "rollout": r, name: v, f"{name}_low": v - half, f"{name}_high": v + half}
        for r, v in ((0, 0.3), (10, value))
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def runs(tmp_path, plain: list[float], erc: list[float], erc_seeds=None) -> list[Path]:
    seeds = erc_seeds or range(len(erc))
    return [
        *(write(tmp_path / f"plain-{s}", v, s) for s, v in enumerate(plain)),
        *(write(tmp_path / f"erc-{s}", v, s, erc=True) for s, v in zip(seeds, erc, strict=True)),
    ]


def test_students_intervals():
    # differences 0.02, 0.04, 0.03: mean 0.03, sd 0.01, t(2) = 4.303
    found = paired({0: 0.5, 1: 0.4, 2: 0.45}, {0: 0.52, 1: 0.44, 2: 0.48})
    assert found.mean == pytest.approx(0.03)
    assert found.half == pytest.approx(4.302653 * 0.01 / math.sqrt(3))
    # Welch: errors 0.01 and 0.02 of two seeds each, ν = 0.0005² / (0.0001² + 0.0004²) = 1.47
    found = unpaired([0.49, 0.51], [0.58, 0.62])
    assert found.mean == pytest.approx(0.1)
    assert found.half == pytest.approx(12.706205 * math.sqrt(0.0005))
    assert math.isnan(estimate([0.4]).half)
    assert paired({0: 0.5, 1: 0.4}, {1: 0.5, 2: 0.6}) is None


def test_runs_are_grouped_by_everything_but_the_seed(tmp_path):
    methods = group(read_runs(runs(tmp_path, [0.5, 0.4], [0.5, 0.6])))
    assert [(method.label, sorted(method.runs)) for method in methods] == [
        ("DAPO", [0, 1]),
        ("ERC-DAPO", [0, 1]),
    ]


@pytest.mark.parametrize(
    ("plain", "erc", "seeds", "words"),
    [
        ([0.40, 0.50, 0.45], [0.43, 0.53, 0.485], None, "gain, +0.032 [+0.024, +0.039] (paired"),
        ([0.40, 0.50, 0.45], [0.37, 0.47, 0.415], None, "loss, −0.032 [−0.039, −0.024] (paired"),
        ([0.40, 0.50, 0.45], [0.50, 0.40, 0.46], None, "no difference shown, +0.003"),
        ([0.40, 0.40], [0.60, 0.61], [7, 8], "gain, +0.205 [+0.141, +0.269] (2 against 2 seeds)"),
        ([0.40], [0.41], None, "no difference shown, +0.010 [−0.018, +0.038] (one run of each)"),
        ([0.40], [0.45], None, "gain, +0.050 [+0.022, +0.078] (one run of each). The interval co"),
    ],
    ids=["gain", "loss", "crossed", "other seeds", "one seed, noise", "one seed, beyond noise"],
)
def test_nothing_inside_the_noise_is_a_gain(plain, erc, seeds, words, tmp_path):
    sheet = compare_sheet(runs(tmp_path, plain, erc, seeds))
    assert sheet.sentences[0].startswith(f"ERC-DAPO against DAPO on countdown, avg@4: {words}")
    assert (len(sheet.plots) == 2) == (len(plain) > 1 and seeds is None)


def test_single_runs_with_wide_intervals_show_nothing(tmp_path):
    paths = [
        write(tmp_path / "a", 0.4, 0, half=0.1),
        write(tmp_path / "b", 0.5, 0, erc=True, half=0.1),
    ]
    methods = group(read_runs(paths))
    found, covers = difference(*methods, KEY)
    assert found.half == pytest.approx(math.hypot(0.1, 0.1))
    assert covers == "one run of each"


def test_what_cannot_be_compared_is_named(tmp_path):
    paths = runs(tmp_path, [0.4, 0.5], [0.5])
    with pytest.raises(UserError, match="give runs of at least two methods"):
        compare_sheet(paths[:2])
    with pytest.raises(UserError, match="have the same settings and seed 0"):
        compare_sheet([*paths, write(tmp_path / "again", 0.4, 0)])
    for path in paths:
        (path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="hold no evaluation"):
        compare_sheet(paths)
