"""What TRL's checkpoints leave out: the generation under way, so that a resumed run repeats it.

One file per rank, beside the states of chance that `Trainer` keeps there.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from trl import GRPOTrainer

from erclip.integrations.hf.statistics import UpdateStatistics
from erclip.integrations.trl.tensors import Batch
from erclip.losses.types import Statistics

KEY = "generation"  # of the file's metadata


@dataclass(frozen=True)
class Generation:
    """Where a rank stands: `step` counts its micro-batches since the run began."""

    step: int
    ranks: int
    batches: Sequence[Batch]  # none where the next step begins a generation
    statistics: Statistics | None


def path_of(folder: str | Path, rank: int) -> Path:
    """The file of one rank in a checkpoint."""
    return Path(folder) / f"erclip_generation_{rank}.safetensors"


def save(generation: Generation, path: Path) -> None:
    """Every tensor as it is; counts and lists beside them as JSON."""
    tensors, values = {}, []
    for index, batch in enumerate(generation.batches):
        own = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        tensors |= {f"{index}/{name}": v.detach().cpu().clone() for name, v in own.items()}
        values.append({name: value for name, value in batch.items() if name not in own})
    rest = {
        "step": generation.step,
        "ranks": generation.ranks,
        "values": values,
        "statistics": generation.statistics,
    }
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    save_file(contiguous, path, metadata={KEY: json.dumps(rest)})


def load(path: Path, device: torch.device) -> Generation:
    """What `save` wrote, on this rank's device."""
    with safe_open(path, "pt") as file:
        rest = json.loads(file.metadata()[KEY])
        batches: list[Batch] = rest["values"]
        for key in file.keys():  # noqa: SIM118, no mapping
            index, _, name = key.partition("/")
            batches[int(index)][name] = file.get_tensor(key).to(device)
    return Generation(rest["step"], rest["ranks"], batches, rest["statistics"])


class ResumableTrainer(GRPOTrainer):
    """`GRPOTrainer` that goes on in the middle of a generation."""

    _statistics: dict[str, UpdateStatistics]

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        every = self.args.steps_per_generation * self.num_iterations
        under_way = self._step % every and self._buffered_inputs
        generation = Generation(
            self._step,
            self.accelerator.num_processes,
            self._buffered_inputs if under_way else (),
            self._statistics["train"].last,
        )
        save(generation, path_of(output_dir, self.accelerator.process_index))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        path = path_of(checkpoint, self.accelerator.process_index)
        if not path.exists():
            _warn(checkpoint, "has no generation of an ERCTrainer")
            return
        saved = load(path, self.accelerator.device)
        self._step = saved.step
        self._statistics["train"].last = saved.statistics
        if not saved.batches:
            return
        if saved.ranks != self.accelerator.num_processes:
            _warn(checkpoint, f"was written by {saved.ranks} processes")
        elif len(saved.batches) != self.args.steps_per_generation:
            _warn(checkpoint, f"has steps_per_generation = {len(saved.batches)}")
        else:
            self._buffered_inputs = list(saved.batches)


def _warn(checkpoint: str, why: str) -> None:
    warnings.warn(
        f"{checkpoint} {why}: responses are drawn anew, and the resumed run is not the "
        "uninterrupted one.",
        stacklevel=3,
    )
