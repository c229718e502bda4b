"""ERC, GPPO, CE-GPPO and every other loss of this package in TRL's `GRPOTrainer`.

`ERCTrainer` is `GRPOTrainer` with four methods overridden: scoring, loss, dynamic sampling, and the
old policy's entropies kept beside the buffered batches. Which private methods of TRL that rests on
is listed in `tests/integrations/trl/test_contract.py`.
"""

from __future__ import annotations

from importlib.metadata import version

from erclip.extras import need, stand_on

SUPPORTED = ">=1.10,!=1.15.*,<1.17"
"""Before 1.10 the loss has another scale; 1.15.0 fails on a CPU where Triton is installed."""


def check_version(installed: str) -> None:
    """Refuse a TRL whose private methods nobody has looked at, in one sentence.

    >>> check_version("1.16.0")
    >>> check_version("1.15.0")
    Traceback (most recent call last):
    ImportError: TRL 1.15.0 is not supported, only >=1.10,!=1.15.*,<1.17: pip install 'erclip[trl]'
    """
    specifiers = need("packaging.specifiers", "the adapter for TRL")
    if installed not in specifiers.SpecifierSet(SUPPORTED):
        raise ImportError(
            f"TRL {installed} is not supported, only {SUPPORTED}: pip install 'erclip[trl]'"
        )


for extra in ("trl", "train"):
    stand_on(extra, "the adapter for TRL")
check_version(version("trl"))

from erclip.integrations.trl.config import ERCConfig
from erclip.integrations.trl.trainer import ERCTrainer

__all__ = ["SUPPORTED", "ERCConfig", "ERCTrainer", "check_version"]
