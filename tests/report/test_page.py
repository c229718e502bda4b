"""The page as a reader's browser gets it."""

from __future__ import annotations

import base64
import hashlib
import html as html_module
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from erclip.errors import UserError
from erclip.report import build_report

VOID = {"meta", "input", "br", "img", "hr", "link"}


class Page(HTMLParser):
    """A strict reader: balanced tags, all attributes, and the text of some elements."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[tuple[tuple[str, ...], dict, str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.tags:
            self.texts.append((tuple(self.open), self.tags[-1][1], data))

    def text_of(self, css_class: str) -> list[str]:
        return [
            text
            for _, attrs, text in self.texts
            if css_class in (attrs.get("class") or "").split() and text.strip()
        ]

    @property
    def text(self) -> str:
        shown = (text for path, _, text in self.texts if not {"style", "script"} & set(path))
        return re.sub(r"\s+", " ", " ".join(shown))


def figures(html: str) -> dict[str, str]:
    """Every card of the page by its title."""
    cards = re.findall(r"<figure.*?</figure>", html, flags=re.DOTALL)
    return {re.search("<h3>(.*?)</h3>", card)[1]: card for card in cards}


def lines_of(card: str, series: int, width: str = "1.8") -> list[np.ndarray]:
    """The polylines [N, 2] that a card draws in a run's colour; y points down."""
    stroke = rf"stroke: var\(--series-{series}\); (?:stroke-opacity: 0.45; )?stroke-width: {width}"
    paths = re.findall(rf'<path d="([^"]*)"[^>]*{stroke}', card)
    return [np.array(re.findall(r"[ML] (\S+) (\S+)", path), dtype=float) for path in paths]


def assert_drawn(points: np.ndarray, values) -> None:
    """The picture's y is the data times one negative number plus a constant."""
    slope, offset = np.polyfit(values, points[:, 1], 1)
    assert slope < 0
    np.testing.assert_allclose(points[:, 1], slope * np.array(values) + offset, atol=2e-3)


def scripts_of(html: str) -> list[str]:
    """The page's scripts, each allowed by its hash."""
    found = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    assert html_module.unescape(policy) == (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}"
    )
    return found


def report(*runs: Path) -> str:
    return build_report(runs).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def standard(tmp_path_factory, write_run) -> str:
    return report(write_run(tmp_path_factory.mktemp("standard") / "run"))


def test_one_run_gets_every_picture_and_needs_nothing_from_outside(standard):
    html = standard
    page = Page(html)
    assert list(figures(html)) == [
        "Held-out accuracy",
        "Training reward",
        "Policy entropy",
        "Entropy ratio within a rollout",
        "Clipped tokens",
        "Gradient norm",
        "KL(old‖new)",
        "Response length",
        "Time",
    ]
    assert "://" not in html
    assert "@import" not in html
    assert "url(//" not in html
    assert not {"link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attrs in page.tags:
        assert not attrs.get("src")
        assert (attrs.get("href") or "#").startswith("#")
        assert not [name for name in attrs if name.startswith("on")]
    assert "#00f0" not in html, "a stand-in colour was not replaced"


def test_pictures_tell_their_values_to_the_pointer_and_to_who_cannot_see(tmp_path, write_run):
    rewards, right = [-1.0, 0.5, -0.25], [0.0, 0.75, 0.375]

    def set_values(rows):
        for row in rows:
            if row["kind"] == "rollout":
                row["train/reward"] = rewards[row["rollout"] - 1]
                row["train/accuracy"] = right[row["rollout"] - 1]
                row["policy/entropy"] = float("nan") if row["rollout"] == 2 else 0.3125

    cards = figures(report(write_run(tmp_path / "run", rollouts=3, change=set_values)))
    (panel,) = panels_of(cards["Training reward"])  # the reward is 2 × the share − 1: one curve
    assert panel["traces"] == [
        {
            "label": "share correct",
            "color": "var(--series-1)",
            "x": [1.0, 2.0, 3.0],
            "y": right,
        }
    ]
    assert (panel["percent"], panel["label"]) == (True, "rollout")
    assert "The reward is 2 × the share − 1, so it has no panel." in cards["Training reward"]
    assert (
        'aria-label="Training reward. share correct from 0 % (rollout 1) to 37.5 % (rollout 3), '
        'highest 75 % (rollout 2)."' in cards["Training reward"]
    )
    (panel,) = panels_of(cards["Policy entropy"])
    assert panel["traces"][0]["y"] == [0.3125, None, 0.3125]
    left, _, right_end, _ = panel["box"]
    first, last, log = panel["x"]
    places = lines_of(cards["Policy entropy"], 1)[0][:, 0]
    assert not log
    np.testing.assert_allclose(
        places[[0, -1]],
        left + (np.array([1, 3]) - first) / (last - first) * (right_end - left),
        atol=0.1,
    )


def panels_of(card: str) -> list[dict]:
    return json.loads(html_module.unescape(re.search(r'data-panels="([^"]*)"', card)[1]))


def test_a_long_text_is_folded_and_whole(tmp_path, write_run):
    sample = {"rollout": 1, "prompt": "2 + 2", "response": "4", "correct": True}
    samples = [{**sample, "prompt": "A long question? " * 60}, sample]
    html = report(write_run(tmp_path / "run", rollouts=1, samples=samples))
    (fold,) = re.findall(r'<details class="fold">(.*?)</details>', html, flags=re.DOTALL)
    head, rest = re.fullmatch(
        r"<summary><span>(.*)</span><em>… 1,020 characters</em></summary>(.*)",
        fold,
        flags=re.DOTALL,
    ).groups()
    assert head + rest == samples[0]["prompt"]
    for name in ("sample-0-1-1", "sample-0-1-2"):
        assert f'id="{name}"' in html
        assert f'href="#{name}"' in html


def test_pictures_show_the_data(tmp_path, write_run):
    rewards = [0.1, 0.7, -0.2, 0.4]
    norms = [1.0, 3.0, 2.0, 4.0, 8.0, 6.0, 1.0, 1.0]

    def set_values(rows):
        for row in rows:
            if row["kind"] == "rollout":
                row["train/reward"] = rewards[row["rollout"] - 1]
            if row["kind"] == "update":
                row["grad/norm"] = norms[row["update"] - 1]

    run = write_run(tmp_path / "run", rollouts=4, updates=2, change=set_values)
    cards = figures(report(run))
    assert_drawn(lines_of(cards["Training reward"], 1)[0], rewards)
    assert_drawn(lines_of(cards["Gradient norm"], 1, "0.7")[0], norms)
    assert_drawn(lines_of(cards["Gradient norm"], 1)[0], [2.0, 3.0, 7.0, 1.0])


def test_a_missing_value_is_a_gap_and_not_a_line(tmp_path, write_run):
    def drop_third(rows):
        for row in rows:
            if row["kind"] == "rollout" and row["rollout"] == 3:
                row["train/reward"] = float("nan")

    run = write_run(tmp_path / "run", rollouts=5, change=drop_third)
    card = figures(report(run))["Training reward"]
    path = re.search(r'<path d="([^"]*)"[^>]*stroke: var\(--series-1\); stroke-width: 1.8', card)[1]
    assert re.sub(r"[^ML]", "", path) == "MLML"


def test_intervals_in_the_table_are_those_of_the_run(tmp_path, write_run):
    values = {0: (0.3125, 0.28173828125, 0.34326171875), 4: (0.61, 0.57, 0.65), 8: (0.5, 0.4, 0.6)}

    def set_values(rows):
        for row in rows:
            if row["kind"] == "eval":
                for end, value in zip(("", "_low", "_high"), values[row["rollout"]], strict=True):
                    row[f"eval/countdown/avg_at_4{end}"] = value

    html = report(write_run(tmp_path / "run", rollouts=8, change=set_values))
    cells = {
        name: re.search(
            rf'<td class="{name}" data-label="{name}">(.*?)</td>', html, flags=re.DOTALL
        )[1]
        for name in ("first", "last", "best")
    }
    for name, rollout in (("first", 0), ("last", 8), ("best", 4)):
        data = re.findall(r'<data value="([^"]+)">([^<]+)</data>', cells[name])
        assert tuple(float(exact) for exact, _ in data) == values[rollout]
        assert [shown for _, shown in data] == [f"{value:.3f}" for value in values[rollout]]
        assert f"rollout {rollout}<" in cells[name]


def test_model_text_is_text(tmp_path, write_run):
    evil = "<script>alert(1)</script></script></div></table>&amp;\x00\x1b[31m\ud800 {{ 7 * 7 }}"
    sample = {
        "rollout": 1,
        "prompt": f"prompt {evil}",
        "response": f"response {evil}",
        "answer": f"answer {evil}",
        "gold": {"text": f"gold {evil}"},
        "prompt_id": evil,
        "reason": f"reason {evil}",
        "reward": 1.0,
        "correct": False,
        "truncated": False,
        "tokens": 3,
    }

    def name_set(rows):
        for row in rows:
            if row["kind"] == "eval":
                row["eval/<b>$x_1$</b>/avg_at_4"] = 0.5

    run = write_run(tmp_path / "<i>run", samples=[sample], change=name_set)
    html = report(run)
    page = Page(html)
    assert html.count("<script") == html.count("</script") == len(scripts_of(html))
    assert not [tag for tag, _ in page.tags if tag in ("b>", "i>")]
    shown = page.text_of("response")[0]
    assert shown == (
        "response <script>alert(1)</script></script></div></table>&amp;␀␛[31m\ufffd {{ 7 * 7 }}"
    )
    assert page.text_of("prompt")[0].startswith("prompt <script>alert(1)</script>")
    assert "<b>$x_1$</b>" in page.text
    assert "<i>run" in page.text


def test_several_runs_are_overlaid_with_a_legend(tmp_path, write_run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = write_run(tmp_path / "erc", rollouts=4, seed=1)
    second = write_run(tmp_path / "plain", rollouts=3, seed=2, erc=False, eval_every=2)
    out = build_report([first, second])
    assert out == Path("report.html")
    html = out.read_text(encoding="utf-8")
    page = Page(html)
    cards = figures(html)
    for title in ("Held-out accuracy", "Training reward", "Policy entropy", "Gradient norm"):
        keys = re.findall(r"--color: var\(--series-(\d)\)\"></i>([^<]+)<", cards[title])
        assert keys == [("1", "erc"), ("2", "plain")], title
    points = [lines_of(cards["Policy entropy"], series)[0] for series in (1, 2)]
    assert [len(line) for line in points] == [4, 3]
    assert "2 runs" in page.text
    said = html.index("DAPO against ERC-DAPO on countdown, avg@4: ")
    assert said < html.index("<figure")
    assert page.text.count("another seed may undo it") == 1
    assert "ERC-DAPO" in page.text
    differing = re.findall(r'<th scope="row"><code>([^<]+)</code></th>', html)
    assert "trainer.seed" in differing
    assert "loss.constraints.0.kind" in differing
    assert "loss.surrogate.low" not in differing


@pytest.mark.parametrize(
    ("change", "absent"),
    [
        ({"eval_every": 0}, ["Held-out accuracy"]),
        ({"erc": False, "eval_every": 0}, ["Held-out accuracy"]),
        (
            {"rollouts": 1, "updates": 1, "erc": False, "eval_every": 0},
            ["Held-out accuracy", "Clipped tokens"],
        ),
    ],
)
def test_what_was_not_recorded_is_said_and_not_drawn(tmp_path, write_run, change, absent):
    html = report(write_run(tmp_path / "run", **change))
    cards = figures(html)
    assert not set(absent) & set(cards)
    assert len(cards) == 9 - len(absent)
    assert "Nothing to show for: held-out accuracy" in html
    assert "no evaluation on held-out problems" in html
    if change.get("erc") is False:
        assert "ERC band" not in html
        assert "noise floor" not in html


def test_a_run_without_any_line_still_has_a_page(tmp_path, write_run):
    run = write_run(tmp_path / "run", samples=[])
    (run / "metrics.jsonl").write_text('{"kind": "rollout", "rol')
    page = Page(report(run))
    assert "The last line of metrics.jsonl (line 1) is incomplete" in page.text
    assert "nothing to plot yet" in page.text
    assert "No sampled responses were recorded." in page.text


def test_a_spike_gets_a_log_scale_with_plain_numbers(tmp_path, write_run):
    def spike(rows):
        rows[5]["grad/norm"] = 5000.0

    card = figures(report(write_run(tmp_path / "run", eval_every=0, change=spike)))["Gradient norm"]
    assert "Log scale: the largest value is over 20 times the median." in card
    ticks = re.findall(r"<text[^>]*>([^<]*)</text>", card)
    assert {"1", "1,000"} <= set(ticks)
    assert not [tick for tick in ticks if "$" in tick]


def test_at_most_eight_responses_of_each_fate_and_rollout(standard):
    rows = re.findall(r'<tr class="sample (\w+) (\w+) run-0" id="sample-0-\d+-\d+">', standard)
    assert rows.count(("right", "first")) == 8
    assert rows.count(("wrong", "last")) == 8
    assert rows.count(("truncated", "last")) == 4
    assert 'for="outcome-truncated">truncated 8<' in standard


def test_same_run_same_page(tmp_path, write_run, standard):
    assert report(write_run(tmp_path / "run")) == standard


def test_a_place_that_cannot_be_written_gets_one_sentence(tmp_path, write_run, monkeypatch):
    monkeypatch.setattr("erclip.report.page.render", lambda runs: "")
    run = write_run(tmp_path / "run", rollouts=1)
    for out in (tmp_path / "none" / "report.html", tmp_path):
        with pytest.raises(UserError, match="cannot write the report to") as caught:
            build_report([run], out)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob(".*partial"))
