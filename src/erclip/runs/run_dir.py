"""The run directory: config.json, metrics.jsonl, samples.jsonl, checkpoints/, report.html."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from erclip.config.recipes import Recipe
from erclip.machine.files import append, cut, read_json, sync, write_json, write_text
from erclip.records import Sample
from erclip.runs.circumstances import circumstances
from erclip.runs.run_folder import LINES, set_aside
from erclip.text import redacted_values

_LEDGER = re.compile(r"update_(\d+)\.(?:parquet|partial)")


class RunDir:
    """Everything a run writes. Lines are with the kernel as they come; a killed run stays readable.

    `unwritten` are lines that the disk had no room for: they are part of a checkpoint, and go to
    their files as soon as these can grow.
    """

    def __init__(self, path: Path, recipe: Recipe):
        self.id: str | None = uuid.uuid4().hex
        write_json(path / "config.json", {**describe(recipe), "id": self.id})
        self._begin(path, 0.0)

    @classmethod
    def reopen(
        cls,
        path: Path,
        recipe: Recipe,
        state: Mapping[str, Any],
        log: Callable[[str], None] = lambda text: None,
    ) -> RunDir:
        """Go back to what the files held when the checkpoint with this `state` was written.

        Without a checkpoint (an empty `state`) that is nothing: what there is moves aside. `log`
        gets a sentence about that, and about each file that has lost lines since.
        """
        if not state:
            set_aside(path, log)
        _cut_back(path, state, log)
        described = read_json(path / "config.json")
        described["config"] = describe(recipe)["config"]
        resumed = {**circumstances(), "updates": state.get("updates", 0)}
        described["resumed"] = [*(described.get("resumed") or []), resumed]
        write_json(path / "config.json", described)
        run = cls.__new__(cls)
        run.id = described.get("id")
        run._begin(path, state.get("time_s", 0.0))
        for name, text in state.get("unwritten", {}).items():
            run._append(name, text)
        return run

    def _begin(self, path: Path, time_s: float) -> None:
        self.path = path
        self.unwritten: dict[str, str] = {}
        self._started = time.perf_counter() - time_s
        for name in ("metrics.jsonl", "samples.jsonl"):
            append(path / name, "")

    def log(self, kind: str, rollout: int, metrics: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl: `kind` is rollout, update or eval."""
        time_s = round(self.time_s, 3)
        line = {"kind": kind, "rollout": rollout, "time_s": time_s, **metrics}
        self._append("metrics.jsonl", json.dumps(line) + "\n")

    def log_samples(self, rollout: int, samples: Iterable[Sample]) -> None:
        """Responses with their verdicts, as they were sampled."""
        lines = (json.dumps(sample_line(rollout, sample)) + "\n" for sample in samples)
        self._append("samples.jsonl", "".join(lines))

    def _append(self, name: str, text: str) -> None:
        text = self.unwritten.pop(name, "") + text
        try:
            append(self.path / name, text)
        except OSError:
            self.unwritten[name] = text
            raise

    @property
    def time_s(self) -> float:
        """Seconds that the run has taken, those before a resume included."""
        return time.perf_counter() - self._started

    def sizes(self) -> dict[str, int]:
        """Bytes of every file of lines, which are on the disk when this returns."""
        found = {}
        for name in LINES:
            if (self.path / name).exists():
                sync(self.path / name)
                found[name] = (self.path / name).stat().st_size
        return found

    def log_failed_batch(self, update: int, lines: Iterable[str]) -> Path:
        """The batch of an update that went wrong."""
        folder = self.path / "failed_batches"
        folder.mkdir(exist_ok=True)
        target = folder / f"update_{update:06d}.jsonl"
        write_text(target, "".join(lines))
        return target


def describe(recipe: Recipe) -> dict[str, Any]:
    """What one needs to know to run this again."""
    config = redacted_values(recipe.config.model_dump(mode="json"))
    return {
        "recipe": recipe.name,
        "config": config,
        "seed": recipe.config.trainer.seed,
        **circumstances(),
    }


def sample_line(rollout: int, sample: Sample) -> dict[str, Any]:
    """One response with its verdict, as samples.jsonl has it."""
    response = sample.response
    prompt = response.prompt
    return {
        "rollout": rollout,
        "prompt_id": prompt.id,
        "prompt": "\n".join(message["content"] for message in prompt.messages),
        "response": response.text,
        "gold": str(prompt.gold),
        "answer": sample.grade.answer,
        "correct": sample.grade.correct,
        "reason": sample.grade.reason,
        "reward": sample.reward,
        "advantage": sample.advantage,
        "truncated": response.truncated,
        "tokens": len(response.token_ids),
    }


def _cut_back(path: Path, state: Mapping[str, Any], log: Callable[[str], None]) -> None:
    sizes = state.get("files", {})
    for name in LINES:
        if (path / name).exists() and cut(path / name, sizes.get(name, 0)):
            log(
                f"{path / name} is shorter than its checkpoint says: it goes on after its last "
                "whole line."
            )
    for file in (path / "ledger").glob("update_*"):
        match = _LEDGER.fullmatch(file.name)
        if match and int(match[1]) > state.get("updates", 0):
            file.unlink()
