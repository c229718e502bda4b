"""Every command that a page prints is one that there is: its options, settings, extras, files."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

from erclip.cli import app
from erclip.config.recipes import load_recipe, shipped_recipes
from test_docs import PAGES, ROOT, TUTORIALS, fenced

COMMANDS = typer.main.get_command(app).commands
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
SHORT = ["--set", "trainer.rollouts=6", "--set", "eval.prompts=16"]


def commands(page, run_only=False):
    """The words of every line with a prompt; a line that ends with a backslash goes on."""
    for block in fenced(page):
        if block.language == "console" and (block.runs or not run_only):
            for line in re.sub(r"\\\n\s*", "", block.text).splitlines():
                if found := re.match(r"(?:node\d)?\$ (.*)", line):
                    yield shlex.split(found[1], comments=True)


def parsed(words):
    """The settings of one `erclip` command, as the command itself reads them; nothing runs."""
    name, *rest = words
    return COMMANDS[name].make_context(name, rest).params


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_one_that_there_is(page):
    for words in commands(page):
        if "erclip" in words:
            check_erclip(parsed(words[words.index("erclip") + 1 :]))
        elif words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word]
            assert set(targets) <= TARGETS, words
        elif words[:2] == ["pip", "install"]:
            extras = re.findall(r"(?:erclip|\.)\[([\w,]+)\]", " ".join(words))
            assert {name for found in extras for name in found.split(",")} <= set(EXTRAS), words
        elif words[0] == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file() or (ROOT / "benchmarks" / words[1]).is_file(), words


def check_erclip(given):
    """Settings on the command line are keys that there are, with values they may have."""
    if "overrides" not in given or ("dry_run" in given and "resume" not in given):
        return
    recipe = given["recipe"] if given["recipe"] in shipped_recipes() else "quickstart"
    told = [text for text in given["overrides"] or [] if ".py:" not in text and "…" not in text]
    load_recipe(recipe, told)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_of_the_first_run_do_what_they_say(tmp_path):
    """The tutorial as a reader types it, with six rollouts in the place of sixty."""
    (page,) = (page for page in TUTORIALS if page.name == "tutorial-train.md")
    ran = 0
    for words in commands(page, run_only=True):
        if words[0] != "erclip":
            continue
        words = [word.replace("rollout_00060", "rollout_00006") for word in words[1:]]
        words = [word.replace("rollouts=80", "rollouts=8") for word in words]
        if words[0] == "train" and "--resume" not in words:
            words += SHORT
        if words[0] == "eval":
            words += ["--limit", "8"]
        done = subprocess.run(
            [sys.executable, "-m", "erclip", *words],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
            env={**os.environ, "COLUMNS": "100"},
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stderr)
        ran += 1
    assert ran >= 8
    assert len(list(Path(tmp_path).rglob("report.html"))) >= 2
