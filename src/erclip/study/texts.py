"""Numbers and points of a study as they are read: on the page, in its sentences and its tables."""

from __future__ import annotations

import math

from erclip.statistics import Interval
from erclip.study.design import in_words
from erclip.study.results import Point, Runs


def where(point: Point) -> str:
    """A point in words.

    >>> where((("learning_rate", 1e-4), ("dtype", "bfloat16")))
    'learning rate 0.0001, dtype bfloat16'
    """
    return ", ".join(f"{n.replace('_', ' ')} {in_words(v)}" for n, v in point) or "as given"


def marked(runs: Runs, point: Point) -> str:
    """A best point in words, with the columns at whose edge it is."""
    edges = [name.replace("_", " ") for name in runs.edges(point)]
    return f"{where(point)} (edge: {', '.join(edges)})" if edges else where(point)


def interval(found: Interval | None) -> str:
    """The mean of shares with its interval, if there is one."""
    if found is None:
        return "–"
    return found.within(0.0, 1.0).text()


def signed(found: Interval | Interval | None, digits: int = 3) -> str:
    """A difference with its interval."""
    if found is None:
        return "–"
    mean, low, high = (
        f"{value:+.{digits}f}".replace("-", "−") for value in (found.mean, found.low, found.high)
    )
    return mean if math.isnan(found.low) else f"{mean} [{low}, {high}]"


def p_text(p: float) -> str:
    """A p-value as it is read.

    >>> p_text(0.00004), p_text(0.0312), p_text(1.0), p_text(math.nan)
    ('< 0.001', '0.031', '1', '–')
    """
    if math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def with_p(found: Interval | Interval | None, p: float) -> str:
    """A difference with its interval and its corrected p, if it has one."""
    return signed(found) if math.isnan(p) else f"{signed(found)}, p {p_text(p)}"
