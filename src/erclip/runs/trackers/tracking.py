"""From the loop to the trackers: a queue and a thread for each, so that no step ever waits."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from erclip.config.trackers import TrackerConfig
from erclip.machine.files import parsed, read_json
from erclip.runs.trackers.base import Line, Row, RunInfo, Tracker, table_row, tracked
from erclip.runs.trackers.kinds import make_tracker
from erclip.runs.work import Phase, Work
from erclip.text import in_a_line, short

FINISH_S = 120.0
Warn = Callable[[str], None]


class Observers(Work):
    """Several observers as one; one that fails is left out from then on and ends no run.

    What `Work` is told goes to those that listen to it.
    """

    def __init__(self, *observers: Any, warn: Warn = lambda text: None):
        self._observers, self._warn = list(observers), warn

    def on_log(self, kind: str, rollout: int, metrics: dict[str, float]) -> None:
        """Pass the line on to every observer, in order."""
        self._pass_on("on_log", kind, rollout, metrics)

    def begin(self, phase: Phase, total: int = 0, unit: str = "") -> None:
        """A phase of the run begins."""
        self._pass_on("begin", phase, total, unit)

    def advance(self, count: int = 0, *, share: float | None = None) -> None:
        """More of the phase is done."""
        self._pass_on("advance", count, share=share)

    def say(self, text: str) -> None:
        """A sentence for the user."""
        self._pass_on("say", text)

    def _pass_on(self, name: str, *values: Any, **named: Any) -> None:
        for observer in list(self._observers):
            listen = getattr(observer, name, None)
            try:
                if listen is not None:
                    listen(*values, **named)
            except Exception as error:  # a terminal, a widget: nothing that training rests on
                self._observers.remove(observer)
                self._warn(f"{type(observer).__name__} is left out: {in_a_line(error)}")


class Tracking:
    """An observer that hands every line to every tracker; a tracker's failure is only a warning.

    What a step pays is one put on a queue per line: names, tables and the network are the threads'
    business. Sampled responses are read back from the run's samples.jsonl, which has them anyway.
    """

    def __init__(self, configs: Sequence[TrackerConfig], folder: Path, warn: Warn):
        self._lanes = [_Lane(config.kind, make_tracker(config), folder, warn) for config in configs]

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def on_log(self, kind: str, rollout: int, metrics: dict[str, float]) -> None:
        """Take over one line of metrics.jsonl."""
        for lane in self._lanes:
            lane.put((kind, rollout, metrics))

    def close(self, timeout_s: float = FINISH_S) -> None:
        """Wait for what is queued, at most `timeout_s` for each tracker."""
        for lane in self._lanes:
            lane.put(None)
        for lane in self._lanes:
            lane.join(timeout_s)


class _Lane:
    """One tracker, its queue and its thread, which starts with the first line."""

    def __init__(self, kind: str, tracker: Tracker, folder: Path, warn: Warn):
        self._kind, self._tracker, self._warn = kind, tracker, warn
        self._folder = folder
        self._samples = _SampleReader(folder / "samples.jsonl")
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"erclip-{kind}", daemon=True)
        self._lost = 0

    def put(self, item: Any) -> None:
        if not self._thread.is_alive() and self._thread.ident is None and item is not None:
            self._thread.start()
        self._queue.put(item)

    def join(self, timeout_s: float) -> None:
        if self._thread.ident is None:
            return
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._warn(
                f"tracker {self._kind} did not finish within {timeout_s:g} s; metrics.jsonl is "
                "complete"
            )
        elif self._lost > 1:
            self._warn(f"tracker {self._kind} lost {self._lost} lines; metrics.jsonl is complete")

    def _work(self) -> None:
        try:
            self._tracker.start(_run_info(self._folder))
        except Exception as error:  # backends and networks fail in every way there is
            self._complain("could not start and is left out", error)
            return
        while (item := self._queue.get()) is not None:
            self._attempt(lambda item=item: self._send(*item))
        self._attempt(self._tracker.finish)

    def _send(self, kind: str, rollout: int, metrics: dict[str, float]) -> None:
        line: Line = tracked(kind, rollout, metrics)
        self._tracker.log(*line)
        rows = self._samples.up_to(rollout) if kind == "rollout" else []
        if rows:
            self._tracker.log_samples(rollout, rows)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # see _work
            self._lost += 1
            if self._lost == 1:
                self._complain("failed; the run goes on", error)

    def _complain(self, what: str, error: Exception) -> None:
        reason = short(str(error), 200)
        self._warn(f"tracker {self._kind} {what} ({type(error).__name__}: {reason})")


class _SampleReader:
    """Follows samples.jsonl; starts at its end, so that a resumed run sends nothing twice."""

    def __init__(self, path: Path):
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def up_to(self, rollout: int) -> list[Row]:
        """The rows since the last call that belong to this rollout; later ones stay for later."""
        return [table_row(line) for line in self._new(rollout) if line["rollout"] == rollout]

    def _new(self, rollout: int) -> Iterator[dict[str, Any]]:
        if not self._path.exists():
            return
        if self._path.stat().st_size < self._offset:
            self._offset = 0  # cut back by a resume
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                row = parsed(line)
                number = row.get("rollout") if isinstance(row, dict) else None
                if isinstance(number, int) and number > rollout:
                    return
                self._offset += len(line)
                if isinstance(number, int):
                    yield row


def _run_info(folder: Path) -> RunInfo:
    """The run by its config.json, without what resumes have added to it."""
    described = read_json(folder / "config.json")
    name = folder.resolve().name
    about = {key: value for key, value in described.items() if key != "resumed"}
    return RunInfo(folder, name, str(described.get("id") or name)[:16], about)
