"""Write the tables of settings.md from `erclip.config.keys`; run by `make docs`."""

from __future__ import annotations

import re
from pathlib import Path

from erclip.config.keys import Key, keys

PAGE = Path(__file__).with_name("settings.md")
# A marker names the section whose keys follow it, up to the next empty line.
MARKER = re.compile(r"<!-- ([a-z]+) -->\n(?:\|[^\n]*\n)*")


def row(key: Key) -> str:
    """One key as a row of a table."""
    meaning = f"{key.meaning} (with `{key.when}`)" if key.when else key.meaning
    values = re.sub(r'"[^"]*"', lambda found: f"`{found[0]}`", key.values)
    default = key.default if key.default in ("unset", "required") else f"`{key.default}`"
    cells = (f"`{key.path}`", values, default, meaning.replace("<", "&lt;"))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(section: str) -> str:
    """The marker and the rows of a section, in the order in which they are declared."""
    rows = ["| key | values | default | meaning |", "|---|---|---|---|"]
    rows += [row(key) for key in keys() if key.path.partition(".")[0] == section]
    return "\n".join([f"<!-- {section} -->", *rows, ""])


def filled(page: str) -> str:
    """The page with every table as the code has it."""
    return MARKER.sub(lambda found: table(found[1]), page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
