"""Each verdict against runs made to deserve it, or not."""

from __future__ import annotations

import json

import pytest

from erclip.config.recipes import load_recipe
from erclip.report import build_report
from erclip.report.verdict import verdicts
from erclip.runs.progress import ProgressDisplay
from erclip.runs.read import read_run


def evals(first: float, last: float, half: float):
    """Change: two evaluations with these values and half intervals."""

    def change(rows):
        found = [row for row in rows if row["kind"] == "eval"]
        for row, value in zip((found[0], found[-1]), (first, last), strict=True):
            row["eval/countdown/avg_at_4"] = value
            row["eval/countdown/avg_at_4_low"] = value - half
            row["eval/countdown/avg_at_4_high"] = value + half

    return change


def each(kind: str, **values):
    """Change: one metric of every line of a kind, by rollout; `_` stands for the slash."""

    def change(rows):
        for row in rows:
            if row["kind"] == kind:
                for name, value in values.items():
                    row[name.replace("__", "/")] = value(row) if callable(value) else value

    return change


@pytest.mark.parametrize(
    ("name", "change", "status", "start"),
    [
        ("accuracy on countdown", evals(0.3, 0.5, 0.03), "good", "rose, avg@4 from 0.300 to 0.500"),
        ("accuracy on countdown", evals(0.5, 0.4, 0.03), "warning", "fell, avg@4 from 0.500"),
        ("accuracy on countdown", evals(0.30, 0.34, 0.03), "none", "no difference shown"),
        ("entropy", each("rollout", policy__entropy=0.3), "good", "neither collapsed nor exploded"),
        (
            "entropy",
            each("rollout", policy__entropy=lambda row: 0.3 / row["rollout"] ** 1.5),
            "warning",
            "collapsed, 0.106 to 0.00822 nats/token, 0.08 times the start",
        ),
        (
            "entropy",
            each("rollout", policy__entropy=lambda row: 0.1 * row["rollout"]),
            "warning",
            "exploded, 0.2 to 1.1 nats/token, 5.50 times the start",
        ),
        ("gradient spikes", each("update", grad__norm=0.5), "good", "none, largest norm 0.5, 1.0"),
        (
            "gradient spikes",
            each("update", grad__norm=lambda row: 6.0 if row["update"] == 3 else 0.5),
            "warning",
            "1 of 96 updates over 10 times the median, largest norm 6, 12.0 times",
        ),
        (
            "gradient spikes",
            each("update", grad__norm=0.5, grad__skipped=lambda row: float(row["update"] < 3)),
            "warning",
            "0 of 96 updates over 10 times the median, largest norm 0.5, 1.0 times the median; 2 u",
        ),
        (
            "clipping noise",
            each("rollout", erc__noise_frac=0.0),
            "good",
            "little, 0.00 % of tokens",
        ),
        (
            "clipping noise",
            lambda rows: [
                each("rollout", erc__noise_frac=0.06)(rows),
                each("update", clip__erc_frac=0.2)(rows),
            ],
            "warning",
            "ERC clips noise, 6.00 % of tokens where the true ratio is 1, against 20.00 % in all",
        ),
        (
            "clipping noise",
            lambda rows: [
                each("rollout", erc__noise_frac=0.0, erc__rounding_frac=0.12)(rows),
                each("update", clip__erc_frac=0.16)(rows),
            ],
            "warning",
            "ERC clips noise, 12.00 % of tokens where the true ratio is 1, against 16.00 % in all: "
            "a share of 0.75 (limit 0.25)",
        ),
        (
            "clipping noise",
            lambda rows: [
                each("rollout", erc__rounding_frac=0.12)(rows),
                each("update", clip__erc_frac=0.003)(rows),
            ],
            "warning",
            "ERC clips noise, 12.00 % of tokens where the true ratio is 1, against 0.30 % in all: "
            "all of it (limit 0.25)",
        ),
        ("staleness", each("update", policy__kl_old=0.01), "good", "fresh, KL(old‖new) 0.01"),
        (
            "staleness",
            each("update", policy__kl_old=lambda row: 0.02 * row["update_in_rollout"]),
            "warning",
            "stale, KL(old‖new) 0.16 nats/token",
        ),
        ("truncation", each("rollout", train__truncated_frac=0.01), "good", "rare, 1 %"),
        (
            "truncation",
            each("rollout", train__truncated_frac=0.4),
            "warning",
            "frequent, 40 % of responses cut off at the end of the run (> 5 %)",
        ),
        ("dead groups", each("rollout", train__groups_kept_frac=0.8), "good", "few enough, 20 %"),
        ("dead groups", each("rollout", train__groups_kept_frac=0.3), "warning", "many, 70 %"),
        ("sampler and trainer", each("rollout", sampler__logprob_diff=0.1), "warning", "disagree"),
        (
            "bottleneck",
            each(
                "rollout",
                time__sample_s=0.6,
                time__grade_s=0.1,
                time__rollout_s=1.0,
                time__score_s=0.1,
                time__update_s=0.2,
            ),
            "none",
            "sampling, sampling takes 70 % of a rollout, scoring and updates 30 %",
        ),
        (
            "bottleneck",
            each("rollout", time__trainer_wait_frac=0.05, time__sampler_wait_frac=0.4),
            "none",
            "updates, the trainer waits 5 % of its time, the sampler 40 %",
        ),
        (
            "bottleneck",
            each("rollout", time__trainer_wait_frac=0.05, time__sampler_wait_frac=0.04),
            "good",
            "none, the trainer waits 5 %",
        ),
    ],
)
def test_each_verdict(name, change, status, start, tmp_path, write_run):
    run = write_run(tmp_path / "run", change=change)
    found = {verdict.name: verdict for verdict in verdicts(read_run(run))}
    assert found[name].status == status
    assert found[name].sentence.startswith(start)
    assert bool(found[name].remedy) == (status != "good")


def test_accuracy_has_its_interval(tmp_path, write_run):
    run = write_run(tmp_path / "run", change=evals(0.3, 0.5, 0.03))
    first = verdicts(read_run(run))[0]
    assert first.value == pytest.approx(0.2)
    assert (first.low, first.high) == pytest.approx((0.2 - 0.042426, 0.2 + 0.042426), abs=1e-5)


def test_sixteen_bits_are_not_cleared_by_equal_weights(tmp_path, write_run):
    """Without the measurement that rounds elsewhere; with it, its number decides."""
    run = write_run(tmp_path / "run", change=each("rollout", erc__noise_frac=0.0))
    config = json.loads((run / "config.json").read_text())
    config["config"]["model"]["dtype"] = "bfloat16"
    (run / "config.json").write_text(json.dumps(config))
    (noise,) = [v for v in verdicts(read_run(run)) if v.name == "clipping noise"]
    assert noise.status == "none"
    assert "erclip noise-floor" in noise.remedy
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    each("rollout", erc__rounding_frac=0.001)(rows)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (noise,) = [v for v in verdicts(read_run(run)) if v.name == "clipping noise"]
    assert noise.status == "good"


def test_a_late_rollout_is_no_mismatch(tmp_path, write_run):
    late = each("rollout", sampler__logprob_diff=0.1, staleness__max=8.0)
    run = write_run(tmp_path / "run", change=late)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first = next(i for i, row in enumerate(rows) if row["kind"] == "rollout")
    rows[first] |= {"sampler/logprob_diff": 0.001, "staleness/max": 0.0}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = [v for v in verdicts(read_run(run)) if v.name == "sampler and trainer"]
    assert found.sentence.startswith("agree, log-probs differ by 0.001")


def test_the_report_and_the_json_say_the_same(tmp_path, write_run):
    run = write_run(tmp_path / "run", change=evals(0.3, 0.5, 0.03))
    html = build_report([run]).read_text()
    found = json.loads((run / "verdict.json").read_text())
    assert found[0]["name"] == "accuracy on countdown"
    for verdict in found:
        assert verdict["sentence"].replace("'", "&#39;") in html


def test_a_run_without_numbers_gets_no_verdict(tmp_path, write_run):
    run = write_run(tmp_path / "run", samples=[])
    (run / "metrics.jsonl").write_text("")
    assert verdicts(read_run(run)) == []


def test_training_warns_once_and_names_the_remedy(capsys):
    display = ProgressDisplay(load_recipe("quickstart").config)
    for rollout, noise in ((1, 0.01), (2, 0.08), (3, 0.09)):
        for share in (noise, 0.19):
            display.on_log("update", rollout, {"clip/erc_frac": share, "clip/ppo_frac": 0.0})
        measured = {"erc/noise_frac": 0.0, "erc/rounding_frac": noise}
        display.on_log("rollout", rollout, {"train/reward": 0.0, **measured})
    out = capsys.readouterr().out
    assert out.count("warning: ERC clips noise: 8.0 % of tokens") == 1
    assert "min_entropy_change" in out
