"""A real server: same log-probs as the trainer, before and after new weights arrive by folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from urllib.request import urlopen

import pytest

from engines.models import make_tiny, move
from engines.test_vllm_engine import SEEDS, check_likely, flat, trainer_gap
from engines.test_vllm_runs import rollouts, train
from erclip.config import Config
from erclip.errors import UserError
from erclip.training.policy import load_policy
from erclip.training.sampling import SamplingSettings
from erclip.training.sampling.load import load_sampler
from erclip.training.sampling.vllm_engine import ENVIRONMENT
from erclip.training.sampling.vllm_worker import EXTENSION

pytestmark = pytest.mark.vllm


class Server:
    """`vllm serve` of a folder in a process of its own."""

    def __init__(self, folder, log, *options):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", folder]
        command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
        command += ["--enforce-eager", "--max-model-len", "128", "--no-enable-chunked-prefill"]
        command += ["--max-num-batched-tokens", "4096", "--kv-cache-memory-bytes", str(2**28)]
        environment = {**os.environ, **ENVIRONMENT, "VLLM_SERVER_DEV_MODE": "1"}
        self.process = subprocess.Popen(
            [*command, *options], env=environment, stdout=log.open("w"), stderr=subprocess.STDOUT
        )
        self._wait(log)

    def _wait(self, log):
        for _ in range(240):
            assert self.process.poll() is None, log.read_text()[-3000:]
            try:
                with urlopen(self.url + "/health", timeout=5):
                    return
            except OSError:
                time.sleep(1)
        raise AssertionError(log.read_text()[-3000:])

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    make_tiny(folder, tied=True)
    return str(folder)


@pytest.fixture
def serve(tied, tmp_path):
    servers = []

    def start(*options):
        servers.append(Server(tied, tmp_path / "server.log", *options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def connect(tied, server, **more):
    sampler = {"kind": "vllm_server", "url": server.url, **more}
    config = Config.model_validate({"model": {"path": tied}, "sampler": sampler})
    policy = load_policy(config.model, config.sampler.temperature)
    return policy, load_sampler(config, policy)


def test_a_server_follows_the_trainers_weights(tied, serve, countdown):
    extension = "--worker-extension-cls", EXTENSION
    server = serve(*extension, "--logprobs-mode", "processed_logprobs", "--max-logprobs", "5")
    policy, sampler = connect(tied, server, temperature=0.7)
    prompts, settings = list(countdown.train[:6]), SamplingSettings(4, 24, 0.7)
    first = sampler.sample(prompts, settings, SEEDS)
    assert trainer_gap(policy, first) < 1e-4
    move(policy)
    assert trainer_gap(policy, sampler.sample(prompts, settings, SEEDS)) > 1e-2
    sampler.update_weights()
    second = sampler.sample(prompts, settings, SEEDS)
    assert trainer_gap(policy, second) < 1e-4
    again = sampler.sample(prompts, settings, SEEDS)
    assert [ids for ids, _ in flat(second)] == [ids for ids, _ in flat(again)]
    likely = sampler.sample(prompts, SamplingSettings(2, 16, 0.7, top=5), SEEDS)
    check_likely(policy, likely, 0.7, 5)
    server.stop()
    with pytest.raises(UserError, match=r"No vLLM server at .*; start it or check sampler.url"):
        sampler.sample(prompts, settings, SEEDS)


def test_a_server_samples_while_the_trainer_updates(tied, serve, tmp_path):
    """`rollout.overlap`: the sampler's process talks to it and hands it every new version."""
    server = serve("--worker-extension-cls", EXTENSION, "--logprobs-mode", "processed_logprobs")
    ended = train(
        tmp_path / "run",
        *(f"sampler.url={server.url}", f"model.path={tied}", "sampler.max_tokens=16"),
        *("rollout.staleness=1", "rollout.overlap=true", "rollout.dynamic_sampling=off"),
        *("trainer.rollouts=4", "eval.prompts=4", "loss.importance=truncated_importance"),
        engine=["sampler.kind=vllm_server"],
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    lines = rollouts(tmp_path / "run")
    assert len(lines) == 4
    assert lines[-1]["staleness/max"] > 0
    assert lines[-1]["sampler/logprob_diff"] < 1e-2  # one rollout late, at a small learning rate


def test_a_server_without_the_extension_is_refused_at_the_start(tied, serve):
    server = serve()
    with pytest.raises(UserError, match=r"cannot take over new weights; start it as"):
        connect(tied, server)
    with pytest.raises(UserError, match=r"gives raw_logprobs, .* need processed_logprobs"):
        connect(tied, server, temperature=0.7)
