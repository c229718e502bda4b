"""Weights from the trainer to the sampler's process, through one file that both have mapped.

A file in the temporary folder is shared memory without the limits of /dev/shm, which containers
keep at 64 MB; `benchmarks/weight_handover.py` compares it with safetensors. `flock` keeps one side
from reading what the other has half written, and the system takes it from a process that dies.
"""

from __future__ import annotations

import fcntl
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

NAME = "weights.bin"
HEADER = 64  # bytes; the first eight are the version
ALIGNMENT = 64


class SharedWeights:
    """Tensors by name in one mapped file; both sides lay it out by their own, equal, model."""

    def __init__(self, folder: Path, like: Mapping[str, Tensor]):
        offsets, end = {}, HEADER
        for name, tensor in like.items():
            offsets[name] = end
            end += -(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT
        path = folder / NAME
        self._lock = path.with_suffix(".lock").open("a")
        mapped = torch.from_file(str(path), shared=True, size=end, dtype=torch.uint8)
        self._version = mapped[:8].view(torch.int64)
        self._tensors = {
            name: mapped[offsets[name] :][: tensor.numel() * tensor.element_size()]
            .view(tensor.dtype)
            .view(tensor.shape)
            for name, tensor in like.items()
        }

    @property
    def version(self) -> int:
        """How many updates made the weights that are there; −1 before there are any."""
        return int(self._version) - 1

    def write(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Put `weights` there, those after `version` updates."""
        with self._locked(fcntl.LOCK_EX):
            for name, tensor in self._tensors.items():
                tensor.copy_(weights[name])
            self._version.fill_(version + 1)

    def read(self, weights: Mapping[str, Tensor]) -> int:
        """Copy what is there into `weights`; after how many updates that was."""
        with self._locked(fcntl.LOCK_SH):
            for name, tensor in self._tensors.items():
                weights[name].copy_(tensor)
            return self.version

    @contextmanager
    def _locked(self, kind: int) -> Generator[None]:
        fcntl.flock(self._lock, kind)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)


def trained(model: nn.Module) -> dict[str, Tensor]:
    """What changes in training: all parameters, or the adapters."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
