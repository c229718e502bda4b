"""Each backend, written by its own package and read back from what that package stored.

tensorboard is in the extra `dev`; `make test-trackers` installs the others, else they are skipped.
"""

from __future__ import annotations

import json
import struct

import pytest

from erclip.config import Config
from erclip.config.recipes import load_recipe
from erclip.errors import UserError
from erclip.runs.trackers import Tracking
from erclip.runs.trackers.kinds import make_tracker
from erclip.training.trainer import Trainer

CURVE = "policy/entropy_nats_per_token"
SHORT = ["trainer.rollouts=2", "rollout.prompts=8", "trainer.updates_per_rollout=2"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Trains two short rollouts under a tracker: (folder, lines of metrics.jsonl)."""
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    warnings = []

    def train(tracker):
        out = tmp_path / "a-run"
        recipe = load_recipe(
            "quickstart",
            [*SHORT, "eval.prompts=4", "trainer.saved_samples=3", f"trackers=[{tracker}]"],
        )
        with Tracking(recipe.config.trackers, out, warnings.append) as tracking:
            Trainer(recipe, out, tracking).train()
        assert not warnings
        return out, [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]

    return train


def entropies(lines):
    """Step → entropy of every update, as metrics.jsonl has it."""
    return {line["update"]: line["policy/entropy"] for line in lines if line["kind"] == "update"}


def test_tensorboard(run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out, lines = run('"tensorboard"')
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    curve = {event.step: event.value for event in events.Scalars(CURVE)}
    assert curve == pytest.approx(entropies(lines), rel=1e-6)
    assert [event.step for event in events.Scalars("eval/countdown/avg_at_4")] == [0, 2]
    text = [
        event.tensor_proto.string_val[0].decode()
        for event in events.Tensors("samples/text_summary")
    ]
    assert len(text) == 2
    assert len(text[0].splitlines()) == 2 + 3
    assert text[0].startswith("|prompt|response|gold|answer|correct|")


def records(log):
    """The records of a file in LevelDB's log format, after wandb's own 7 bytes of header."""
    record, position = b"", 7
    while position + 7 <= len(log):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        length, kind = struct.unpack("<HB", log[position + 4 : position + 7])
        record += log[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last of several parts
            yield record
            record = b""


def test_wandb_offline(run):
    wandb = pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    out, lines = run('{kind="wandb", mode="offline"}')
    (file,) = out.glob("wandb/offline-run-*/run-*.wandb")
    history, axes = [], {}
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            history.append(
                {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
            )
        if record.WhichOneof("record_type") == "metric":
            axes[record.metric.name] = record.metric.step_metric
    curve = {row["update"]: row[CURVE] for row in history if CURVE in row}
    assert curve == pytest.approx(entropies(lines))
    assert (axes[CURVE], axes["train/reward"]) == ("update", "rollout")
    assert sum(any(key.startswith("samples") for key in row) for row in history) == 2
    tables = [
        json.loads(path.read_text())
        for path in out.glob("wandb/offline-run-*/files/**/*.table.json")
    ]
    assert [(len(table["data"]), table["columns"][:2]) for table in tables] == [
        (3, ["prompt", "response"])
    ] * 2
    assert wandb.run is None


def test_wandb_without_a_login_is_refused(monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(type(wandb.api), "api_key", None)
    (config,) = Config.model_validate({"trackers": ["wandb"]}).trackers
    with pytest.raises(UserError, match="not logged in: run `wandb login`"):
        make_tracker(config)


def test_mlflow_sqlite(run):
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow import MlflowClient

    out, lines = run('"mlflow"')
    client = MlflowClient(tracking_uri=f"sqlite:///{out / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("erclip")
    (found,) = client.search_runs([experiment.experiment_id])
    curve = {m.step: m.value for m in client.get_metric_history(found.info.run_id, CURVE)}
    assert curve == pytest.approx(entropies(lines))
    assert found.data.params["trainer.rollouts"] == "2"
    assert (found.info.run_name, found.info.status) == ("a-run", "FINISHED")
    (table,) = out.glob("mlflow-artifacts/**/samples/rollout_00002.json")
    assert len(json.loads(table.read_text())["data"]) == 3


def test_trackio_local(run, tmp_path):
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    _, lines = run('"trackio"')
    logs = SQLiteStorage.get_logs("erclip", "a-run")
    assert {row["step"]: row[CURVE] for row in logs if CURVE in row} == pytest.approx(
        entropies(lines)
    )
    tables = [row["samples"] for row in logs if "samples" in row]
    assert len(tables) == 2
