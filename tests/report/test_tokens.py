"""The token view: what the page carries, that it is text, and that it works in a browser."""

from __future__ import annotations

import base64
import hashlib
import html as html_module
import json
import re
import shutil
import subprocess

import pytest

from erclip.report import build_report
from erclip.report.tokens import token_view
from erclip.runs.read import read_run

EVIL = "</script><img src=x onerror=\"document.title='pwned'\"><!--<script>"


def row(rollout: int, number: int, pieces: list[str], fired: list[int] | None = None, **more):
    count = len(pieces)
    line = {
        "rollout": rollout,
        "number": number,
        "prompt_id": f"p{number}",
        "prompt": f"Q {EVIL}",
        "answer": EVIL,
        "gold": EVIL,
        "reward": 1.0,
        "advantage": 0.5,
        "correct": number % 2 == 0,
        "truncated": False,
        "pieces": pieces,
        "old_logprobs": [-0.1] * count,
        "old_entropies": [0.01 * 10 ** (i % 3) for i in range(count)],
        **more,
    }
    if fired is not None:
        line |= {"new_logprobs": [-0.2] * count, "new_entropies": [0.02] * count, "fired": fired}
    return line


def write(run, rows):
    (run / "tokens.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rows))
    return run


def responses(html: str) -> list[dict]:
    found = re.findall(r'<script type="application/json" class="response">(.*?)</script>', html)
    return [json.loads(text) for text in found]


@pytest.fixture(scope="module")
def page(tmp_path_factory, write_run):
    run = write_run(tmp_path_factory.mktemp("page") / "run", rollouts=2)
    rows = [
        row(1, 0, ["a", EVIL, "\n", "√"]),
        row(2, 1, [EVIL, "b"], fired=[8, 1 | 16], update_in_rollout=8),
        row(2, 2, ["c"], fired=[0], update_in_rollout=8),
    ]
    return build_report([write(run, rows)])


def test_the_page_carries_every_response_once_and_safely(page):
    html = page.read_text()
    first, second, third = responses(html)
    assert first["t"] == ["a", EVIL, "\n", "√"]
    assert "h2" not in first
    assert (second["f"], second["clipped"], second["update"]) == ([8, 17], 1.0, 8)
    assert third["clipped"] == 0.0
    assert "<img" not in html
    assert html.count("</script>") == 3 + 3


def test_only_the_pages_own_script_may_run(page):
    html = page.read_text()
    scripts = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digests = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts
    ]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert html_module.unescape(policy) == (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}"
    )
    assert not [text for text in scripts if "innerHTML" in text]


def test_a_full_page_keeps_the_last_and_the_first_rollout(tmp_path, write_run, monkeypatch):
    monkeypatch.setattr("erclip.report.tokens.TOKENS_SHOWN", 6)
    run = write_run(tmp_path / "run", rollouts=3)
    write(run, [row(r, n, ["x", "y"]) for r in (1, 2, 4) for n in (0, 1)])
    view = token_view([read_run(run)])
    assert [json.loads(text)["rollout"] for text in view.responses] == [1, 4, 4]
    assert view.left_out == 3


def test_a_run_without_tokens_has_no_view(tmp_path, write_run):
    html = build_report([write_run(tmp_path / "run", rollouts=1)]).read_text()
    assert 'id="tokens"' not in html
    assert "tokens.jsonl" not in html


def in_browser(page, clicks: str, tmp_path) -> str:
    """The page's DOM after some clicks; its policy is lifted for the clicks alone."""
    html = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text())
    copy = tmp_path / "clicked.html"
    copy.write_text(html.replace("</body>", f"<script>{clicks}</script></body>"))
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    done = subprocess.run(
        [*command, copy.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_in_a_browser_tokens_are_coloured_and_text_stays_text(page, tmp_path):
    choose = "document.querySelectorAll('.list button')[1].click();"
    outcome = "document.querySelector('button[data-value=outcome]').click();"
    dom = in_browser(page, choose + outcome, tmp_path)
    (stream,) = re.findall(r'<div class="stream"[^>]*>(.*?)</div>', dom, flags=re.DOTALL)
    spans = re.findall(r'<span class="([^"]*)">(.*?)</span>', stream, flags=re.DOTALL)
    assert [(cls.split(), html_module.unescape(text)) for cls, text in spans] == [
        (["down", "v8"], EVIL),
        (["up", "v8", "ranged"], "b"),
    ]
    assert "<title>run – erclip report" in dom
    assert "<img" not in dom
    right = in_browser(
        page, "document.querySelector('button[data-value=right]').click();", tmp_path
    )
    assert re.findall(r'<b class="(\w+)">', right[right.index('id="tokens"') :])[:2] == [
        "right",
        "right",
    ]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_in_a_browser_it_opens_on_what_is_recorded_and_keys_go_through_it(page, tmp_path):
    press = (
        "const box = document.querySelector('.pane .stream');"
        "for (const key of ['ArrowRight', 'ArrowRight']) "
        "box.dispatchEvent(new KeyboardEvent('keydown', {key}));"
    )
    dom = in_browser(page, press, tmp_path)
    assert re.search(r'class="[^"]*\bat\b[^"]*">b<', dom)
    detail = re.search(r'<p class="hint detail"[^>]*>(.*?)</p>', dom)[1]
    assert html_module.unescape(detail).startswith('"b" · token 2 of 2 · H old 0.1 nats')
    assert not re.search(r"<button[^>]* disabled", dom)
    plain = "document.querySelectorAll('.list button')[0].click();"  # not in the ledger
    dom = in_browser(page, plain, tmp_path)
    off = re.findall(r'<button data-key="mode" data-value="(\w+)"[^>]* disabled', dom)
    assert off == ["rho", "ratio", "outcome"]
    assert "the ledger does not have the update of this response" in dom


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_in_a_browser_sixteen_thousand_tokens_and_two_runs(tmp_path, write_run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [write_run(tmp_path / name, rollouts=1) for name in ("first", "second")]
    for run in runs:
        write(run, [row(1, 0, ["tok "] * 16_000, fired=[0, 8] * 8_000)])
    dom = in_browser(build_report(runs), "", tmp_path)
    streams = re.findall(r'<div class="stream"[^>]*>(.*?)</div>', dom, flags=re.DOTALL)
    assert [stream.count("<span") for stream in streams] == [16_000, 16_000]
