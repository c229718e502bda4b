"""verl's whole V1 loop on two Ray nodes of one rank each, and our trainer fed with its batches.

Ray, transfer queue, FSDP2 over gloo, rollout servers, checkpoints: all of it is verl's.
"""

from __future__ import annotations

import pytest
from ray.cluster_utils import Cluster

from .replay import (
    MINI_BATCHES,
    RANKS,
    STEPS,
    Run,
    check_resumed,
    check_saved,
    compare,
    steps_of,
    write_data,
)

pytestmark = [pytest.mark.verl, pytest.mark.timeout(3000)]


@pytest.fixture(scope="module")
def cluster():
    """Two Ray nodes on this machine, each with a GPU that does not exist."""
    node = {"num_cpus": 6, "num_gpus": 1, "object_store_memory": 200_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def data(tmp_path_factory, countdown):
    return write_data(tmp_path_factory.mktemp("data"), countdown)


def test_erc_gppo_on_two_nodes_is_our_trainer(cluster, data, tmp_path):
    run = Run(cluster.address, data, tmp_path, "erc_gppo", "whole")
    assert run.wait() == 0, run.tail()
    updates, nodes = run.updates()
    assert len(nodes) == RANKS
    assert len(updates) == STEPS * MINI_BATCHES
    assert all(len(ranks) == RANKS for ranks in updates)
    metrics = run.metrics()
    policy = compare("erc_gppo", [(u, metrics[i + 1]) for i, u in enumerate(steps_of(updates))])
    assert run.saved() == STEPS
    check_saved(run, policy)


def test_late_rollouts_have_old_entropies_too(cluster, data, tmp_path):
    """verl's asynchronous trainer in one place: "old" is the policy just before the updates."""
    extra = ["trainer.v1.trainer_mode=colocate_async"]
    run = Run(cluster.address, data, tmp_path, "erc_dapo", "late", extra=extra)
    assert run.wait() == 0, run.tail()
    updates, _ = run.updates()
    metrics = run.metrics()
    policy = compare("erc_dapo", [(u, metrics[i + 1]) for i, u in enumerate(steps_of(updates))])
    check_saved(run, policy)


def test_erc_dapo_survives_being_killed(cluster, data, tmp_path):
    """Killed after its first checkpoint and started again, it goes on with the same optimiser.

    A kill -9 of the command, which Ray's workers outlive for a moment.
    """
    first = Run(cluster.address, data, tmp_path, "erc_dapo", "first")
    code = first.wait(until=lambda: first.saved() >= 1)
    assert code is None, first.tail()
    first.process.kill()
    first.process.wait()
    second = Run(cluster.address, data, tmp_path, "erc_dapo", "second")  # waits for Ray's clean-up
    assert second.wait() == 0, second.tail()
    check_resumed(first, second, "erc_dapo")
