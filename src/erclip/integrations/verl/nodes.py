"""Has every machine of the Ray cluster what the run needs? Asked before verl starts anything.

verl adds the GPUs of all machines up and then waits, for ever and without a word, for machines that
have enough of them each; another version on one of them, or a checkpoint folder that is not the
same everywhere, shows hours later.
"""

from __future__ import annotations

import os
import time
import traceback
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from erclip.errors import UserError

WAIT_S = 300.0  # machines of a job scheduler do not join at the same moment
PACKAGES = ("erclip", "verl", "torch", "transformers")
Resources = Mapping[str, float]


class Need(NamedTuple):
    """`machines` of `gpus` free GPUs and `cpus` free CPUs each."""

    machines: int
    gpus: int
    cpus: int


class Machine(NamedTuple):
    """What one machine answered: versions (None: not installed), and paths that it cannot see."""

    name: str
    versions: dict[str, str | None]
    missing: tuple[str, ...]


def check_nodes(config: Any, wait_s: float = WAIT_S) -> None:
    """Wait for the machines, then ask each; UserError for the first thing that is not right."""
    from verl.single_controller.ray.base import ResourcePoolManager

    gpus = config.trainer.n_gpus_per_node
    need = Need(config.trainer.nnodes, gpus, gpus * ResourcePoolManager.max_colocate_count)
    wait_for(need, _free_resources, wait_s, _address())
    rollout = config.actor_rollout_ref.rollout.name
    packages = [*PACKAGES, *({"vllm", "sglang"} & {rollout})]
    model = config.actor_rollout_ref.model.path
    folder = config.trainer.default_local_dir
    with _mark(folder if need.machines > 1 else None) as mark:
        paths = [*([model] if Path(model).is_dir() else []), *([mark] if mark else [])]
        compare(inspect_machine(packages, paths), _ask(packages, paths), folder)


def wait_for(
    need: Need,
    free: Callable[[], Sequence[Resources]],
    wait_s: float,
    address: str,
    pause_s: float = 2.0,
) -> None:
    """Return once enough machines are free; say what is waited for; UserError after `wait_s`."""
    deadline, said = time.monotonic() + wait_s, -1
    while True:
        machines = free()
        fit = sum(_gpus(m) >= need.gpus and m.get("CPU", 0) >= need.cpus for m in machines)
        if fit >= need.machines:
            return
        if time.monotonic() >= deadline:
            raise UserError(_too_few(need, machines, fit, address))
        if fit != said:
            print(f"erclip: {fit} of {need.machines} machines are ready; waiting for the others")
            said = fit
        time.sleep(min(pause_s, max(0.0, deadline - time.monotonic())))


def _too_few(need: Need, machines: Sequence[Resources], fit: int, address: str) -> str:
    seen = ", ".join(f"{_gpus(m):g} GPUs and {m.get('CPU', 0):g} CPUs" for m in machines)
    return (
        f"trainer.nnodes = {need.machines} and trainer.n_gpus_per_node = {need.gpus} need "
        f"{need.machines} machine(s) with {need.gpus} GPUs and {need.cpus} CPUs free, and {fit} of "
        f"the cluster's {len(machines)} have them ({seen}); run `ray start --address={address}` on "
        "the missing ones, or end what occupies them (`ray status`)."
    )


def compare(ours: Machine, others: Sequence[Machine], folder: str) -> None:
    """UserError for the first machine whose versions or files differ from this process's.

    >>> here = Machine("a", {"verl": "0.9.1"}, ())
    >>> compare(here, [Machine("b", {"verl": "0.9.1"}, ())], "/shared")
    >>> compare(here, [Machine("b", {"verl": None}, ())], "/shared")
    Traceback (most recent call last):
    erclip.errors.UserError: machine b has no verl, a has verl 0.9.1; install the same everywhere.
    """
    for machine in (ours, *others):
        for name, wanted in ours.versions.items():
            found = machine.versions.get(name)
            if found is None and wanted is None:
                raise UserError(f"machine {machine.name} has no {name}; install it everywhere.")
            if found != wanted:
                has = f"{name} {found}" if found else f"no {name}"
                raise UserError(
                    f"machine {machine.name} has {has}, {ours.name} has {name} {wanted}; "
                    "install the same everywhere."
                )
        for path in machine.missing:
            if Path(path).parent == Path(folder):
                raise UserError(
                    f"trainer.default_local_dir = {folder} is another folder on {machine.name} "
                    f"than on {ours.name}; every machine writes its part of a checkpoint there, so "
                    "name a folder on storage that all of them share."
                )
            raise UserError(
                f"actor_rollout_ref.model.path = {path} does not exist on {machine.name}; copy it "
                "to the same place everywhere, or use a hub id."
            )


def inspect_machine(packages: Sequence[str], paths: Sequence[str]) -> Machine:
    """What this machine answers."""
    import ray

    versions: dict[str, str | None] = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    missing = tuple(path for path in paths if not Path(path).exists())
    return Machine(ray.util.get_node_ip_address(), versions, missing)


def _ask(packages: Sequence[str], paths: Sequence[str]) -> list[Machine]:
    """Every machine that has GPUs, each by a task of its own."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    answers = {}
    for node in ray.nodes():
        if node["Alive"] and _gpus(node["Resources"]):
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(inspect_machine).options(num_cpus=0, scheduling_strategy=here)
            answers[node["NodeManagerAddress"]] = task.remote(packages, paths)
    machines = []
    for name, answer in answers.items():
        try:
            machines.append(ray.get(answer, timeout=120))
        except (ray.exceptions.RayError, ImportError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise UserError(
                f"machine {name} cannot run erclip ({reason}); start Ray there from an environment "
                "with the same packages as here."
            ) from None
    return machines


@contextmanager
def _mark(folder: str | None) -> Generator[str | None]:
    """A file in the checkpoint folder, by which other machines show that they see the same one."""
    if folder is None or "://" in folder:
        yield None
        return
    path = Path(folder) / f".erclip-{uuid.uuid4().hex}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    try:
        yield str(path)
    finally:
        os.unlink(path)


@contextmanager
def machine_lost(wait_s: float = 30.0) -> Generator[None]:
    """Turn the failure of a run into one sentence if a machine has left the cluster meanwhile.

    Ray notices a dead machine by missed heartbeats, often after its peers' connections have failed.
    """
    before = _alive()
    try:
        yield
    except Exception as error:
        if user_error(error):
            raise
        deadline = time.monotonic() + wait_s
        while not (lost := sorted(before - _alive())) and time.monotonic() < deadline:
            time.sleep(1.0)
        if not lost:
            raise
        traceback.print_exc()
        raise UserError(
            f"machine {', '.join(lost)} left the Ray cluster during the run; bring it back (or "
            "another: `ray start --address=…`) and give the same command, which goes on from the "
            "last checkpoint."
        ) from None


def _alive() -> set[str]:
    import ray

    return {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}


def _free_resources() -> list[Resources]:
    """Of each machine with a GPU, as verl counts them."""
    import ray

    free = ray._private.state.available_resources_per_node()
    return [
        free.get(node["NodeID"], {})
        for node in ray.nodes()
        if node["Alive"] and _gpus(node["Resources"])
    ]


def _gpus(resources: Resources) -> float:
    return resources.get("GPU", resources.get("NPU", 0))


def _address() -> str:
    import ray

    return ray.get_runtime_context().gcs_address


def user_error(error: BaseException) -> UserError | None:
    """The UserError that a worker raised, out of the envelopes that Ray put around it."""
    from ray.exceptions import RayTaskError

    while isinstance(error, RayTaskError):
        error = error.cause
    return error if isinstance(error, UserError) else None
