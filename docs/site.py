"""Lay out the pages that the documentation's site is built from: `make docs-site`.

The site has the pages of docs/ and three of the root. A link that leads out of them, to source or
to recorded rows, becomes plain text: the site stands on its own.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = ROOT / "build" / "pages"
OF_THE_ROOT = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LOG.md": "log.md",
}
"""What a link to a page of the root becomes; all but the first are copied."""

BESIDE = (".svg", ".png", ".csv", ".css")
"""What pages need beside them."""

CODE = r"^```.*?^```$|`[^`\n]+`"
LINK = r"\[((?:[^\[\]]|\[[^\[\]]*\])+)\]\((?!https?:|#)([^)\s#]+)(#[^)\s]*)?\)"
LINK_OR_CODE = re.compile(f"{LINK}|{CODE}", re.MULTILINE | re.DOTALL)


def stage(out: Path = PAGES) -> list[Path]:
    """Write every page of the site into `out`, which is emptied first; returns the pages."""
    shutil.rmtree(out, ignore_errors=True)
    sources = {path: path.relative_to(DOCS) for path in sorted(DOCS.rglob("*.md"))}
    sources |= {ROOT / name: Path(page) for name, page in list(OF_THE_ROOT.items())[1:]}
    for source, page in sources.items():
        target = out / page
        target.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text(encoding="utf-8")
        target.write_text(relinked(text, source.parent, page), encoding="utf-8")
    for file in [*DOCS.iterdir(), *ROOT.glob("results/*/*.svg")]:
        if file.suffix in BESIDE:
            target = out / _on_the_site(file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    return [out / page for page in sources.values()]


def relinked(text: str, folder: Path, page: Path) -> str:
    """The text of a page in `folder`, with links that hold on the site, where it is `page`."""

    def linked(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0]  # code
        words, target, place = found[1], (folder / found[2]).resolve(), found[3] or ""
        at = _on_the_site(target)
        if at is None:
            return words
        return f"[{words}]({os.path.relpath(at, page.parent)}{place})"

    return LINK_OR_CODE.sub(linked, text)


def _on_the_site(target: Path) -> Path | None:
    """Where a file of the repository is on the site, if it is there."""
    if target.parent == ROOT:
        page = OF_THE_ROOT.get(target.name)
        return Path(page) if page else None
    if target.is_relative_to(DOCS) and target.suffix in (".md", *BESIDE):
        return target.relative_to(DOCS)
    return target.relative_to(ROOT) if target.match("results/*/*.svg") else None


if __name__ == "__main__":
    stage()
