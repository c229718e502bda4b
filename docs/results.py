"""Tables of results.md and README.md, and docs/erc-effect.svg, from `results/`: `make docs`.

A marker names a study and one of its tables, and perhaps the methods (all, if none is named), one
by one or as the family of those first compared with a method:

    <!-- core-8 differences: DAPO family; ERC-GPPO -->
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from erclip.pages import canvas
from erclip.pages.sheet import Table, markdown_table
from erclip.statistics import Interval, p_value
from erclip.study.design import Study, read_study
from erclip.study.figures import draw_effects, styles
from erclip.study.findings import Findings
from erclip.study.results import (
    Runs,
    against,
    at_best,
    at_points,
    corrected,
    families,
    interval_of,
    read,
)
from erclip.study.rows import Results

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "docs" / "results.md", ROOT / "README.md")
TABLES = (
    *("pooled", "effects", "frontier", "best", "differences", "settings", "training"),
    "counts",
)
EFFECTS = (
    *("rule", "against", "surrogates", "seeds", "final greedy accuracy", "final avg@k"),
    *("final pass@k",),
    *("final avg@k, mean of the grid", "collapsed"),
)
COUNTED = (
    *("ERC − no rule", "ERC − random mask", "directional ERC − no rule"),
    *("directional ERC − ERC", "random mask − no rule"),
)
MARKER = re.compile(rf"<!-- ([\w.-]+) ({'|'.join(TABLES)})(?:: ([^\n]+))? -->\n(?:\|[^\n]*\n)*")


OVERVIEW = (  # label, study, surrogate
    ("8 updates a rollout, DAPO", "core-8", "DAPO"),
    ("8 updates a rollout, GPPO", "core-8", "GPPO"),
    ("8 updates a rollout, CE-GPPO", "core-8", "CE-GPPO"),
    ("8 updates a rollout, CISPO", "core-8", "CISPO"),
    ("8 updates a rollout, GSPO", "core-8", "GSPO"),
    ("32 updates a rollout, DAPO", "core-32", "DAPO"),
    ("32 updates a rollout, GPPO", "core-32", "GPPO"),
    ("32 updates a rollout, CE-GPPO", "core-32", "CE-GPPO"),
    ("32 updates a rollout, CISPO", "core-32", "CISPO"),
    ("32 updates a rollout, GSPO", "core-32", "GSPO"),
    ("2,000 updates in all, DAPO", "long", "DAPO"),
    ("200 updates in all, DAPO", "sizes-0.1", "DAPO"),
    ("200 in all, 0.6 M, DAPO", "sizes-0.6", "DAPO"),
    ("200 in all, 3 M, DAPO", "sizes-3", "DAPO"),
    ("count_bits, DAPO", "second-task", "DAPO"),
    ("leg_counting, DAPO", "third-task", "DAPO"),
)
RULES = {
    "the paper's rule": "ERC-{}",
    "the directional rule": "directional ERC-{}",
    "as many tokens at random": "{}, random mask",
}


@cache
def plan(study: str) -> Study:
    """What a study's file says."""
    return read_study(ROOT / "studies" / f"{study}.toml")


@cache
def runs(study: str) -> Mapping[str, Runs]:
    """A study's runs by method."""
    return read(Results(plan(study), ROOT / "results" / study))


@cache
def tables(study: str) -> Mapping[str, Table]:
    """A study's tables by name; those of the study "all" are over every study."""
    if study == "all":
        return {"counts": counts()}
    found = Findings.of(plan(study), runs(study)).tables()
    return {**found, "effects": narrow(found["pooled"], EFFECTS)} if "pooled" in found else found


def narrow(table: Table, headings: Sequence[str]) -> Table:
    """These columns of a table."""
    places = [table.headings.index(heading) for heading in headings if heading in table.headings]
    rows = [tuple(row[i] for i in places) for row in table.rows]
    return replace(table, headings=tuple(table.headings[i] for i in places), rows=rows)


def counts() -> Table:
    """How often a rule is above or below another: alone, and corrected for all of the row."""
    studies = [path.name for path in sorted((ROOT / "results").iterdir()) if path.is_dir()]
    found: dict[str, list[Interval | None]] = {}
    best: list[Interval | None] = []
    for study in studies:
        methods = runs(study)
        for own in methods.values():
            for base in (methods[name] for name in own.method.against if name in methods):
                key = f"{own.method.rule} − {base.method.rule}"
                points = at_points(own, base).values()
                found.setdefault(key, []).extend(interval_of(point) for point in points)
                best.append(interval_of(at_best(own, base)))
    rows = [(f"{key}, every setting", *counted(found[key])) for key in COUNTED]
    rows.append(("all comparisons, at the best setting of each", *counted(best)))
    return Table(
        "How often",
        ("comparison", "comparisons", "above", "below", "above, Holm", "below, Holm"),
        rows,
    )


def counted(differences: Sequence[Interval | None]) -> list[str]:
    """Differences, and how many of them are positive or negative: p < 0.05, then Holm's."""
    there = [found for found in differences if found is not None]
    numbers = [len(there)]
    for ps in ([p_value(found) for found in there], corrected(there)):
        pairs = list(zip(there, ps, strict=True))
        numbers += [sum(p < 0.05 and sign * d.mean > 0 for d, p in pairs) for sign in (1, -1)]
    return [str(number) for number in numbers]


def overview() -> str:
    """Every rule minus its surrogate alone, study by study, as an SVG."""
    rows = {}
    for label, study, surrogate in OVERVIEW:
        base = runs(study)[surrogate]
        several = len(base.points) > 1
        differences = {
            rule: against(runs(study)[name.format(surrogate)], base) for rule, name in RULES.items()
        }
        rows[label] = {
            rule: (own.at_best, own.over_grid if several else None)
            for rule, own in differences.items()
        }
    panels = tuple(f"final avg@4, {at}" for at in ("each at its best learning rate", "mean of all"))
    svg = draw_effects(rows, list(RULES), panels)
    looks = styles(RULES)
    return canvas.standalone(svg, [looks[rule].key(rule) for rule in RULES])


def table(found: re.Match[str]) -> str:
    """The marker and its table, as the rows of the study have it."""
    study, name, methods = found.groups()
    whole = tables(study)[name]
    chosen = named(study, methods.split("; ")) if methods else [row[0] for row in whole.rows]
    rows = [row for method in dict.fromkeys(chosen) for row in whole.rows if row[0] == method]
    marker = found[0].splitlines()[0]
    return f"{marker}\n{markdown_table(without_empty_columns(replace(whole, rows=rows)))}\n"


def named(study: str, names: Sequence[str]) -> list[str]:
    """The methods that a marker names, each family in the order of the study."""
    if study == "all":
        return list(names)
    members = {
        f"{family[0].method.name} family": [own.method.name for own in family]
        for family in families(runs(study))
    }
    return [method for name in names for method in members.get(name, [name])]


def without_empty_columns(table: Table) -> Table:
    """The table without the columns in which no row has anything."""
    kept = [i for i in range(len(table.headings)) if any(row[i] != "–" for row in table.rows)]
    rows = [tuple(row[i] for i in kept) for row in table.rows]
    return replace(table, headings=tuple(table.headings[i] for i in kept), rows=rows)


def filled(page: str) -> str:
    """The page with every table as the rows have it."""
    return MARKER.sub(table, page)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    (ROOT / "docs" / "erc-effect.svg").write_text(overview(), encoding="utf-8")
