"""Draw the package's wings and what each of them imports; run by `make docs`.

A wing is a folder or a module right below src/erclip. It stands above everything that it imports,
and an arrow that follows from two others is left out.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "erclip"
PICTURE = Path(__file__).with_name("architecture.svg")
WIDTH, FLOOR, HEIGHT, GAP = 1120, 84, 40, 14
SMALL = ("__init__", "__main__")  # the package's face, and the way to the command
BASE, GRADING = ("losses", "ops"), ("grading",)

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328; text-anchor: middle }
rect { fill: #f6f8fa; stroke: #8c959f } .base { fill: #ddf4ff; stroke: #0969da }
.grading { fill: #dafbe1; stroke: #1a7f37 } path { fill: none; stroke: #8c959f; stroke-width: 1.2 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } rect { fill: #161b22; stroke: #6e7681 } .base { fill: #0c2d6b }
.grading { fill: #033a16 } path { stroke: #6e7681 } }
"""


def wing(name: str) -> str:
    """The wing of a dotted name.

    >>> wing("erclip.training.policy.heads")
    'training'
    """
    return name.split(".")[1]


def imported(file: Path) -> Iterator[str]:
    """Dotted names of this package that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("erclip."))
        elif isinstance(node, ast.ImportFrom) and node.module == "erclip":
            yield from (f"erclip.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("erclip."):
            yield str(node.module)


def wings() -> dict[str, set[str]]:
    """Each wing, and the wings that it imports."""
    found: dict[str, set[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        own = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own not in SMALL:
            found.setdefault(own, set()).update(map(wing, imported(file)))
    return {own: others & (found.keys() - {own}) for own, others in found.items()}


def floors(needs: Mapping[str, set[str]]) -> dict[str, int]:
    """How high each wing stands: one above the highest that it imports.

    Raises ValueError where wings import each other.

    >>> floors({"a": {"b"}, "b": set()})
    {'b': 0, 'a': 1}
    """
    placed: dict[str, int] = {}
    while len(placed) < len(needs):
        ready = [own for own in needs if own not in placed and needs[own] <= placed.keys()]
        if not ready:
            raise ValueError(f"these import each other: {sorted(needs.keys() - placed.keys())}")
        placed |= {own: max((placed[o] + 1 for o in needs[own]), default=0) for own in ready}
    return placed


def direct(needs: Mapping[str, set[str]], heights: Mapping[str, int]) -> list[tuple[str, str]]:
    """The arrows that follow from no two others.

    >>> direct({"a": {"b", "c"}, "b": {"c"}, "c": set()}, {"a": 2, "b": 1, "c": 0})
    [('a', 'b'), ('b', 'c')]
    """
    below: dict[str, set[str]] = {}
    for own in sorted(needs, key=lambda own: heights[own]):
        below[own] = set().union(needs[own], *(below[other] for other in needs[own]))
    return [
        (own, other)
        for own in needs
        for other in sorted(needs[own])
        if not any(other in below[third] for third in needs[own])
    ]


def drawn() -> str:
    """The picture as SVG."""
    needs = wings()
    heights = floors(needs)
    top = max(heights.values())
    places: dict[str, tuple[float, float]] = {}
    boxes = []
    for height in range(top + 1):
        own = sorted(name for name in needs if heights[name] == height)
        width = min(150.0, (WIDTH - GAP) / len(own) - GAP)
        left = (WIDTH - len(own) * (width + GAP) + GAP) / 2
        for index, name in enumerate(own):
            x, y = left + index * (width + GAP), GAP + (top - height) * FLOOR
            places[name] = (x + width / 2, y)
            kind = "base" if name in BASE else "grading" if name in GRADING else "train"
            boxes.append(
                f'<rect class="{kind}" x="{x:.0f}" y="{y}" width="{width:.0f}" height="{HEIGHT}" '
                f'rx="6"/><text x="{x + width / 2:.0f}" y="{y + 25}">{escape(name)}</text>'
            )
    lines = []
    for upper, lower in direct(needs, heights):
        (x1, y1), (x2, y2) = places[upper], places[lower]
        y1, bend = y1 + HEIGHT, FLOOR / 2
        lines.append(
            f'<path d="M{x1:.0f} {y1:.0f}C{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} '
            f'{x2:.0f} {y2:.0f}"/>'
        )
    size = f'viewBox="0 0 {WIDTH} {(top + 1) * FLOOR}"'
    body = "\n".join([*lines, *boxes])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{STYLE}</style>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    PICTURE.write_text(drawn(), encoding="utf-8")
