"""One number format on every axis."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axis import Axis
from matplotlib.ticker import Formatter

SMALL, LARGE = 1e-4, 1e7  # an axis that ends beyond them has powers of ten
_DECIMALS = 6  # at most


class Ticks(Formatter):
    """As many decimals as the ticks of an axis need, the same for all of them; percent of shares.

    Each tick of a logarithmic axis has its own.
    """

    def __init__(self, percent: bool = False):
        self.percent = percent

    def __call__(self, x: float, pos: int | None = None) -> str:
        """One tick alone."""
        return self.format_ticks([x])[0]

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """All ticks of an axis."""
        shown = [100 * value if self.percent else value for value in values]
        unit = " %" if self.percent else ""
        largest = max(map(abs, shown), default=0.0)
        if not (SMALL <= largest < LARGE or largest == 0):
            return [f"{value:.3g}".replace("-", "−") + unit for value in shown]
        digits = [_decimals(value) for value in shown]
        if not isinstance(self.axis, Axis) or self.axis.get_scale() != "log":
            digits = [max(digits, default=0)] * len(digits)
        return [tick(v, d) + unit for v, d in zip(shown, digits, strict=True)]


def tick(value: float, digits: int) -> str:
    """A number with so many decimals, thousands apart, a true minus.

    >>> tick(1234.5, 1), tick(-0.25, 2), tick(-0.0001, 2)
    ('1,234.5', '−0.25', '0.00')
    """
    text = f"{value:,.{digits}f}"
    return (text if float(text.replace(",", "")) else text.lstrip("-")).replace("-", "−")


def _decimals(value: float) -> int:
    """Decimals that tell a tick from its neighbours."""
    for digits in range(_DECIMALS):
        if abs(round(value, digits) - value) <= 1e-9 * max(1.0, abs(value)):
            return digits
    return _DECIMALS
