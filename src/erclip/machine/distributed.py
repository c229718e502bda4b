"""The processes of one run, as torchrun starts them: who does what, and what they tell each other.

Every process walks the same path and holds the same prompts, samples and counters, so that
decisions (which groups are kept, how mini-batches are cut) need no communication. With one process
every function here is the identity.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from erclip.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = timedelta(hours=2)  # the slowest process may still be sampling long responses


class AllFailed(UserError):
    """A UserError that every process raises, so that one of them may tell it."""


@dataclass(frozen=True)
class World:
    """This process's rank among `size` processes."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the files and talks to the user."""
        return self.rank == 0

    @property
    def own_name(self) -> tuple[int, ...]:
        """What tells this process's seeds from the others'; nothing if it is alone."""
        return (self.rank,) if self.size > 1 else ()

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of a list that all have: rank, rank + size, …

        >>> World(rank=1, size=2).share([10, 11, 12, 13, 14])
        [11, 13]
        """
        return items[self.rank :: self.size]

    def gather(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> list[T]:
        """What `work` gave on each process, by rank; one's UserError is raised on all of them."""
        if self.size == 1:
            return [work(*args, **named)]
        result: T | UserError
        try:
            result = work(*args, **named)
        except UserError as error:
            result = error
        results: list[Any] = [None] * self.size
        dist.all_gather_object(results, result)
        for found in results:
            if isinstance(found, UserError):
                raise AllFailed(str(found)) from (result if isinstance(result, UserError) else None)
        return results

    def together(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Do it on every process, each for itself; one's UserError is raised on all of them."""
        kept: list[T] = []
        self.gather(lambda: kept.append(work(*args, **named)))
        return kept[0]

    def from_first(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Do it on the first process only; its result (or UserError) on all."""
        found: list[Any] = self.gather(lambda: work(*args, **named) if self.first else None)
        return found[0]

    def to_first(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> list[T]:
        """Like `gather`, for the first process only; nothing on the others."""
        if self.size == 1:
            return [work(*args, **named)]
        results: list[Any] | None = [None] * self.size if self.first else None
        dist.gather_object(work(*args, **named), results)
        return results or []

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def sums(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums of scalars with the same names everywhere, as one message in float64."""
        if self.size == 1 or not values:
            return dict(values)
        total = self.sum(torch.stack([value.double() for value in values.values()]))
        return dict(zip(values, total, strict=True))

    def concatenate(self, values: Shaped[Tensor, " N"]) -> Shaped[Tensor, " M"]:
        """The values of all processes, by rank; N may differ."""
        if self.size == 1:
            return values
        lengths = self.gather(lambda: len(values))
        padded = values.new_zeros(max(lengths))
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, lengths, strict=True)])


def interleave(parts: Sequence[Sequence[T]]) -> list[T]:
    """What was shared out by `World.share`, back in one list.

    >>> interleave([[10, 12, 14], [11, 13]])
    [10, 11, 12, 13, 14]
    """
    total = sum(len(part) for part in parts)
    return [parts[i % len(parts)][i // len(parts)] for i in range(total)]


def join_world(device: str = "auto") -> World:
    """The world that torchrun's environment names; one process without it.

    `device` is the recipe's: with CUDA, each process takes the device of its local rank.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if ":" in device:
        raise UserError(
            f"model.device = {device!r} is one device for {size} processes; use auto, cuda or cpu."
        )
    backend = "gloo"
    if torch.cuda.is_available() and device != "cpu":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise UserError(
                f"Process {local} of this machine has no GPU of its own: there are "
                f"{torch.cuda.device_count()}; start fewer processes or set model.device = cpu."
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)
    return World(dist.get_rank(), dist.get_world_size())


_guests: list[Callable[[], None]] = []


def before_leaving(work: Callable[[], None]) -> None:
    """Have `work` done by `leave_world`: for what has made itself groups of these processes."""
    _guests.append(work)


def leave_world() -> None:
    """Close the connections, if there are any."""
    if not dist.is_initialized():
        return
    for work in _guests:
        work()
    if dist.is_initialized():
        dist.destroy_process_group()


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another process is gone."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and ("gloo" in str(error) or "by peer" in str(error))
    )
