"""The run directory: config.json, metrics.jsonl, samples.jsonl, checkpoints/, report.html."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from erclip.checkpoints.folders import write_json
from erclip.errors import UserError
from erclip.recipes import Recipe
from erclip.records import Sample

PACKAGES = ("erclip", "torch", "transformers", "tokenizers", "math-verify", "numpy")


LINES = ("metrics.jsonl", "samples.jsonl", "tokens.jsonl")


class RunDir:
    """Everything a run writes. Lines are flushed as they come; a killed run stays readable."""

    def __init__(self, path: Path, recipe: Recipe):
        _claim(path)
        write_json(path / "config.json", describe(recipe))
        self._open(path, 0.0)

    @classmethod
    def reopen(cls, path: Path, recipe: Recipe, state: Mapping[str, Any]) -> RunDir:
        """Go back to what the files held when the checkpoint with this `state` was written.

        Without a checkpoint (an empty `state`) that is nothing.
        """
        sizes = state.get("files", {})
        for name in LINES:
            if (path / name).exists():
                size = (path / name).stat().st_size  # someone may have emptied it since
                os.truncate(path / name, min(size, sizes.get(name, 0)))
        for file in (path / "ledger").glob("update_*"):
            if not file.stem.removeprefix("update_").isdigit() or (
                int(file.stem.removeprefix("update_")) > state.get("updates", 0)
            ):
                file.unlink()
        described = json.loads((path / "config.json").read_text(encoding="utf-8"))
        described["config"] = describe(recipe)["config"]
        resumed = {**circumstances(), "updates": state.get("updates", 0)}
        described["resumed"] = [*described.get("resumed", []), resumed]
        write_json(path / "config.json", described)
        run = cls.__new__(cls)
        run._open(path, state.get("time_s", 0.0))
        return run

    def _open(self, path: Path, time_s: float) -> None:
        self.path = path
        self._started = time.perf_counter() - time_s
        self._metrics = (path / "metrics.jsonl").open("a", encoding="utf-8")
        self._samples = (path / "samples.jsonl").open("a", encoding="utf-8")

    def log(self, kind: str, rollout: int, metrics: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl: `kind` is rollout, update or eval."""
        time_s = round(self.time_s, 3)
        line = {"kind": kind, "rollout": rollout, "time_s": time_s, **metrics}
        self._metrics.write(json.dumps(line) + "\n")
        self._metrics.flush()

    def log_samples(self, rollout: int, samples: Iterable[Sample]) -> None:
        """Responses with their verdicts, as they were sampled."""
        for sample in samples:
            self._samples.write(json.dumps(sample_line(rollout, sample)) + "\n")
        self._samples.flush()

    @property
    def time_s(self) -> float:
        """Seconds that the run has taken, those before a resume included."""
        return time.perf_counter() - self._started

    def sizes(self) -> dict[str, int]:
        """Bytes of every file of lines, which are on the disk when this returns."""
        found = {}
        for name in LINES:
            if (self.path / name).exists():
                with (self.path / name).open("ab") as file:
                    os.fsync(file.fileno())
                    found[name] = file.tell()
        return found

    def log_accident(self, update: int, lines: Iterable[str]) -> Path:
        """The batch of an update that went wrong."""
        folder = self.path / "accidents"
        folder.mkdir(exist_ok=True)
        target = folder / f"update_{update:06d}.jsonl"
        target.write_text("".join(lines), encoding="utf-8")
        return target

    def close(self) -> None:
        """Close the files; nothing is lost if this never runs."""
        self._metrics.close()
        self._samples.close()


def default_path(recipe_name: str) -> Path:
    """runs/<recipe>-<date>-<time>."""
    return Path("runs") / f"{recipe_name}-{datetime.now():%Y%m%d-%H%M%S}"


def describe(recipe: Recipe) -> dict[str, Any]:
    """What one needs to know to run this again."""
    config = recipe.config.model_dump(mode="json")
    return {
        "recipe": recipe.name,
        "config": config,
        "seed": recipe.config.trainer.seed,
        **circumstances(),
    }


def circumstances() -> dict[str, Any]:
    """Versions, commit, hardware and time of what starts now."""
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": _commit(),
        "hardware": _hardware(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _claim(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; --out must name a folder for the run.")
    if (path / "config.json").exists() or (path / "metrics.jsonl").exists():
        raise UserError(f"{path} holds another run; give --out a new folder.")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot create the run folder {path}: {error.strerror}.") from None
    if not os.access(path, os.W_OK):
        raise UserError(f"Cannot write to the run folder {path}; give --out another place.")


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


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """The commit of the source tree that is running, None for an installed wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() or None


def _hardware() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
