"""The backends. Each imports its package when it starts, on its own thread."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from erclip.config.trackers import (
    MlflowTracker,
    TensorboardTracker,
    TrackerConfig,
    TrackioTracker,
    WandbTracker,
)
from erclip.errors import UserError
from erclip.extras import stand_on
from erclip.runs.trackers.base import COLUMNS, Axis, Row, RunInfo, Tracker


def make_tracker(config: TrackerConfig) -> Tracker:
    """The tracker of a configuration; a missing package or login is refused here, at once."""
    stand_on(config.kind, f"the tracker {config.kind}")  # the kinds are named after their extras
    if isinstance(config, TrackioTracker):
        return Trackio(config)
    if isinstance(config, WandbTracker):
        return Wandb(config)
    return Tensorboard(config) if isinstance(config, TensorboardTracker) else Mlflow(config)


class Trackio:
    """trackio: local SQLite files, or a Space on the hub. `trackio show` displays them."""

    def __init__(self, config: TrackioTracker):
        self.config = config

    def start(self, run: RunInfo) -> None:
        """See `Tracker`."""
        trackio: Any = import_module("trackio")
        self._table = trackio.Table
        self._run: Any = trackio.init(
            project=self.config.project,
            name=self.config.name or run.name,
            space_id=self.config.space_id,
            config=dict(run.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, axis: Axis, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log(dict(metrics), step=step)

    def log_samples(self, rollout: int, rows: Sequence[Row]) -> None:
        """See `Tracker`."""
        import pandas

        table = self._table(dataframe=pandas.DataFrame(list(rows), columns=list(COLUMNS)))
        self._run.log({"samples": table}, step=rollout)

    def finish(self) -> None:
        """See `Tracker`."""
        self._run.finish()


class Wandb:
    """Weights & Biases; offline runs lie in the run directory, `wandb sync` sends them."""

    def __init__(self, config: WandbTracker):
        self.config = config
        self.mode = config.mode or os.environ.get("WANDB_MODE", "online")
        self._defined: set[str] = set()
        if self.mode == "online" and import_module("wandb").api.api_key is None:
            raise UserError(
                'The tracker wandb is not logged in: run `wandb login` or set its mode = "offline".'
            )

    def start(self, run: RunInfo) -> None:
        """See `Tracker`."""
        wandb: Any = import_module("wandb")
        self._table = wandb.Table
        self._run: Any = wandb.init(
            project=self.config.project,
            entity=self.config.entity,
            name=self.config.name or run.name,
            id=run.id,
            resume="allow",
            dir=str(run.path),
            mode=self.mode,
            config=dict(run.config),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, axis: Axis, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker`; every curve is drawn over updates or over rollouts."""
        for name in metrics.keys() - self._defined:
            self._run.define_metric(name, step_metric=axis)
            self._defined.add(name)
        self._run.log({axis: step, **metrics})

    def log_samples(self, rollout: int, rows: Sequence[Row]) -> None:
        """See `Tracker`."""
        data = [list(row.values()) for row in rows]
        table = self._table(columns=list(COLUMNS), data=data, allow_mixed_types=True)
        self._run.log({"rollout": rollout, "samples": table})

    def finish(self) -> None:
        """See `Tracker`."""
        self._run.finish()


class Tensorboard:
    """Event files in the run directory, for `tensorboard --logdir`."""

    def __init__(self, config: TensorboardTracker):
        self.config = config

    def start(self, run: RunInfo) -> None:
        """See `Tracker`."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(self.config.folder or str(run.path / "tensorboard"))
        self._writer.add_text("config", f"```json\n{json.dumps(run.config, indent=2)}\n```")

    def log(self, axis: Axis, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def log_samples(self, rollout: int, rows: Sequence[Row]) -> None:
        """See `Tracker`; TensorBoard has no table but shows Markdown."""
        cells = ((markdown_cell(row[name]) for name in COLUMNS) for row in rows)
        lines = (f"|{'|'.join(line)}|" for line in (COLUMNS, ("---",) * len(COLUMNS), *cells))
        self._writer.add_text("samples", "\n".join(lines), rollout)
        self._writer.flush()

    def finish(self) -> None:
        """See `Tracker`."""
        self._writer.close()


def markdown_cell(value: object) -> str:
    """Text that means itself inside a Markdown table.

    >>> markdown_cell("a|b <i>*x*\\n2"), markdown_cell(None)
    ('a&#124;b &#60;i&#62;&#42;x&#42;<br>2', '')
    """
    if value is None:
        return ""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    special = "&<>|*_`[]\\~#"
    return "<br>".join(
        "".join(f"&#{ord(c)};" if c in special else c for c in line) for line in text.split("\n")
    )


class Mlflow:
    """MLflow: a server, or a SQLite file in the run directory where none is named."""

    def __init__(self, config: MlflowTracker):
        self.config = config

    def start(self, run: RunInfo) -> None:
        """See `Tracker`; a resumed run is found by its tag."""
        local = f"sqlite:///{run.path.resolve() / 'mlflow.db'}"
        uri = self.config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", local)
        self._client: Any = import_module("mlflow").MlflowClient(tracking_uri=uri)
        experiment = self._client.get_experiment_by_name(self.config.experiment)
        where = (run.path.resolve() / "mlflow-artifacts").as_uri() if uri == local else None
        experiment_id = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(self.config.experiment, artifact_location=where)
        )
        found = self._client.search_runs([experiment_id], f"tags.erclip_run = '{run.id}'")
        if found:
            self._id = found[0].info.run_id
            return
        name = self.config.name or run.name
        tags = {"erclip_run": run.id}
        self._id = self._client.create_run(experiment_id, run_name=name, tags=tags).info.run_id
        for key, value in flat(run.config.get("config", {})).items():
            self._client.log_param(self._id, key, value)

    def log(self, axis: Axis, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker`."""
        make, now = import_module("mlflow.entities").Metric, int(time.time() * 1000)
        found = [make(name, value, now, step) for name, value in metrics.items()]
        self._client.log_batch(self._id, metrics=found)

    def log_samples(self, rollout: int, rows: Sequence[Row]) -> None:
        """See `Tracker`."""
        columns = {name: [row[name] for row in rows] for name in COLUMNS}
        self._client.log_table(self._id, columns, f"samples/rollout_{rollout:05d}.json")

    def finish(self) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self._id)


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted keys.

    >>> flat({"loss": {"low": 0.2}, "seed": 1})
    {'loss.low': '0.2', 'seed': '1'}
    """
    found: dict[str, str] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: str(value)}
    return found
