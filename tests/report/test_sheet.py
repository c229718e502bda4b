import io

import pytest
from rich.console import Console

from erclip.pages.sheet import Sheet, Table, print_sheet

INTERVAL = "−0.019 [−0.026, −0.012]"
TABLE = Table(
    "Differences",
    ("method", "against", "at the best setting of each", "across the grid"),
    [("ERC-DAPO", "DAPO", INTERVAL, ""), ("[red]", "DAPO", INTERVAL, INTERVAL)],
    labels=2,
)


def printed(width: int) -> list[str]:
    out = io.StringIO()
    print_sheet(Sheet("", [], [], [TABLE]), Console(file=out, width=width))
    return [line.rstrip() for line in out.getvalue().splitlines() if line.strip()]


def test_a_wide_terminal_shows_a_row_on_a_line():
    title, _, first, second = printed(120)
    assert title == "Differences"
    assert first.split("  ")[0] == "ERC-DAPO"
    assert second.count(INTERVAL) == 2


@pytest.mark.parametrize("width", [40, 60])
def test_a_narrow_one_shows_it_cell_by_cell_without_cutting(width):
    lines = printed(width)
    assert max(map(len, lines)) <= width
    words = " ".join(" ".join(lines).split())
    assert words.count(INTERVAL) == 3
    assert "method ERC-DAPO · against DAPO at the best setting of each" in words
    assert "method [red] · against DAPO" in words
    assert words.count("across the grid") == 1
