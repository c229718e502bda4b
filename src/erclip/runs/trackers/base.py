"""What a tracker is told: numbers with their units, and sampled responses that fit a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from erclip.runs.metrics import find_metric

Axis = Literal["update", "rollout"]
Row = dict[str, str | float | bool | None]

COLUMNS = (
    "prompt", "response", "gold", "answer", "correct", "reason", "reward", "advantage", "tokens",
    "truncated",
)  # fmt: skip
CELL = 4000  # characters; a table of long responses must stay readable in a browser

_SUFFIXES = {"nats": "nats", "nats/token": "nats_per_token", "tokens": "tokens"}


class RunInfo(NamedTuple):
    """The run as a tracker knows it: `id` is the same after a resume, `config` is config.json."""

    path: Path
    name: str
    id: str
    config: Mapping[str, Any]


class Tracker(Protocol):
    """One backend. All calls come from one background thread, in order; any of them may raise."""

    def start(self, run: RunInfo) -> None:
        """Open the backend's run, or continue it."""
        ...

    def log(self, axis: Axis, step: int, metrics: Mapping[str, float]) -> None:
        """Numbers of one update (step = its number) or of one rollout."""
        ...

    def log_samples(self, rollout: int, rows: Sequence[Row]) -> None:
        """Some responses of a rollout, with the keys COLUMNS."""
        ...

    def finish(self) -> None:
        """Send what is left."""
        ...


class Line(NamedTuple):
    """One line of metrics.jsonl as a tracker gets it."""

    axis: Axis
    step: int
    metrics: dict[str, float]


def tracked(kind: str, rollout: int, metrics: Mapping[str, Any]) -> Line:
    """A line of metrics.jsonl with units in its names, on the axis on which it is a curve.

    A unit that a name does not show is appended to it. A rollout's entropy is the old policy's, an
    update's the new one's: they get different names, since trackers have one curve per name.

    >>> tracked("update", 1, {"update": 3, "policy/entropy": 0.5})
    Line(axis='update', step=3, metrics={'policy/entropy_nats_per_token': 0.5})
    >>> tracked("rollout", 2, {"policy/entropy": 0.5}).metrics
    {'old_policy/entropy_nats_per_token': 0.5}
    """
    axis: Axis = "update" if kind == "update" else "rollout"
    step = int(metrics["update"]) if axis == "update" else rollout
    numbers = {
        _with_unit(kind, name): float(value)
        for name, value in metrics.items()
        if "/" in name and isinstance(value, int | float)
    }
    return Line(axis, step, numbers)


def _with_unit(kind: str, name: str) -> str:
    metric = find_metric(name)
    suffix = _SUFFIXES.get(metric.unit) if metric else None
    if kind == "rollout" and name.startswith("policy/"):
        name = f"old_{name}"
    return name if suffix is None or name.endswith(suffix) else f"{name}_{suffix}"


def table_row(sample: Mapping[str, Any]) -> Row:
    """A line of samples.jsonl as cells: text without control characters, of bounded length."""
    return {name: _cell(sample.get(name)) for name in COLUMNS}


def _cell(value: Any) -> str | float | bool | None:
    if not isinstance(value, str):
        return value
    text = "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in value)
    more = len(text) - CELL
    return text if more <= 0 else f"{text[:CELL]} … ({more} more characters)"
