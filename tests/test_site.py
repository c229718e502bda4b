"""The documentation's site: its menu has every page, and no link leads out of it."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest

import erclip

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site():
    return runpy.run_path(str(ROOT / "docs" / "site.py"))


@pytest.fixture(scope="module")
def pages(site, tmp_path_factory):
    out = tmp_path_factory.mktemp("pages")
    return {page.relative_to(out).as_posix(): page for page in site["stage"](out)}


def in_the_menu(entries):
    for entry in entries:
        for place in entry.values():
            yield from [place] if isinstance(place, str) else in_the_menu(place)


def test_the_menu_names_every_page_once(pages):
    menu = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    assert sorted(in_the_menu(menu)) == sorted(pages)


def test_a_link_leads_to_a_page_or_picture_of_the_site(pages):
    for name, page in pages.items():
        for target in re.findall(r"\]\((?!https?:|#)([^)\s#]+)", page.read_text()):
            assert (page.parent / target).is_file(), f"{name} links to {target}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[`config`](../src/erclip/config)", "`config`"),
        ("[LOG.md](../LOG.md#a-day)", "[LOG.md](log.md#a-day)"),
        ("[home](../README.md)", "[home](index.md)"),
        ("[rules](rules.md#terms)", "[rules](rules.md#terms)"),
        ("[net](https://a.b/c)", "[net](https://a.b/c)"),
        ("![a](loop.svg)", "![a](loop.svg)"),
        ("![a](../results/core-8/effects.svg)", "![a](results/core-8/effects.svg)"),
        ("`[a](../LICENSE)`", "`[a](../LICENSE)`"),
        ("```python\nx[0](../LICENSE)\n```", "```python\nx[0](../LICENSE)\n```"),
    ],
)
def test_a_link_into_the_repository_becomes_text_and_code_stays_code(site, before, after):
    page = ROOT / "docs" / "x.md"
    assert site["relinked"](before, page.parent, Path("x.md")) == after


def test_the_reference_has_every_public_name():
    told = set(re.findall(r"^::: erclip\.(\w+)$", (ROOT / "docs/api/losses.md").read_text(), re.M))
    assert told == set(erclip.__all__)
    from erclip import grading, ops

    for module in (ops, grading):
        name = module.__name__.rpartition(".")[2]
        page = (ROOT / f"docs/api/{name}.md").read_text()
        assert set(re.findall(rf"^::: {module.__name__}\.(\w+)$", page, re.M)) == set(
            module.__all__
        )


def test_the_plot_that_is_explained_shows_what_the_page_says():
    """Nothing moves at update 1, bfloat16 leaps at update 2, and too far is far."""
    rows = runpy.run_path(str(ROOT / "docs" / "erc_plot.py"))["rows"]()
    for run in rows.values():
        assert {run[1][key] for key in run[1] if key != "clipped"} == {1.0}
        assert run[1]["clipped"] == 0
    spread = {name: run[2]["q95"] - run[2]["q05"] for name, run in rows.items()}
    grown = {name: run[8]["q95"] - run[8]["q05"] for name, run in rows.items()}
    assert spread["noise"] > 2.5 * spread["healthy"]
    assert grown["noise"] < 1.5 * spread["noise"]
    assert grown["healthy"] > 5 * spread["healthy"]
    assert rows["far"][32]["q25"] < 0.95
    assert rows["far"][32]["q75"] > 1.05


def test_the_version_to_cite_is_the_package_s():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"\nversion: {project['version']}\n" in (ROOT / "CITATION.cff").read_text()
