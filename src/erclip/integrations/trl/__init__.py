"""ERC, GPPO, CE-GPPO and every other loss of this package in TRL's `GRPOTrainer`.

`ERCTrainer` is `GRPOTrainer` with scoring, loss and dynamic sampling overridden, and the old
policy's entropies kept beside the buffered batches. Which private methods of TRL that rests on is
listed in `contract.py` and checked when a trainer is built.
"""

from __future__ import annotations

import os
from importlib.metadata import version

from erclip.extras import need, stand_on

SUPPORTED = ">=1.10,!=1.15.*,<1.17"
"""Before 1.10 the loss has another scale; 1.15.0 fails on a CPU where Triton is installed."""

ALLOW = "ERCLIP_ALLOW_TRL"
"""An environment variable: the one newer version to try, checked by its hooks' names alone."""


def check_version(installed: str) -> None:
    """Refuse a TRL that nobody has tried, in one sentence; `ERCLIP_ALLOW_TRL` lets a newer one in.

    >>> check_version("1.16.0")
    >>> check_version("1.15.0")
    Traceback (most recent call last):
    ImportError: TRL 1.15.0 is not supported, only >=1.10,!=1.15.*,<1.17: pip install 'erclip[trl]'
    """
    specifiers = need("packaging.specifiers", "the adapter for TRL")
    if installed in specifiers.SpecifierSet(SUPPORTED):
        return
    newest = SUPPORTED.rpartition("<")[2]
    newer = installed in specifiers.SpecifierSet(f">={newest}.dev0", prereleases=True)
    if newer and os.environ.get(ALLOW) == installed:
        return
    choice = f", or set {ALLOW}={installed} to try it" if newer else ""
    raise ImportError(
        f"TRL {installed} is not supported, only {SUPPORTED}: pip install 'erclip[trl]'{choice}"
    )


for extra in ("trl", "train"):
    stand_on(extra, "the adapter for TRL")
check_version(version("trl"))

from erclip.integrations.trl.config import ERCConfig
from erclip.integrations.trl.trainer import ERCTrainer

__all__ = ["SUPPORTED", "ERCConfig", "ERCTrainer", "check_version"]
