"""The server's side of the conversation, played by a small HTTP server: no vLLM needed."""

from __future__ import annotations

import json
import math
import threading
from array import array
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from safetensors.torch import load_file

from erclip.config import Config
from erclip.config.recipes import load_recipe
from erclip.errors import UserError
from erclip.training.sampling import SamplingSettings
from erclip.training.sampling.load import load_sampler
from erclip.training.sampling.vllm_client import VllmClient
from erclip.training.trainer import Trainer


class Stage:
    """What the pretended server says, and what it was asked."""

    def __init__(self):
        self.asked, self.reloaded = [], []
        self.token_ids = [5, 6, 1]  # 1 ends a response of the embedded model
        self.extension, self.processed, self.cache_emptied = True, True, True
        self.limit = 64
        self.likely = None

    def answer(self, path, body):
        self.asked.append((path, body))
        if path == "/v1/models":
            return 200, {"data": [{"id": "embedded", "max_model_len": self.limit}]}
        if path == "/collective_rpc":
            if not self.extension:
                return 404, {"detail": "Not Found"}
            if body["method"] == "erclip_reload":
                self.reloaded.append(load_file(Path(body["args"][0]) / "model.safetensors"))
            return 200, {"results": ["ready" if body["method"] == "erclip_ready" else None]}
        if path == "/reset_prefix_cache":
            return 200, {"success": self.cache_emptied}
        assert path == "/v1/completions"
        top = -1.0 / ((body["temperature"] or 1) if self.processed else 1)
        count = len(self.token_ids or [])
        choice = {
            "token_ids": self.token_ids,
            "logprobs": {
                "token_logprobs": [-0.5] * count,
                "top_logprobs": self.likely or [{"a": top}],
            },
        }
        choices = [{**choice, "index": i} for i in reversed(range(body.get("n", 1)))]
        return 200, {"choices": choices}


@pytest.fixture
def stage():
    played = Stage()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.do_POST()

        def do_POST(self):
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, said = played.answer(self.path, body)
            data = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    played.url = f"http://127.0.0.1:{server.server_port}"
    yield played
    server.shutdown()
    server.server_close()


@pytest.fixture
def connect(stage, policy):
    def start(**settings):
        sampler = {"kind": "vllm_server", "url": stage.url, "timeout_s": 5.0, **settings}
        return load_sampler(Config.model_validate({"sampler": sampler}), policy)

    return start


def test_a_prompt_is_one_request_that_leaves_nothing_to_the_servers_defaults(
    connect, stage, policy, countdown
):
    sampler = connect()
    groups = sampler.sample(list(countdown.train[:2]), SamplingSettings(3, 8, 0.7), [41, 42])
    sent = [body for path, body in stage.asked if path == "/v1/completions"]
    assert sorted(body["seed"] for body in sent) == [41, 42]
    first = next(body for body in sent if body["seed"] == 41)
    assert first == {
        "model": "embedded",
        "prompt": list(groups[0][0].prompt_ids),
        "seed": 41,
        "n": 3,
        "max_tokens": 8,
        "temperature": 0.7,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stop_token_ids": [1],
        "ignore_eos": True,
        "logprobs": 0,
        "return_token_ids": True,
    }
    assert [len(group) for group in groups] == [3, 3]
    response = groups[1][2]
    assert response.prompt == countdown.train[1]
    assert (response.token_ids, response.logprobs) == ((5, 6, 1), (-0.5, -0.5, -0.5))
    assert not response.truncated
    assert response.text == policy.tokenizer.decode([5, 6])


def test_likely_tokens_are_asked_for_by_number(connect, stage, countdown):
    stage.likely = [{"token_id:5": -0.5, "token_id:9": -1.5, "token_id:7": -3.0}] * 3
    settings = SamplingSettings(1, 8, top=2)
    response = connect().sample(list(countdown.train[:1]), settings, [1])[0][0]
    assert stage.asked[-1][1]["logprobs"] == 2
    assert stage.asked[-1][1]["return_tokens_as_token_ids"]
    assert response.top.ids == array("i", [5, 9] * 3).tobytes()
    assert response.top.logprobs == array("f", [-0.5, -1.5] * 3).tobytes()
    stage.likely = [{"five": -0.5}] * 3
    with pytest.raises(UserError, match="does not answer like a vLLM server"):
        connect().sample(list(countdown.train[:1]), settings, [1])


def test_greedy_is_asked_once_and_has_no_logprobs(connect, stage, countdown):
    (group,) = connect().sample(list(countdown.train[:1]), SamplingSettings(3, 8, 1e-6), [1])
    assert stage.asked[-1][1]["n"] == 1
    assert stage.asked[-1][1]["temperature"] == 0.0
    assert [len(group), len({r.token_ids for r in group})] == [3, 1]
    assert all(math.isnan(x) for r in group for x in r.logprobs)


def test_new_weights_are_handed_over_in_a_folder_and_the_cache_is_emptied(
    connect, stage, policy, tmp_path
):
    sampler = connect(folder=str(tmp_path))
    name, parameter = next(iter(policy.model.named_parameters()))
    parameter.data.add_(1.0)
    sampler.update_weights()
    assert stage.asked[-1][0] == "/reset_prefix_cache"
    assert stage.reloaded[0][name].equal(parameter.data)
    assert not list(tmp_path.iterdir())  # nothing is left behind
    stage.cache_emptied = False
    with pytest.raises(UserError, match="kept its prefix cache"):
        sampler.update_weights()


@pytest.mark.parametrize(
    ("stage_is", "settings", "sentence"),
    [
        ({"extension": False}, {}, r"cannot take over new weights; start it as VLLM_SERVER_DEV"),
        ({"processed": False}, {"temperature": 0.7}, r"gives raw_logprobs, .*need processed_log"),
        ({}, {"top_p": 0.9}, r"gives processed_logprobs, .*need raw_logprobs"),
        ({}, {"url": "http://127.0.0.1:9"}, r"No vLLM server at .*:9 .*refused.*check sampler.url"),
    ],
    ids=["no extension", "raw", "processed", "nobody there"],
)
def test_a_server_that_will_not_do_is_refused_at_the_start(
    connect, stage, stage_is, settings, sentence
):
    vars(stage).update(stage_is)
    with pytest.raises(UserError, match=sentence):
        connect(**settings)


def test_accidents_on_the_way_are_one_sentence(connect, stage, countdown, monkeypatch):
    sampler = connect(timeout_s=0.3)
    ask = list(countdown.train[:1]), SamplingSettings(1, 8), [1]
    accidents = [
        ((500, {"error": "out of memory"}), r"refused .*v1/completions \(500\): .*out of memory"),
        ((200, b"<html>"), "does not answer in JSON"),
        ((200, {"choices": [{"index": 0, "logprobs": None}]}), "returns no token ids"),
    ]
    for said, sentence in accidents:
        monkeypatch.setattr(stage, "answer", lambda *_, said=said: said)
        with pytest.raises(UserError, match=sentence):
            sampler.sample(*ask)
    monkeypatch.setattr(stage, "answer", lambda *_: threading.Event().wait(1) or (200, {}))
    with pytest.raises(UserError, match=r"did not answer .* within 0.3 s; raise sampler.timeout_s"):
        sampler.sample(*ask)


def test_what_does_not_fit_is_refused_before_it_is_asked(connect, stage, countdown):
    stage.limit = 20
    with pytest.raises(UserError, match=r"leaves no room for 16 more within vLLM's 20"):
        connect().sample(list(countdown.train[:1]), SamplingSettings(1, 16), [1])


def test_temperature_and_nucleus_together_are_refused(connect):
    with pytest.raises(ValueError, match=r"temperature = 0.7 with top_p = 0.9: vLLM gives"):
        connect(temperature=0.7, top_p=0.9)


@pytest.mark.slow
def test_a_server_samples_beside_the_trainer(stage, tmp_path):
    """From the sampler's process, which gives it new weights between rollouts."""
    settings = [
        f"sampler={{kind='vllm_server', url='{stage.url}', max_tokens=8}}", "trainer.rollouts=3",
        "rollout.prompts=4", "trainer.updates_per_rollout=2", "rollout.dynamic_sampling=off",
        "rollout.staleness=1", "rollout.overlap=true", "eval.prompts=2", "loss.entropy_bonus=0.1",
        "sampler.max_prompt_tokens=16",
    ]  # fmt: skip
    trainer = Trainer(load_recipe("quickstart", settings), tmp_path / "run")
    trainer.train()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    ages = [row["staleness/max"] for row in rows if row["kind"] == "rollout"]
    assert ages[0] == 0
    assert all(age in (0, 2) for age in ages[1:])
    assert sum(row["kind"] == "eval" for row in rows) == 2
    last = dict(trainer.policy.model.named_parameters())
    assert all(stage.reloaded[-1][name].equal(value) for name, value in last.items())
    assert len(stage.reloaded) >= 3


def test_the_key_goes_along_and_no_password_is_in_a_message(monkeypatch):
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.headers.get("Authorization"))
            self.send_response(401 if self.path.startswith("/v1") else 302)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"127.0.0.1:{server.server_port}"
    monkeypatch.setenv("VLLM_API_KEY", "the-key")
    with pytest.raises(UserError, match="wants its key"):
        VllmClient(f"http://{place}", 5).call("/v1/models")
    with pytest.raises(UserError, match="wants its key") as caught:
        VllmClient(f"http://me:secret@{place}/", 5).call("/v1/models")
    assert "secret" not in str(caught.value)
    with pytest.raises(UserError, match="redirects are not followed"):
        VllmClient(f"http://{place}", 5).call("/health")
    assert seen == ["Bearer the-key", "Basic bWU6c2VjcmV0", "Bearer the-key"]
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("url", ["http://", "http://a:b", "http://a?x=1", "http://[", "http://a#b"])
def test_an_address_that_is_none(url):
    with pytest.raises(UserError, match=r"sampler\.url"):
        VllmClient(url, 1)
