"""Several processes as torchrun starts them, forked from this one: nothing is imported again."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import jaxtyping
from torch import multiprocessing


def together(work: Callable[..., None], *arguments: object, processes: int = 2) -> None:
    """Call `work` in each of the processes; what one of them raises is raised here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.start_processes(
        _one, (processes, port, work, arguments), nprocs=processes, start_method="fork"
    )


def _one(rank: int, size: int, port: int, work: Callable[..., None], arguments: tuple) -> None:
    world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in world.items()}, MASTER_ADDR="127.0.0.1")
    jaxtyping.config.update("jaxtyping_disable", True)
    work(*arguments)
