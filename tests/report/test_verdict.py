"""Each verdict against runs made to deserve it, or not."""

from __future__ import annotations

import html
import json

import pytest

from erclip.config.recipes import load_recipe
from erclip.report import build_report
from erclip.report.headline import headline
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
        (
            "accuracy on countdown",
            evals(0.3, 0.5, 0.03),
            "good",
            "Accuracy rose: avg@4 from 0.300 to 0.500, +20.0",
        ),
        (
            "accuracy on countdown",
            evals(0.5, 0.4, 0.03),
            "warning",
            "Accuracy fell: avg@4 from 0.500",
        ),
        ("accuracy on countdown", evals(0.30, 0.34, 0.03), "none", "No difference shown: "),
        ("entropy", each("rollout", policy__entropy=0.3), "good", "Entropy neither collapsed"),
        (
            "entropy",
            each("rollout", policy__entropy=lambda row: 0.3 / row["rollout"] ** 1.5),
            "warning",
            "Entropy collapsed: 0.106 to 0.00822 nats/token, 0.08 times the start",
        ),
        (
            "entropy",
            each("rollout", policy__entropy=lambda row: 0.1 * row["rollout"]),
            "warning",
            "Entropy exploded: 0.2 to 1.1 nats/token, 5.50 times the start",
        ),
        ("gradient spikes", each("update", grad__norm=0.5), "good", "No gradient spiked: largest"),
        (
            "gradient spikes",
            each("update", grad__norm=lambda row: 6.0 if row["update"] == 3 else 0.5),
            "warning",
            "Gradients spiked: 1 of 96 updates over 10 times the median, largest norm 6, 12.0 ",
        ),
        (
            "gradient spikes",
            each("update", grad__norm=0.5, grad__skipped=lambda row: float(row["update"] < 3)),
            "warning",
            "Gradients were not finite: 0 of 96 updates over 10 times the median, largest norm "
            "0.5, 1.0 times the median; 2 updates skipped",
        ),
        (
            "clipping noise",
            each("rollout", erc__noise_frac=0.0),
            "good",
            "ERC clips 12 % of tokens, none of it noise: 0.00 %",
        ),
        (
            "clipping noise",
            lambda rows: [
                each("rollout", erc__noise_frac=0.06)(rows),
                each("update", clip__erc_frac=0.2)(rows),
            ],
            "warning",
            "ERC clips 20 % of tokens, 30 % of it noise: 6.00 % are clipped where the true",
        ),
        (
            "clipping noise",
            lambda rows: [
                each("rollout", erc__noise_frac=0.0, erc__rounding_frac=0.12)(rows),
                each("update", clip__erc_frac=0.16)(rows),
            ],
            "warning",
            "ERC clips 16 % of tokens, 75 % of it noise: 12.00 % are clipped where the true ratio "
            "is 1 (limit: 25 % of what is clipped)",
        ),
        (
            "clipping noise",
            lambda rows: [
                each("rollout", erc__rounding_frac=0.12)(rows),
                each("update", clip__erc_frac=0.003)(rows),
            ],
            "warning",
            "ERC clips 0.3 % of tokens, all of it noise: 12.00 % are clipped where the true ratio "
            "is 1 (limit: 25 % of what is clipped)",
        ),
        ("staleness", each("update", policy__kl_old=0.01), "good", "Rollouts stay fresh: KL("),
        (
            "staleness",
            each("update", policy__kl_old=lambda row: 0.02 * row["update_in_rollout"]),
            "warning",
            "Rollouts go stale: KL(old‖new) 0.16 nats/token",
        ),
        (
            "truncation",
            each("rollout", train__truncated_frac=0.01),
            "good",
            "Few responses are cut off: 1 %",
        ),
        (
            "truncation",
            each("rollout", train__truncated_frac=0.4),
            "warning",
            "Many responses are cut off: 40 % of them at the end of the run (> 5 %)",
        ),
        (
            "dead groups",
            each("rollout", train__groups_kept_frac=0.8),
            "good",
            "Most groups teach: 2",
        ),
        (
            "dead groups",
            each("rollout", train__groups_kept_frac=0.3),
            "warning",
            "Most groups teach nothing: 70 %",
        ),
        (
            "sampler and trainer",
            each("rollout", sampler__logprob_diff=0.1),
            "warning",
            "Sampler and trainer d",
        ),
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
            "Sampling takes most of the time: sampling takes 70 % of a rollout, scoring",
        ),
        (
            "bottleneck",
            each("rollout", time__trainer_wait_frac=0.05, time__sampler_wait_frac=0.4),
            "none",
            "Updates keep the sampler waiting: the trainer waits 5 % of its time, the sampler 40 %",
        ),
        (
            "bottleneck",
            each("rollout", time__trainer_wait_frac=0.05, time__sampler_wait_frac=0.04),
            "good",
            "Sampler and trainer keep step: the trainer waits 5 %",
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
    assert found.sentence.startswith("Sampler and trainer agree: log-probs differ by 0.001")


def test_the_report_and_the_json_say_the_same(tmp_path, write_run):
    run = write_run(tmp_path / "run", change=evals(0.3, 0.5, 0.03))
    text = html.unescape(build_report([run]).read_text())
    assert text.index(headline(read_run(run)).sentence) < text.index("<table")
    found = json.loads((run / "verdict.json").read_text())
    assert found[0]["name"] == "accuracy on countdown"
    for verdict in found:
        assert verdict["numbers"] in text
        assert verdict["words"] in text


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


def moved(rows, **metrics):
    """Change: no update moves anything, and every rollout has these metrics."""
    each("update", grad__norm=0.0)(rows)
    each("rollout", **metrics)(rows)


FINE = each("rollout", train__groups_kept_frac=0.9, train__truncated_frac=0.0)


@pytest.mark.parametrize(
    ("change", "status", "sentence"),
    [
        (
            evals(0.3, 0.5, 0.03),
            "good",
            "Accuracy on countdown rose from 30.0 to 50.0 % (+20.0 points, 95 % interval +15.8 to "
            "+24.2).",
        ),
        (
            evals(0.5, 0.4, 0.03),
            "warning",
            "Accuracy on countdown fell from 50.0 to 40.0 % (−10.0 points, 95 % interval −14.2 to "
            "−5.8).",
        ),
        (
            evals(0.3, 0.31, 0.03),
            "none",
            "No difference is shown: accuracy on countdown went from 30.0 to 31.0 % (+1.0 points, "
            "95 % interval −3.2 to +5.2).",
        ),
        (
            lambda rows: [
                evals(0.3, 0.5, 0.03)(rows),
                each("rollout", train__truncated_frac=0.4, sampler__logprob_diff=0.1)(rows),
            ],
            "warning",
            "Accuracy on countdown rose from 30.0 to 50.0 % (+20.0 points, 95 % interval +15.8 to "
            "+24.2); but many responses are cut off, sampler and trainer disagree.",
        ),
        (
            lambda rows: moved(rows, train__groups_kept_frac=0.0),
            "warning",
            "Nothing was learned: 100 % of groups had equal rewards; raise rollout.responses or "
            "sampler.temperature.",
        ),
        (
            lambda rows: moved(rows, train__groups_kept_frac=0.0, train__accuracy=0.0),
            "warning",
            "Nothing was learned: no response was right; take easier problems, or look at "
            "samples.jsonl.",
        ),
        (
            lambda rows: moved(rows, train__groups_kept_frac=0.0, train__accuracy=1.0),
            "warning",
            "Nothing was learned: every response was right; take harder problems.",
        ),
        (
            lambda rows: moved(rows, train__truncated_frac=1.0),
            "warning",
            "Nothing was learned: every response was cut off; raise sampler.max_tokens.",
        ),
        (
            each("update", grad__norm=float("nan")),
            "warning",
            "Nothing was learned: no gradient was finite; lower trainer.learning_rate.",
        ),
        (
            lambda rows: moved(rows),
            "warning",
            "Nothing was learned: every gradient was zero.",
        ),
    ],
)
def test_a_run_in_one_sentence(change, status, sentence, tmp_path, write_run):
    run = write_run(tmp_path / "run", change=lambda rows: [FINE(rows), change(rows)])
    found = headline(read_run(run))
    assert (found.sentence, found.status) == (sentence, status)


def test_without_two_evaluations_nothing_is_claimed(tmp_path, write_run):
    flat = lambda rows: [FINE(rows), each("rollout", train__reward=-0.5)(rows)]  # noqa: E731
    run = write_run(tmp_path / "run", eval_every=0, change=flat)
    assert headline(read_run(run)).sentence == (
        "Whether accuracy rose is not known, the training reward is −0.50: there are no two "
        "evaluations to compare."
    )


def test_of_several_sets_each_is_named(tmp_path, write_run):
    def change(rows):
        FINE(rows)
        ends = [row for row in rows if row["kind"] == "eval"]
        for name, last in (("easy", 0.9), ("hard", 0.3), ("odd", 0.1)):
            for row, value in ((ends[0], 0.3), (ends[-1], last)):
                for end, off in (("", 0.0), ("_low", -0.05), ("_high", 0.05)):
                    row[f"eval/{name}/avg_at_4{end}"] = value + off

    run = write_run(tmp_path / "run", sets=("easy", "hard", "odd"), change=change)
    found = headline(read_run(run))
    assert found == (
        "Accuracy rose on easy (+60.0 points), fell on odd (−20.0 points), shows no difference on "
        "hard (+0.0 points).",
        "warning",
    )


def test_an_unfinished_run_says_how_far_it_is(tmp_path, write_run):
    run = write_run(tmp_path / "run", change=FINE)
    config = json.loads((run / "config.json").read_text())
    config["config"]["trainer"]["rollouts"] = 20
    (run / "config.json").write_text(json.dumps(config))
    assert headline(read_run(run)).sentence.startswith("After 12 of 20 rollouts: accuracy on co")
    (run / "metrics.jsonl").write_text("")
    assert headline(read_run(run)).sentence == "Nothing is trained yet: no rollout is finished."


def test_no_interval_reaches_beyond_what_is_possible(tmp_path, write_run):
    run = write_run(tmp_path / "run", change=evals(0.0, 0.5, 1.0))
    first = verdicts(read_run(run))[0]
    assert (first.low, first.high) == (pytest.approx(0.5 - 2**0.5), 1.0)
    assert first.sentence.endswith("+50.0 points, 95 % interval −91.4 to +100.0")
