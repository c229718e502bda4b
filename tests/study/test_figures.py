"""Colours: no two methods of a figure look alike, and neighbours least of all."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

from erclip.pages import canvas
from erclip.study.figures import ORDER, style

CSS = Path(canvas.__file__).parent / "templates" / "style.css"


def oklab(color: str) -> tuple[float, float, float]:
    """Björn Ottosson's Oklab, in which distances are those that an eye sees."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    l_ = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    m_ = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    s_ = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    return (
        0.2104542553 * l_ + 0.7936177850 * m_ - 0.0040720468 * s_,
        1.9779984951 * l_ - 2.4285922050 * m_ + 0.4505937099 * s_,
        0.0259040371 * l_ + 0.7827717662 * m_ - 0.8086757660 * s_,
    )


def test_neighbouring_colours_differ_in_light_and_dark():
    colors = re.findall(r"--series-\d: (#[0-9a-f]{6})", CSS.read_text(encoding="utf-8"))
    assert len(colors) == 16
    for palette in (colors[:8], colors[8:]):
        ring = [oklab(palette[i]) for i in ORDER]
        assert min(math.dist(a, b) for a, b in zip(ring, ring[1:] + ring[:1], strict=True)) > 0.15


def test_twenty_four_methods_look_different():
    looks = [style(i) for i in range(24)]
    assert len({(look.color, look.line) for look in looks}) == 24
    assert all(a.color != b.color for a, b in itertools.pairwise(looks))
    assert [look.key("x").line for look in (looks[0], looks[8], looks[16])] == [
        "solid",
        "dashed",
        "dotted",
    ]
