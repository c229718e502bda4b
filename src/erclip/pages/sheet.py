"""A short page of sentences, tables and plots: the ledger's, the noise floor's, a comparison's.

The same `Table` goes to the terminal (rich), to the page (HTML) and to a document (Markdown).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from erclip.pages.cards import Plot
from erclip.pages.html import environment, scripts, write
from erclip.runs.words import printable

_INSIDE = re.compile(r"(?<=,) (?=[+−]?[\d.]+\])|(?<=\bp) (?=[<\d])|(?<=<) (?=\d)| (?=±|%)|(?<=±) ")
_MARKS = re.compile(r"[\\|*`~$]|(?<=\])[(\[:]|!(?=\[)|(?<!\w)_|_(?!\w)")
"""What Markdown would read as something else than text, inside a line."""


@dataclass(frozen=True)
class Table:
    """A title, headings, rows of ready texts, and a sentence on how to read them.

    The first `labels` columns are words and stand left; the others are numbers and stand right.
    """

    title: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    caption: str = ""
    labels: int = 1


@dataclass(frozen=True)
class Sheet:
    """What a page says, shows and lists, in this order; `appendix` is shown behind the tables."""

    title: str
    sentences: Sequence[str]
    plots: Sequence[Plot]
    tables: Sequence[Table]
    appendix: Sequence[Plot] = ()


def write_sheet(sheet: Sheet, out: Path) -> Path:
    """Write the page; raises `UserError` where the file can't be written."""
    template = environment().get_template("sheet.html.jinja")
    write(out, template.render(sheet=_safe(sheet), svg=Markup, scripts=scripts("charts.js")))
    return out


def print_sheet(sheet: Sheet, console: Console) -> None:
    """Print the sentences and tables; texts of models are never read as markup."""
    for table in sheet.tables:
        rich = _grid(table)
        natural = console.measure(rich, options=console.options.update(width=10_000)).maximum
        console.print(rich if natural <= console.width else _list(table))
        if table.caption:
            console.print(Text(table.caption, style="dim"))
        console.print()
    for sentence in sheet.sentences:
        console.print(Text(f"• {printable(sentence)}"))


def _grid(table: Table) -> RichTable:
    rich = RichTable(box=None, padding=(0, 2, 0, 0), title=Text(table.title, style="bold"))
    rich.title_justify = "left"
    for index, heading in enumerate(table.headings):
        rich.add_column(Text(heading), justify="left" if index < table.labels else "right")
    for row in table.rows:
        rich.add_row(*(Text(printable(cell)) for cell in row))
    return rich


def _list(table: Table) -> Group:
    """A table that is too wide for the terminal, row by row, so that no number is cut."""
    lines: list[RenderableType] = [Text(table.title, style="bold")]
    for row in table.rows:
        cells = [
            f"{heading} {printable(cell)}"
            for heading, cell in zip(table.headings, row, strict=True)
            if cell
        ]
        lines.append(Text(" · ".join(cells[: table.labels])))
        lines.append(Padding(Text(" · ".join(cells[table.labels :])), (0, 0, 0, 4)))
    return Group(*lines)


def markdown(sheet: Sheet) -> str:
    """The tables and captions of a sheet as GitHub's Markdown, the sentences as a list below.

    >>> table = Table("A | B", ("set", "n"), [("gsm8k", "50")], "n: problems.")
    >>> print(markdown(Sheet("", ["fine"], [], [table])))
    **A \\| B**
    <BLANKLINE>
    | set | n |
    |---|--:|
    | gsm8k | 50 |
    <BLANKLINE>
    n: problems.
    <BLANKLINE>
    - fine
    """
    parts = []
    for table in sheet.tables:
        parts.append(f"**{markdown_cell(table.title)}**\n\n{markdown_table(table)}")
        parts += [markdown_cell(table.caption)] if table.caption else []
    if sheet.sentences:
        parts.append("\n".join(f"- {markdown_cell(sentence)}" for sentence in sheet.sentences))
    return "\n\n".join(parts)


def markdown_table(table: Table) -> str:
    """The headings and rows of a table as GitHub's Markdown, without its title."""
    rule = "|".join("---" if i < table.labels else "--:" for i in range(len(table.headings)))
    return "\n".join([_row(table.headings), f"|{rule}|", *map(_row, table.rows)])


def percent(share: float, digits: int = 2) -> str:
    """A share as text.

    >>> percent(0.0123), percent(float("nan"))
    ('1.23 %', '–')
    """
    return "–" if share != share else f"{100 * share:.{digits}f} %"


def _safe(sheet: Sheet) -> Sheet:
    """The sheet with control characters made visible; Jinja escapes the rest."""
    sentences = [printable(s).replace(" %", "\u00a0%") for s in sheet.sentences]  # one word
    tables = [
        Table(t.title, t.headings, [tuple(map(_whole, r)) for r in t.rows], t.caption, t.labels)
        for t in sheet.tables
    ]
    return replace(sheet, title=printable(sheet.title), sentences=sentences, tables=tables)


def _whole(cell: str) -> str:
    """A cell that may break before an interval or a p, and not inside of them.

    >>> _whole("0.5 [0.4, 0.6], p 0.01").split(" ")
    ['0.5', '[0.4,\\xa00.6],', 'p\\xa00.01']
    """
    return _INSIDE.sub("\u00a0", printable(cell))


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(map(markdown_cell, cells)) + " |"


def markdown_cell(text: str) -> str:
    """Text that means itself: it ends no cell or line, and is no HTML, link, emphasis or code.

    >>> print(markdown_cell("a|b *c* [d](http://e) <f> [0.1, 0.2] x_y"))
    a\\|b \\*c\\* [d]\\(http://e) &lt;f> [0.1, 0.2] x_y
    """
    text = " ".join(printable(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return _MARKS.sub(r"\\\g<0>", text)
