"""The live line: what a run is doing, in every width, in a terminal and in a pipe."""

from __future__ import annotations

import io

import pytest

from erclip.config import Config
from erclip.machine.console import Console
from erclip.runs.clock import PhaseClock, RunClock, duration, live_line
from erclip.runs.progress import ProgressDisplay
from erclip.runs.rollout_words import describe_rollout

NUMBERS = {
    "train/reward": 0.37, "policy/entropy": 0.14, "clip/ppo_frac": 0.0, "clip/erc_frac": 0.118,
    "grad/norm": 0.27, "time/rollout_s": 65.0,
}  # fmt: skip


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("erclip.runs.clock.time.monotonic", lambda: now[0])
    monkeypatch.setattr("erclip.runs.progress.time.monotonic", lambda: now[0])
    return now


def display(settings=None, **console):
    out = io.StringIO()
    config = Config.model_validate({"trainer": {"rollouts": 60}, **(settings or {})})
    return ProgressDisplay(config, Console(file=out, **console)), out


def test_what_is_left_of_a_phase_and_of_the_run(clock):
    phase, run = PhaseClock("sampling", 512, "responses"), RunClock(60, every=20)
    assert live_line(phase, run, 200) == "rollout 1/60  sampling 0/512 responses  for 0:00"
    clock[0] += 30
    phase.advance(112, share=0.25)
    line = live_line(phase, run, 200)
    assert line == "rollout 1/60  sampling 112/512 responses  at most 1:30 left"
    run.take("eval", 0, {"time/eval_s": 100.0})
    run.take("rollout", 1, {"time/rollout_s": 60.0})
    clock[0] += 10  # 59 rollouts and 3 evaluations less what has passed
    assert run.left_s == 59 * 60 + 3 * 100 - 10
    phase = PhaseClock("scoring", 2000, "tokens", done=500)
    clock[0] += 10
    line = live_line(phase, run, 200)
    assert line == "rollout 2/60  scoring 500/2,000 tokens  0:30 left  run 1:03:40 left"


@pytest.mark.parametrize("width", [20, 30, 40, 50, 60, 80])
def test_the_line_fits(width, clock):
    run = RunClock(10_000, every=0)
    run.take("rollout", 1234, {"time/rollout_s": 3600.0})
    for phase in (
        PhaseClock("sampling", 65_536, "responses", done=60_000, share=0.1),
        PhaseClock("updating", 12_345_678, "tokens", done=1_000_000),
        PhaseClock("saving"),
    ):
        clock[0] += 100
        line = live_line(phase, run, width)
        assert len(line) < width or line == f"1235/10000 {phase.phase}"
        assert phase.phase in line


def test_a_finished_rollout_fits_60_columns():
    wide = describe_rollout("6/60", NUMBERS, 200)
    expected = (
        "rollout 6/60  reward 0.37  entropy 0.14  clipped ppo 0.0 % erc 11.8 %  grad 0.27  1:05"
    )
    assert wide == expected
    narrow = describe_rollout("6/60", NUMBERS, 60)
    assert narrow == "6/60 reward 0.37 entropy 0.14 clipped ppo 0.0 % erc 11.8 %"


def test_a_pipe_gets_plain_lines(clock):
    shown, out = display()
    with shown:
        shown.begin("sampling", 512, "responses")
        for _ in range(130):
            clock[0] += 1.0
            shown.advance(1, share=0.001)
        shown.on_log("update", 1, {"grad/norm": 0.27})
        shown.on_log("rollout", 1, NUMBERS)
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert [line.split("  ")[1] for line in lines[:2]] == [
        "sampling 61/512 responses",
        "sampling 122/512 responses",
    ]
    assert lines[2].startswith("rollout 1/60  reward 0.37")
    assert len(lines) == 3


@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_keeps_a_line_per_rollout(no_color, clock):
    shown, out = display(force_terminal=True, width=60, no_color=no_color)
    with shown:
        shown.begin("sampling", 512, "responses")
        for rollout in (1, 2, 3):
            shown.on_log("update", rollout, {"grad/norm": 0.27})
            shown.on_log("rollout", rollout, NUMBERS)
    text = out.getvalue()
    assert all(f"{n}/60 reward 0.37 entropy 0.14" in text for n in (1, 2, 3))
    assert "rollout 4/60  sampling 0/512 responses" in text
    assert "nothing" not in text


@pytest.mark.parametrize(("seconds", "told"), [(0.1, False), (10.0, True)])
def test_an_evaluation_that_is_dear_says_so(seconds, told, clock):
    settings = {"eval": {"responses": 4, "every": 20}, "sampler": {"max_tokens": 96}}
    shown, out = display(settings)
    shown.begin("evaluating", 512, "responses")
    for step in range(1, 40):
        clock[0] += seconds
        shown.advance(0, share=step / 96)
    assert ("each of 4 evaluations takes at most 16:00: 128 prompts" in out.getvalue()) is told
    assert out.getvalue().count("eval.prompts") == told


def test_durations():
    assert [duration(s) for s in (0.2, 59.6, 3600, 172_800)] == [
        "0:00",
        "1:00",
        "1:00:00",
        "2 d 0 h",
    ]
