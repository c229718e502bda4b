"""The house as the pages show it: the README's map, the picture, and who imports whom."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "erclip"


@pytest.fixture(scope="module")
def picture():
    return runpy.run_path(str(ROOT / "docs" / "architecture.py"))


@pytest.fixture(scope="module")
def needs(picture):
    """Each wing, and the wings that it imports."""
    return picture["wings"]()


def listed():
    """Every path of the README's map, from the package's folder."""
    block = re.search(r"```\nsrc/erclip/\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    for line in block[1].splitlines():
        names = re.match(r"\s*((?:\w+(?:\.py|/) ?)+)", line)[1].split()
        inside = "training/" if line.startswith("    ") else ""
        yield from (inside + name for name in names)


def standing(folder):
    for path in sorted(folder.iterdir()):
        if path.suffix == ".py" and not path.name.startswith("__"):
            yield path.relative_to(PACKAGE).as_posix()
        elif (path / "__init__.py").is_file():
            yield path.relative_to(PACKAGE).as_posix() + "/"


def test_the_map_in_the_readme_names_what_stands_and_nothing_else():
    found = list(listed())
    assert len(set(found)) == len(found)
    assert set(found) == {*standing(PACKAGE), *standing(PACKAGE / "training")}


def test_the_picture_is_drawn_from_the_imports_as_they_are(picture):
    assert picture["PICTURE"].read_text(encoding="utf-8") == picture["drawn"](), "run `make docs`"


def test_no_two_wings_import_each_other(picture, needs):
    heights = picture["floors"](needs)
    assert all(heights[other] < heights[own] for own in needs for other in needs[own])


def test_the_base_and_the_grader_stand_on_their_own_extras(needs):
    ground = {"errors", "extras", "machine", "records", "seeds", "statistics", "text"}
    for own in ("losses", "ops"):
        assert needs[own] <= {"losses", "ops"}
    assert needs["grading"] <= ground


def test_the_trainer_needs_neither_evaluation_nor_reports(needs):
    above = {"evaluation", "diagnostics", "pages", "report", "study", "launch", "cli"}
    assert not needs["training"] & above
    assert not needs["runs"] & {*above, "training"}


def test_the_loop_imports_nobody_who_watches_it():
    source = (PACKAGE / "training" / "loop.py").read_text(encoding="utf-8")
    modules = {
        node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)
    }
    watching = (
        "recorder",
        "held_out",
        "outcomes",
        "evaluation",
        "diagnostics",
        "progress",
        "report",
    )
    assert "erclip.training.updates" in modules
    assert not [m for m in modules if m and m.rpartition(".")[2] in watching]
