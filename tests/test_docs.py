"""What the README and the docs print is what happens: their code runs, their recipes resolve."""

from __future__ import annotations

import re
import runpy
import sys
import tomllib
import types
from pathlib import Path
from typing import NamedTuple

import pytest

from erclip.config import Config
from erclip.config.keys import keys
from erclip.integrations import prime_rl
from erclip.runs.metrics import METRICS
from erclip.study.design import read_study

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIALS = [p for p in PAGES if p.name.startswith("tutorial-") or p.name == "notebook.md"]
"""Pages whose Python blocks stand on each other: each is one program."""

FENCE = re.compile(r"^(<!-- not run[^\n]*-->\n)?```(\w*)\n(.*?)^```$", re.M | re.S)


class Block(NamedTuple):
    """A fenced piece of a page; `runs` unless a comment before it says why not."""

    page: Path
    language: str
    text: str
    runs: bool


def fenced(page):
    for mark, language, text in FENCE.findall(page.read_text()):
        yield Block(page, language, text, not mark)


def named(block):
    homes = [h for h in ("trl", "swift") if f"erclip.integrations.{h} " in block.text]
    marks = [getattr(pytest.mark, home) for home in homes]
    name = f"{block.page.name}:{block.text.splitlines()[0][:40]}"
    return pytest.param(block.text, id=name, marks=marks)


def blocks(language, pages=PAGES):
    return [named(b) for page in pages for b in fenced(page) if b.language == language]


def test_fences_are_counted():
    """Nothing between fences escapes the tests for a mistake in one of them."""
    for page in PAGES:
        assert page.read_text().count("\n```") == 2 * len(list(fenced(page))), page.name


@pytest.mark.parametrize("code", blocks("python", [p for p in PAGES if p not in TUTORIALS]))
def test_python_blocks_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("docs")
    monkeypatch.setitem(sys.modules, "docs", module)
    exec(compile(code, "docs", "exec", dont_inherit=True), module.__dict__)


def check_tutorial(page, run):
    """Run the page's code from top to bottom; what it prints is what the page says it prints."""
    printed = ""
    for block in fenced(page):
        if block.language == "python":
            printed = run(block.text)
        elif block.language == "text" and printed:
            assert printed == block.text
            printed = ""


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=[pytest.mark.trl] * ("trl" in page.name))
        for page in TUTORIALS
    ],
)
def test_a_tutorial_runs_from_top_to_bottom(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("docs")
    monkeypatch.setitem(sys.modules, "docs", module)

    def run(code):
        capsys.readouterr()
        exec(compile(code, page.name, "exec", dont_inherit=True), module.__dict__)
        return capsys.readouterr().out

    check_tutorial(page, run)


@pytest.mark.parametrize("text", blocks("toml"))
def test_toml_blocks_are_recipes_or_studies(text, tmp_path):
    table = tomllib.loads(text)
    assert table
    if "import_path" in text:  # a trainer that is not ours, which calls a function of ours
        assert table["trainer"]["loss"]["import_path"] == "erclip.integrations.prime_rl.loss"
        assert prime_rl.HOME.read(table["trainer"]["loss"]["kwargs"])
        return
    if "methods" not in table:
        Config.model_validate(table)
        return
    file = tmp_path / "study.toml"
    file.write_text(text)
    assert read_study(file).cells()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_into_the_repository_exist(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readme_is_short_and_starts_with_a_command():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 250
    commands = [i for i, line in enumerate(lines) if line.startswith("$ make")]
    assert commands[0] < 40
    assert commands[1] < 40


def test_the_page_on_metrics_has_every_metric_as_it_is_declared():
    page = runpy.run_path(str(ROOT / "docs" / "metrics.py"))
    text = page["PAGE"].read_text()
    assert page["filled"](text) == text, "run `make docs`"
    assert sorted(re.findall(r"^\| `(.+?)`", text, re.M)) == sorted(METRICS)


def test_the_page_on_settings_has_every_key_as_it_is_declared():
    page = runpy.run_path(str(ROOT / "docs" / "settings.py"))
    text = page["PAGE"].read_text()
    assert page["filled"](text) == text, "run `make docs`"
    assert set(re.findall(r"^\| `(.+?)`", text, re.M)) == {key.path for key in keys()}


def test_the_page_on_rules_has_every_part_as_its_docstring_says():
    page = runpy.run_path(str(ROOT / "docs" / "rules.py"))
    text = page["PAGE"].read_text()
    assert page["filled"](text) == text, "run `make docs`"
    for role in page["ROLES"].values():
        assert all(f"| `{part.__name__}` |" in text for part in page["parts"](role))


def test_the_table_of_models_is_that_of_the_rows():
    script = runpy.run_path(str(ROOT / "docs" / "models.py"))
    text = script["PAGE"].read_text()
    assert script["MARKER"].search(text)
    assert script["filled"](text) == text, "run `make docs`"


def test_tables_of_results_are_those_of_the_rows():
    script = runpy.run_path(str(ROOT / "docs" / "results.py"))
    for page in script["PAGES"]:
        text = page.read_text()
        assert script["MARKER"].search(text), page.name
        assert script["filled"](text) == text, "run `make docs`"
