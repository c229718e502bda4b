"""The watched report: it renews itself, and speaks to this machine only."""

from __future__ import annotations

import http.client
import json
import threading

import pytest

from erclip.errors import UserError
from erclip.machine.console import Console
from erclip.report import live


@pytest.fixture
def run(tmp_path, write_run):
    return write_run(tmp_path / "run", rollouts=2)


@pytest.fixture
def drawn(monkeypatch):
    """How often the page was rendered; a page is the number of lines that were read."""
    pages = []

    def render(runs, state):
        pages.append(state)
        return f"<p>{len(runs[0].updates)} updates, {state.version}</p>"

    monkeypatch.setattr(live, "render", render)
    monkeypatch.setattr(live, "_REST", 0.0)
    return pages


@pytest.fixture
def ask(run, drawn):
    """Ask a server of this run for a path."""
    with live.serve(live.Watched([run], 5.0), 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()

        def ask(path: str, host: str | None = None) -> tuple[int, str]:
            address, port = server.server_address[:2]
            assert address == "127.0.0.1"
            connection = http.client.HTTPConnection(address, port, timeout=20)
            connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{port}"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

        yield ask
        server.shutdown()
        thread.join()


def test_a_page_is_rendered_once_for_each_state_of_the_run(run, ask, drawn):
    status, first = ask("/")
    assert (status, ask("/")[1], len(drawn)) == (200, first, 1)
    version = json.loads(ask("/state")[1])["version"]
    assert version in first
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write('{"kind": "update", "rollout": 3, "update": 17, "update_in_rollout": 1}\n')
    assert json.loads(ask("/state")[1])["version"] != version
    assert ask("/")[1].startswith("<p>17 updates")
    assert len(drawn) == 2


def test_what_took_long_is_not_rendered_again_at_once(run, drawn, monkeypatch):
    monkeypatch.setattr(live, "_REST", 1e9)
    watched = live.Watched([run], 5.0)
    page = watched.page()
    (run / "metrics.jsonl").write_text("")
    assert (watched.page(), len(drawn)) == (page, 1)
    assert watched.version() in page


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8117", "127.0.0.1.evil.example:1"])
def test_a_name_that_points_here_is_refused(ask, host):
    assert ask("/", host)[0] == 403
    assert ask("/state", host)[0] == 403


def test_nothing_else_is_served(run, ask):
    for path in ("/config.json", "/../config.json", "//etc/passwd", "/?x=1"):
        assert ask(path)[0] == 404


def test_a_run_that_went_away_is_said(run, ask):
    for file in run.iterdir():
        file.unlink()
    status, body = ask("/")
    assert status == 503
    assert "holds no config.json" in body


def test_a_taken_port(run, drawn):
    watched = live.Watched([run], 5.0)
    with live.serve(watched, 0) as server:
        port = server.server_port
        with pytest.raises(UserError, match=f"cannot serve on port {port} .*give --port another"):
            live.serve(watched, port)


def test_what_is_no_run_is_refused_before_anything_is_served(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        live.watch([tmp_path / "none"], None, 5.0, Console(quiet=True))


def test_the_live_page_may_ask_its_own_server_and_no_other(run):
    page = live.Watched([run], 2.5).page()
    assert "; connect-src &#39;self&#39;" in page
    assert 'data-every="2.5"' in page
    assert page.count("<div data-renew=") == 2
