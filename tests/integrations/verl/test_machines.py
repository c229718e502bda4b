"""What every machine must have, asked before verl starts; and a run whose second machine dies."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

import pytest

from erclip.errors import UserError
from erclip.integrations.verl import nodes
from erclip.integrations.verl.launch import compose, make_absolute
from erclip.integrations.verl.nodes import Machine as Answer
from erclip.integrations.verl.nodes import Need, compare, wait_for

from .machines import Machine, Switch, available
from .replay import RANKS, Run, check_resumed, write_data

pytestmark = [pytest.mark.verl, pytest.mark.timeout(3000)]

FREE = {"GPU": 8.0, "CPU": 96.0}


def test_machines_may_join_late(capsys):
    seen = iter([[FREE], [FREE], [FREE, FREE]])
    wait_for(Need(2, 8, 24), lambda: next(seen), wait_s=60, address="a:1", pause_s=0)
    said = capsys.readouterr().out.splitlines()
    assert said == ["erclip: 1 of 2 machines are ready; waiting for the others"]


@pytest.mark.parametrize(
    ("machines", "words"),
    [
        ([FREE], "1 of the cluster's 1 have them (8 GPUs and 96 CPUs)"),
        ([FREE, {"GPU": 16.0, "CPU": 8.0}], "1 of the cluster's 2"),  # verl would wait for ever
        ([FREE, {"GPU": 7.0, "CPU": 96.0}], "1 of the cluster's 2"),
        ([FREE, {}], "0 GPUs and 0 CPUs"),
    ],
)
def test_too_few_machines_are_told_in_one_sentence(machines, words):
    with pytest.raises(UserError) as error:
        wait_for(Need(2, 8, 24), lambda: machines, wait_s=0, address="10.0.0.1:6379")
    text = str(error.value)
    assert "2 machine(s) with 8 GPUs and 24 CPUs free" in text
    assert words in text
    assert "`ray start --address=10.0.0.1:6379`" in text
    assert ". " not in text


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Answer("b", {"torch": "2.11.0"}, ()), "machine b has torch 2.11.0, a has torch 2.13.0"),
        (Answer("b", {"torch": None}, ()), "machine b has no torch"),
        (Answer("b", {"torch": "2.13.0"}, ("/s/.mark",)), "default_local_dir = /s is another"),
        (Answer("b", {"torch": "2.13.0"}, ("/models/x",)), "model.path = /models/x does not"),
    ],
)
def test_a_machine_that_differs_is_named(other, words):
    ours = Answer("a", {"torch": "2.13.0"}, ())
    with pytest.raises(UserError) as error:
        compare(ours, [ours, other], "/s")
    assert words in str(error.value)
    assert ". " not in str(error.value)


def test_paths_are_the_users_not_rays(tmp_path):
    (tmp_path / "a.parquet").touch()
    (tmp_path / "b.parquet").touch()
    (tmp_path / "model").mkdir()
    config = compose(
        "base",
        [
            "data.train_files=[a.parquet,hdfs://x/y.parquet]",
            "data.val_files=b.parquet",
            "actor_rollout_ref.model.path=model",
            "trainer.experiment_name=first",
        ],
    )
    make_absolute(config, tmp_path)
    assert list(config.data.train_files) == [f"{tmp_path}/a.parquet", "hdfs://x/y.parquet"]
    assert config.data.val_files == f"{tmp_path}/b.parquet"
    assert config.actor_rollout_ref.model.path == f"{tmp_path}/model"
    assert config.trainer.default_local_dir == f"{tmp_path}/checkpoints/erclip/first"
    config = compose("base", ["data.train_files=c.parquet", "actor_rollout_ref.model.path=a/b"])
    with pytest.raises(UserError, match=r"data.train_files = c.parquet: there is no such file in"):
        make_absolute(config, tmp_path)


@pytest.mark.parametrize(("after", "error"), [({"a"}, UserError), ({"a", "b"}, RuntimeError)])
def test_a_failure_is_a_lost_machines_or_its_own(monkeypatch, after, error):
    alive = iter([{"a", "b"}])
    monkeypatch.setattr(nodes, "_alive", lambda: next(alive, after))
    said = r"machine b left the Ray cluster|connection reset"
    with pytest.raises(error, match=said), nodes.machine_lost(wait_s=0.0):
        raise RuntimeError("connection reset")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that makes the n-th machine; `tmp_path / "local"` is another folder on each."""
    if not available():
        pytest.skip("needs Linux namespaces, hence root")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    made = [Switch()]

    def make(number):
        made.append(Machine(made[0], number, tmp_path / "local"))
        return made[-1]

    yield make
    for namespace in reversed(made):
        namespace.unplug()


def test_a_run_on_two_machines_outlives_one_of_them(machine, tmp_path, countdown):
    """By the commands of docs/verl.md: Ray's head, a machine that joins late, one that dies."""
    ray = Path(sys.executable).with_name("ray")
    write_data(tmp_path, countdown)
    head = machine(1)
    head.ray_start(ray, "--head", "--port=6379", "--include-dashboard=false")

    def run(name, *extra):
        data = "train.parquet"  # relative: Ray's own working directory is /
        there = (*head.enter, "env", "-C", str(tmp_path))
        return Run(None, data, tmp_path, "erc_dapo", name, extra=extra, machine=there)

    own = run("unshared", f"trainer.default_local_dir={tmp_path}/local/checkpoints")
    waiting = f"1 of {RANKS} machines are ready"
    assert own.wait(until=lambda: waiting in own.tail()) is None, own.tail()
    second = machine(2)
    second.ray_start(ray, f"--address={head.address}:6379")
    assert own.wait() == 2, own.tail()
    assert "is another folder on 10.77.0.2 than on 10.77.0.1" in own.tail().splitlines()[-1]

    first = run("first")
    first.wait(until=lambda: first.saved() >= 1)
    second.unplug()
    assert first.wait(limit_s=600) == 2, first.tail()
    log = (first.capture / "log").read_text()  # Ray may still deliver the workers' tracebacks
    assert f"erclip: machine {second.address} left the Ray cluster" in log
    third = machine(3)
    third.ray_start(ray, f"--address={head.address}:6379")
    again = run("again")
    assert again.wait() == 0, again.tail()
    check_resumed(first, again, "erc_dapo")
