"""Text of others on its way out: the terminal, config.json, messages."""

from __future__ import annotations

import io
import json

import pytest

from erclip.config.recipes import load_recipe
from erclip.errors import UserError
from erclip.machine.console import Console
from erclip.runs.run_dir import describe
from erclip.training.checkpoints.resuming import resumed_recipe

NAMES = [
    "runs/exp[lr=1]", "[/b]", "[bold red]x", ":smile:", "a\x1b[31mb", "\u202egnp.exe", "a\x9bb",
    "\ud800", "https://example.org [link]", "{task}", "x" * 500,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_printed_as_it_is(name):
    file = io.StringIO()
    Console(file=file, width=40, force_terminal=True).print(f"report: {name}", style="red")
    text = file.getvalue()
    for hidden, seen in (
        ("a\x1b[31mb", "a␛[31mb"),
        ("\u202e", "⟨U+202E⟩"),
        ("\x9b", "⟨U+009B⟩"),
        ("\ud800", "\ufffd"),
    ):
        assert hidden not in text
        name = name.replace(hidden, seen)
    assert f"report: {name}" in text


class Gone(io.StringIO):
    def write(self, text):
        raise OSError(5, "Input/output error")


def test_a_terminal_that_is_gone_ends_nothing():
    console = Console(file=Gone())
    console.print("one")
    console.print("two")
    assert console.quiet


def test_passwords_are_written_nowhere_and_asked_for_again(tmp_path):
    changes = [
        "sampler.kind=vllm_server", "sampler.url=http://me:secret@box:8000",
        'trackers=[{kind="mlflow", tracking_uri="https://u:hidden@mlflow/x?api_key=abc"}]',
    ]  # fmt: skip
    recipe = load_recipe("quickstart", changes)
    text = json.dumps(describe(recipe))
    for word in ("secret", "hidden", "abc"):
        assert word not in text
    assert "http://me:***@box:8000" in text
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"was written to config\.json without its password"):
        resumed_recipe(tmp_path)
