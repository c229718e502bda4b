"""What trackers are sent, and that none of them can slow or end a run."""

from __future__ import annotations

import json
import threading
import time

import pytest

from erclip.config import Config
from erclip.errors import UserError
from erclip.runs.metrics import METRICS, find_metric
from erclip.runs.trackers import Observers, Tracking, tracking
from erclip.runs.trackers.base import CELL, COLUMNS, table_row, tracked
from erclip.runs.trackers.kinds import make_tracker

SAMPLE = {
    "rollout": 1, "prompt_id": "p", "prompt": "1+1?", "response": "2", "gold": "2", "answer": "2",
    "correct": True, "reason": "correct", "reward": 1.0, "advantage": 0.5, "truncated": False,
    "tokens": 3,
}  # fmt: skip


class Memory:
    """A tracker that remembers; `fail` raises in log for these steps."""

    def __init__(self, fail=(), start_error=None, gate=None):
        self.calls, self.fail, self.start_error, self.gate = [], fail, start_error, gate

    def start(self, run):
        if self.start_error:
            raise self.start_error
        self.run = run

    def log(self, axis, step, metrics):
        if self.gate:
            self.gate.wait(10)
        if (axis, step) in self.fail:
            raise ConnectionError("no\nnetwork")
        self.calls.append((axis, step, dict(metrics)))

    def log_samples(self, rollout, rows):
        self.calls.append(("samples", rollout, list(rows)))

    def finish(self):
        self.calls.append("finished")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"config": {"seed": 1}, "started": "now"}))
    return tmp_path


@pytest.fixture
def start(folder, monkeypatch):
    """(tracking, warnings) around the given tracker."""

    def make(tracker):
        monkeypatch.setattr(tracking, "make_tracker", lambda config: tracker)
        warnings = []
        configs = Config.model_validate({"trackers": ["tensorboard"]}).trackers
        return Tracking(configs, folder, warnings.append), warnings

    return make


def write_samples(folder, *rollouts):
    with (folder / "samples.jsonl").open("a") as file:
        for rollout in rollouts:
            file.write(json.dumps({**SAMPLE, "rollout": rollout}) + "\n")


def test_lines_arrive_in_order_with_their_samples(folder, start):
    memory = Memory()
    tracking, warnings = start(memory)
    tracking.on_log("eval", 0, {"eval/countdown/avg_at_4": 0.25, "time/eval_s": 1.0})
    write_samples(folder, 1, 1)
    tracking.on_log("update", 1, {"update": 1, "update_in_rollout": 1, "grad/norm": 2.0})
    tracking.on_log("rollout", 1, {"train/reward": 0.5})
    tracking.close()
    row = {name: SAMPLE[name] for name in COLUMNS}
    assert memory.calls == [
        ("rollout", 0, {"eval/countdown/avg_at_4": 0.25, "time/eval_s": 1.0}),
        ("update", 1, {"grad/norm": 2.0}),
        ("rollout", 1, {"train/reward": 0.5}),
        ("samples", 1, [row, row]),
        "finished",
    ]
    assert memory.run.config == {"config": {"seed": 1}, "started": "now"}
    assert (memory.run.path, memory.run.name) == (folder, folder.name)
    assert not warnings


def test_a_resumed_run_has_the_same_id_and_sends_no_sample_twice(folder, start):
    write_samples(folder, 1)
    ids = []
    for rollout in (2, 3):
        memory = Memory()
        tracking, _ = start(memory)
        write_samples(folder, rollout, rollout + 1)  # a later one may already be written
        tracking.on_log("rollout", rollout, {"train/reward": 0.5})
        tracking.close()
        ids.append(memory.run.id)
        sent = [call for call in memory.calls if call[0] == "samples"]
        assert [(call[1], len(call[2])) for call in sent] == [(rollout, 1)]
    assert ids[0] == ids[1]


def test_a_file_that_a_resume_cut_back_is_read_from_its_start(folder, start):
    write_samples(folder, 1, 1, 2, 2)
    memory = Memory()
    tracking, _ = start(memory)
    (folder / "samples.jsonl").write_text("")
    write_samples(folder, 1, 2)
    tracking.on_log("rollout", 2, {})
    tracking.close()
    assert [(c[1], len(c[2])) for c in memory.calls if c[0] == "samples"] == [(2, 1)]


def test_a_tracker_that_fails_is_one_warning_and_goes_on(start):
    memory = Memory(fail=[("update", 2), ("update", 3)])
    tracking, warnings = start(memory)
    for update in range(1, 5):
        tracking.on_log("update", 1, {"update": update, "grad/norm": 1.0})
    tracking.close()
    assert [call[1] for call in memory.calls[:-1]] == [1, 4]
    assert warnings == [
        "tracker tensorboard failed; the run goes on (ConnectionError: no network)",
        "tracker tensorboard lost 2 lines; metrics.jsonl is complete",
    ]


def test_a_tracker_that_cannot_start_is_left_out(start):
    memory = Memory(start_error=OSError("offline"))
    tracking, warnings = start(memory)
    for update in range(3):
        tracking.on_log("update", 1, {"update": update})
    tracking.close()
    assert memory.calls == []
    assert warnings == ["tracker tensorboard could not start and is left out (OSError: offline)"]


def test_a_tracker_that_blocks_holds_up_nothing(start):
    gate = threading.Event()
    memory = Memory(gate=gate)
    tracking, warnings = start(memory)
    started = time.perf_counter()
    for update in range(2000):
        tracking.on_log("update", 1, {"update": update, "grad/norm": 1.0})
    assert time.perf_counter() - started < 1.0
    tracking.close(timeout_s=0.05)
    assert warnings == [
        "tracker tensorboard did not finish within 0.05 s; metrics.jsonl is complete"
    ]
    gate.set()


def test_observers_all_see_every_line():
    class Seen(list):
        def on_log(self, *line):
            self.append(line)

    first, second = Seen(), Seen()
    Observers(first, second).on_log("rollout", 1, {"train/reward": 1.0})
    assert first == second == [("rollout", 1, {"train/reward": 1.0})]


@pytest.mark.parametrize("name", METRICS)
def test_a_tracked_name_shows_its_unit(name):
    full = name if "/" in name else f"eval/set/{name.replace('at_k', 'at_4')}"
    assert find_metric(full) is METRICS[name]
    (got,) = tracked("update", 1, {"update": 1, full: 0.0}).metrics
    unit = METRICS[name].unit
    ends = {
        "nats": "_nats", "nats/token": "_nats_per_token", "tokens": "tokens", "s": "_s",
        "responses": "responses",
    }  # fmt: skip
    assert got.startswith(full)
    assert got.endswith(ends.get(unit, full))


def test_cells_are_bounded_and_printable():
    row = table_row({**SAMPLE, "response": "a\x00\x1bb\n" + "x" * (CELL + 90), "answer": None})
    assert row["response"].startswith("a\\x00\\x1bb\nxxx")
    assert row["response"].endswith("xxx … (101 more characters)")
    assert row["answer"] is None


def test_a_missing_package_is_refused_before_the_run(monkeypatch):
    monkeypatch.setattr("erclip.extras.find_spec", lambda name: None)
    for config in Config.model_validate(
        {"trackers": ["trackio", "wandb", "tensorboard", "mlflow"]}
    ).trackers:
        with pytest.raises(UserError, match=rf"pip install 'erclip\[{config.kind}\]'"):
            make_tracker(config)
