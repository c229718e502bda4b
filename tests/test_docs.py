"""What the README and the docs print is what happens: their code runs, their recipes resolve."""

from __future__ import annotations

import re
import runpy
import sys
import tomllib
import types
from pathlib import Path

import pytest

from erclip.config import Config
from erclip.config.keys import keys
from erclip.runs.metrics import METRICS
from erclip.study.design import read_study

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def notebook():
    """The blocks of docs/notebook.md stand on each other: they are one program."""
    text = (ROOT / "docs" / "notebook.md").read_text()
    return "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.S))


def blocks(language):
    if language == "python":
        yield pytest.param(notebook(), id="notebook.md")
    for page in PAGES:
        if page.name == "notebook.md":
            continue
        for match in re.finditer(rf"```{language}\n(.*?)```", page.read_text(), flags=re.S):
            marks = [pytest.mark.trl] if "erclip.integrations.trl" in match[1] else []
            name = f"{page.name}:{match[1].splitlines()[0][:40]}"
            yield pytest.param(match[1], id=name, marks=marks)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("docs")
    monkeypatch.setitem(sys.modules, "docs", module)
    exec(compile(code, "docs", "exec", dont_inherit=True), module.__dict__)


@pytest.mark.parametrize("text", blocks("toml"))
def test_toml_blocks_are_recipes_or_studies(text, tmp_path):
    table = tomllib.loads(text)
    assert table
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
