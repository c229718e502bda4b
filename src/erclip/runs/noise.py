"""When what ERC clips is noise, and what helps: for reports and for runs in progress."""

from __future__ import annotations

NOISE_SHARE = 0.25  # of what ERC clips, seen where the true ρ is 1: from here on it is noise


NOISE_REMEDY = (
    "compute in float32 (model.dtype), or set min_entropy_change or a wider band; "
    "`erclip noise-floor` measures which of them helps"
)


def noise_warning(noise: float, clipped: float) -> str | None:
    """One line for a run in progress, where noise is over a quarter of what ERC clips.

    >>> noise_warning(0.01, 0.2) is None, noise_warning(0.0, 0.0) is None
    (True, True)
    """
    if not (noise > 0 and noise > NOISE_SHARE * clipped):
        return None
    return (
        f"ERC clips noise: {100 * noise:.1f} % of tokens on a mini-batch whose true ratio is 1, "
        f"{100 * clipped:.1f} % in all; {NOISE_REMEDY}."
    )
