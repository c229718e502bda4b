"""Tasks by entry point: a distribution with nothing but metadata and a module is enough."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from erclip.errors import UserError
from erclip.records import Response
from erclip.tasks import load_task

DOCS = Path(__file__).resolve().parents[2] / "docs" / "extending.md"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs the example of docs/extending.md as a distribution on sys.path."""
    (example,) = (
        code
        for code in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S)
        if "Task" in code
    )
    (tmp_path / "sums_plugin.py").write_text(
        example + "\n\ndef nothing(options, **more):\n    ...\n"
    )
    info = tmp_path / "sums_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sums-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[erclip.tasks]\nsums = sums_plugin:sums\nempty = sums_plugin:nothing\n"
        "gone = sums_plugin:missing\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("installed")
def test_an_installed_task_is_used_by_name():
    task = load_task(
        "sums", options={"largest": 5}, test_fraction=0.2, instruction="Answer:", system_prompt="S"
    )
    assert (task.name, len(task.train) + len(task.test)) == ("sums", 25)
    assert 0 < len(task.test) < 12
    prompt = next(p for p in (*task.train, *task.test) if p.id == "sums/2+3")
    assert prompt.messages == (
        {"role": "system", "content": "S"},
        {"role": "user", "content": "2+3=\nAnswer:"},
    )
    answers = [Response(prompt, (), (), text, False, ()) for text in ("5", "6", "")]
    assert [(g.correct, g.reason) for g in task.grade(answers)] == [
        (True, "correct"),
        (False, "wrong"),
        (False, "no_answer"),
    ]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("path", "settings", "sentence"),
    [
        ("summs", {}, r"no task 'summs': installed are countdown, reasoning-gym:NAME, empty, gone"),
        ("gone", {}, r"The task 'gone' \(sums_plugin:missing\) cannot be imported"),
        ("empty", {}, "returned NoneType, not an erclip.tasks.Task"),
        ("sums", {"last_number": True}, "data.last_number has no effect on sums"),
        ("sums", {"after_think": True}, "data.after_think has no effect on sums"),
    ],
)
def test_mistakes_name_what_there_is(path, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        load_task(path, **settings)
