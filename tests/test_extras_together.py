"""docs/install.md's table of extras that go together, asked of a resolver; nothing is installed."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("uv") is None, reason="make test-extras installs uv"),
]

ROOT = Path(__file__).resolve().parents[1]
SECTION = re.compile(r"^## Extras together$(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| (`erclip\[.*?`) \| (.*?) \|$", re.MULTILINE)
ROWS = ROW.findall(SECTION.search((ROOT / "docs" / "install.md").read_text())[1])


def resolved(together):
    """Distribution → version, or None where nothing fits together; `.` is this checkout."""
    asked = [text.replace("erclip[", ".[") for text in re.findall(r"`(.*?)`", together)]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header"),
            *("--no-annotate", "--python-version", "3.11", "-"),
        ],
        input="\n".join(asked),
        capture_output=True,
        text=True,
        timeout=600,
        cwd=ROOT,
    )
    if done.returncode:
        assert "No solution found" in done.stderr, done.stderr
        return None
    return dict(re.findall(r"^([\w.-]+)==(\S+)", done.stdout, re.MULTILINE))


@pytest.mark.parametrize(("together", "versions"), ROWS, ids=[together for together, _ in ROWS])
@pytest.mark.timeout(600)
def test_a_row_of_the_table_is_what_a_resolver_says(together, versions):
    found = resolved(together)
    if versions.startswith("no:"):
        assert found is None, f"{together} installs today: {found}"
        return
    assert found is not None, f"{together} cannot be installed any more"
    named = dict(re.findall(r"(\w+) (\d+\.\d+)", versions))
    assert named
    for name, version in named.items():
        assert name in found
        got, listed = ([int(x) for x in v.split(".")[:2]] for v in (found[name], version))
        assert got >= listed, f"{together}: {name} falls back to {found[name]}, not {version}"


def test_the_table_has_rows_of_both_kinds():
    assert {versions.startswith("no:") for _, versions in ROWS} == {True, False}
