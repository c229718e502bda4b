"""A sampler in a process of its own, which goes on while updates run: both of its ends.

The trainer starts this module with `python -m` and talks to it in JSON through a socket. Weights
come through `weight_handover`. The process samples what it is asked for, one rollout after the
other. Our own sampler takes new weights over before its next step, in the middle of responses;
an engine or a server takes them before its next rollout. When the trainer is gone, so is it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from erclip.config import Config
from erclip.errors import Diverged, UserError
from erclip.machine.distributed import World
from erclip.machine.interrupts import Interrupts
from erclip.records import numbered
from erclip.runs.work import Work
from erclip.tasks import load_task
from erclip.training.checkpoints.rollout_files import group_line, read_group
from erclip.training.checkpoints.training_state import whole_weights
from erclip.training.policy import Policy, load_policy
from erclip.training.producers import InTurns
from erclip.training.rollouts import PromptStream, Rollout
from erclip.training.sampling import TransformersSampler
from erclip.training.sampling.load import load_sampler
from erclip.training.weight_handover import SharedWeights, trained

LOG = "sampler.log"
PATIENCE_S = 10.0  # after it was told to end

Message = dict[str, Any]


class SamplerLost(UserError):
    """The sampler's process is gone; what the trainer has is whole."""


class SamplerProcess:
    """The trainer's end: a `Producer` whose rollouts arrive while updates run."""

    def __init__(
        self,
        config: Config,
        stream: PromptStream,
        policy: Policy,
        interrupts: Interrupts,
        world: World,
        out: Path,
        work: Work | None = None,
    ):
        self.stream, self.policy, self.work = stream, policy, work or Work()
        self.interrupts, self.world, self.out = interrupts, world, out
        self._threads = torch.get_num_threads()
        self._arrived: list[Message] = []
        self._process: subprocess.Popen[bytes] | None = None
        if world.first:
            self._start(config)

    def _start(self, config: Config) -> None:
        assert config.rollout.overlap is not None
        own = config.rollout.overlap.threads or max(1, self._threads // 2)
        torch.set_num_threads(max(1, self._threads - own))
        self._folder = tempfile.TemporaryDirectory(prefix="erclip-weights-")
        self._weights = SharedWeights(Path(self._folder.name), trained(self.policy.model))
        mine, theirs = socket.socketpair()
        self._connection = Connection(mine.detach())
        with (self.out / LOG).open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in the terminal is for the trainer alone
                env={**os.environ, "OMP_NUM_THREADS": str(own)},
            )
        theirs.close()
        self._send(
            {
                "config": config.model_dump(mode="json"),
                "prompts": self.stream.position,
                "folder": self._folder.name,
                "threads": own,
            }
        )

    def ask(self, number: int) -> None:
        """Let rollout `number` be sampled, whenever those before it are."""
        self.world.from_first(self._send, {"sample": number})

    def arrived(self, *, wait: bool) -> list[Rollout]:
        """What has been sampled by now; a signal breaks off waiting for the first one."""
        if wait:
            self.work.begin("sampling")
        started = time.perf_counter()
        lines = self.world.from_first(self._receive, "groups", wait=wait)
        rollouts = [self._rollout(line) for line in lines]
        if rollouts:
            rollouts[0].waited_s = time.perf_counter() - started
        return rollouts

    def update_weights(self, version: int) -> None:
        """Put the weights where the sampler will find them; it may be in the middle of a step."""
        whole = whole_weights(self.policy.model, self.world)
        if self.world.first:
            self._weights.write(trained(self.policy.model) if whole is None else whole, version)

    def evaluate(self) -> dict[str, float]:
        """By the same sampler, after the rollouts that it was asked for before."""

        self.work.begin("evaluating")

        def ask() -> dict[str, float]:
            self._send({"evaluate": True})
            return self._receive("evaluation", wait=True)[0]["evaluation"]

        return self.world.from_first(ask)

    def close(self) -> None:
        """End the process, whatever it is doing."""
        process, self._process = self._process, None
        if process is None:
            return
        self._connection.close()
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._folder.cleanup()
        torch.set_num_threads(self._threads)

    def _send(self, message: Message) -> None:
        try:
            self._connection.send_bytes(json.dumps(message).encode())
        except OSError:
            raise self._lost() from None

    def _receive(self, kind: str, *, wait: bool) -> list[Message]:
        """Messages that hold `kind`, in the order in which they came."""
        while self._process is not None:
            if wait and not any(kind in message for message in self._arrived):
                with self.interrupts.at_once():
                    self._connection.poll(None)
            if not self._connection.poll():
                break
            try:
                message = json.loads(self._connection.recv_bytes())
            except (EOFError, OSError):
                raise self._lost() from None
            if "failed" in message:
                self.close()
                raise (Diverged if message["diverged"] else UserError)(message["failed"])
            self._arrived.append(message)
        found = [message for message in self._arrived if kind in message]
        self._arrived = [message for message in self._arrived if kind not in message]
        return found

    def _lost(self) -> SamplerLost:
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE_S)
        code = self._process.returncode
        how = f"with exit code {code}"
        if code is not None and code < 0:
            how = f"by {signal.Signals(-code).name}"
        self.close()
        return SamplerLost(
            f"The sampler's process ended {how}; what it said is in {self.out / LOG}; go on with "
            f"erclip train --resume {self.out}"
        )

    def _rollout(self, line: Message) -> Rollout:
        self.stream.position = line["first_prompt"]
        prompts = self.stream.take(len(line["groups"]))
        groups = numbered(map(read_group, line["groups"], prompts))
        return Rollout(
            first_prompt=line["first_prompt"],
            sampled=groups,
            kept=[groups[number] for number in line["kept"]],
            **{name: line[name] for name in SENT},
        )


SENT = ("number", "version", "sample_s", "grade_s", "sampler_wait_frac")


def serve(connection: Connection, job: Message) -> None:
    """The other end: sample what is asked for, with the newest weights, until nobody is there."""
    config = Config.model_validate_json(json.dumps(job["config"]))
    overlap = config.rollout.overlap
    assert overlap is not None
    torch.set_num_threads(job["threads"])
    device = {} if overlap.device is None else {"device": overlap.device}
    task = load_task(**config.data.model_dump())
    policy = load_policy(config.model.model_copy(update=device), config.sampler.temperature)
    sampler = load_sampler(config, policy)
    stream = PromptStream(task.train, config.trainer.seed)
    stream.position = job["prompts"]
    world = World()
    producer = InTurns(config, task, stream, policy, sampler, Interrupts(world), world)
    newest = Newest(policy, SharedWeights(Path(job["folder"]), trained(policy.model)))
    if isinstance(sampler, TransformersSampler):
        sampler.follow = newest
    held: int | None = None
    while True:
        idle = time.perf_counter()
        message = json.loads(connection.recv_bytes())
        started = time.perf_counter()
        if newest() != held:  # a server may hold what its last user left
            held = newest.version
            producer.update_weights(held)
        if "evaluate" in message:
            answer: Message = {"evaluation": producer.evaluate()}
        else:
            producer.ask(message["sample"])
            (rollout,) = producer.arrived(wait=True)
            rollout.sampler_wait_frac = (started - idle) / (time.perf_counter() - idle)
            answer = {
                **{name: getattr(rollout, name) for name in SENT},
                "first_prompt": rollout.first_prompt,
                "kept": [group.number for group in rollout.kept],
                "groups": [group_line(group) for group in rollout.sampled],
            }
        connection.send_bytes(json.dumps(answer).encode())


class Newest:
    """Called at every step: takes over weights that are newer, and says which they are."""

    def __init__(self, policy: Policy, shared: SharedWeights):
        self._own, self._shared = trained(policy.model), shared
        self.version, self._trainer = -1, os.getppid()

    def __call__(self) -> int:
        """The version of the weights of the next step."""
        if os.getppid() != self._trainer:
            raise EOFError
        if self._shared.version != self.version:
            self.version = self._shared.read(self._own)
            torch.clear_autocast_cache()  # which holds the old weights, rounded
        return self.version


def main() -> None:
    """`python -m erclip.training.sampler_process SOCKET`."""
    connection = Connection(int(sys.argv[1]))
    with suppress(EOFError, ConnectionError):
        try:
            serve(connection, json.loads(connection.recv_bytes()))
        except UserError as error:
            failed = {"failed": str(error), "diverged": isinstance(error, Diverged)}
            connection.send_bytes(json.dumps(failed).encode())


if __name__ == "__main__":
    main()
