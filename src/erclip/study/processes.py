"""Cells over processes: each takes one at a time; whatever happens to one, the others go on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from erclip.config import Config
from erclip.errors import UserError, sentence
from erclip.machine.files import write_text
from erclip.machine.interrupts import Stopped
from erclip.study.design import Cell
from erclip.text import in_a_line, redacted


class Job(NamedTuple):
    """A cell with its settings and the folder of its run."""

    cell: Cell
    config: Config
    folder: Path


class Done(NamedTuple):
    """A job that ended: with an outcome, or with a sentence on why there is none."""

    job: Job
    outcome: Any
    problem: str | None


class Worker:
    """A process that runs one job after another, on one thread."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,))
        self.process.start()
        theirs.close()
        self.job: Job | None = None

    def start(self, job: Job) -> None:
        """Give it something to do."""
        self.job = job
        self.connection.send(job)

    def result(self) -> Done:
        """What the job came to; of a process that is gone, how it went."""
        assert self.job is not None
        job, self.job = self.job, None
        try:
            return Done(job, *self.connection.recv())
        except (EOFError, ConnectionResetError):
            self.process.join()
            return Done(job, None, f"its process ended with code {self.process.exitcode}")


def run_jobs(next_job: Callable[[], Job | None], processes: int, log: Callable[[Done], None]):
    """Run what `next_job` gives until it gives nothing and nothing runs; `log` hears of each end.

    `next_job` may give nothing now and something after the next end. Ctrl-C reaches the runs too:
    they write checkpoints, and the same command goes on with them.
    """
    with _workers(processes) as workers:
        while True:
            for index, worker in enumerate(workers):
                if worker.job is None and (job := next_job()) is not None:
                    if not worker.process.is_alive():
                        workers[index] = worker = Worker()
                    worker.start(job)
            busy = [worker for worker in workers if worker.job is not None]
            if not busy:
                return
            ready = wait([worker.connection for worker in busy])
            for worker in busy:
                if worker.connection in ready:
                    log(worker.result())


@contextmanager
def _workers(count: int) -> Generator[list[Worker]]:
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # as many processes as cores: more threads would queue
    workers: list[Worker] = []
    try:
        workers += [Worker() for _ in range(count)]
        yield workers
    except KeyboardInterrupt:
        _stop(workers, signal.SIGINT)
        raise
    except BaseException:
        _stop(workers, signal.SIGTERM)
        raise
    finally:
        for worker in workers:
            worker.connection.close()
        for worker in workers:
            worker.process.join()
        if threads is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = threads


def _stop(workers: Sequence[Worker], number: int) -> None:
    for worker in workers:
        if worker.process.is_alive() and worker.process.pid is not None:
            os.kill(worker.process.pid, number)


def _serve(connection: Connection) -> None:
    """The life of a worker: jobs in, outcomes out, until the pipe or the parent is gone."""
    os.setsid()  # Ctrl-C in a terminal goes to the parent, which tells each worker once
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        import torch

        from erclip.study.cell import run_cell

        torch.set_num_threads(1)
        while True:
            job = connection.recv()
            connection.send(_attempt(lambda job=job: run_cell(job.config, job.folder), job.folder))
    except (EOFError, BrokenPipeError, KeyboardInterrupt, Stopped):
        return


def _attempt(work: Callable[[], Any], folder: Path) -> tuple[Any, str | None]:
    """(outcome, None), or (None, why there is none); a bug's traceback goes to the run's folder."""
    try:
        return work(), None
    except (UserError, OSError) as error:
        return None, sentence(error)
    except Exception as error:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "error.txt", redacted(traceback.format_exc()))
        return None, f"{in_a_line(error)} (see {folder / 'error.txt'})"


def _end_with_parent() -> None:
    """A killed study must not leave runs behind that its next start would make again."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
