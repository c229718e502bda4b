"""Without a connection the hub fails in seconds, with one sentence; a cache is still used."""

from __future__ import annotations

import socket
import time

import pytest
from huggingface_hub import constants

from erclip.config.recipes import load_recipe
from erclip.diagnostics.look import data_sheet
from erclip.errors import UserError
from erclip.machine import hub
from erclip.plan.counts import read_model_config
from erclip.tasks.base import Wording
from erclip.tasks.files import Source
from erclip.training.policy import load_policy


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Every test asks anew, and leaves the libraries as they were."""
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "")  # so that it is put back, or taken away, at the end
        monkeypatch.delenv(name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for cached in (hub._answers, hub._told_offline):
        cached.cache_clear()
    yield
    for cached in (hub._answers, hub._told_offline):
        cached.cache_clear()


@pytest.fixture
def silent(monkeypatch):
    """An endpoint that takes a connection's first packet and never answers."""
    monkeypatch.setattr(hub, "PATIENCE_S", 0.3)
    monkeypatch.setattr(hub.socket, "create_connection", lambda *_, **__: time.sleep(3600))
    return hub


def test_whoever_answers_is_reachable(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert hub.reachable()


def test_a_proxy_is_where_a_connection_begins(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.local:3128")
    assert hub._address() == ("proxy.local", 3128)
    monkeypatch.setenv("HTTPS_PROXY", "proxy.local:8080")
    assert hub._address() == ("proxy.local", 8080)
    monkeypatch.setenv("NO_PROXY", "huggingface.co")
    assert hub._address() == ("huggingface.co", 443)


MODEL = ["model.path=somebody/nothing"]


@pytest.mark.parametrize(
    ("ask", "remedy"),
    [
        (lambda: load_policy(load_recipe("quickstart", MODEL).config.model), "model folder"),
        (lambda: read_model_config(load_recipe("quickstart", MODEL).config), "model folder"),
        (
            lambda: data_sheet(Source("somebody/nothing", "train"), Wording("", ""), None, None),
            "local .jsonl file",
        ),
    ],
)
def test_every_way_to_the_hub_ends_in_seconds(ask, remedy, silent):
    started = time.perf_counter()
    with pytest.raises(
        UserError, match=r"not in this machine's cache, and huggingface.co"
    ) as error:
        ask()
    assert time.perf_counter() - started < 30  # of which imports take most
    assert remedy in str(error.value)
    assert "\n" not in str(error.value)


def test_the_cache_is_asked_without_a_connection(silent):
    with hub.from_hub("Model", "a/b", "connect"):
        assert constants.HF_HUB_OFFLINE


def test_a_local_folder_asks_nobody(tmp_path, silent):
    with pytest.raises(KeyError), hub.from_hub("Model", str(tmp_path), "connect"):
        raise KeyError
    assert not constants.HF_HUB_OFFLINE


def test_who_wants_no_hub_is_reminded(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"), hub.from_hub("Model", "a/b", "x"):
        raise OSError
