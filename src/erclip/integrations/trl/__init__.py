"""ERC, GPPO, CE-GPPO and every other loss of this package in TRL's `GRPOTrainer`.

`ERCTrainer` is `GRPOTrainer` with four methods overridden: scoring, loss, dynamic sampling, and the
old policy's entropies kept beside the buffered batches. Which private methods of TRL that rests on
is listed in `tests/integrations/trl/test_contract.py`.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

SUPPORTED = ">=1.10,!=1.15.*,<1.17"
"""Before 1.10 the loss has another scale; 1.15.0 fails on a CPU where Triton is installed."""


def check_version(installed: str | None) -> None:
    """Refuse a TRL whose private methods nobody has looked at, in one sentence.

    >>> check_version("1.16.0")
    >>> check_version("1.15.0")
    Traceback (most recent call last):
    ImportError: TRL 1.15.0 is not supported, only >=1.10,!=1.15.*,<1.17: pip install 'erclip[trl]'
    """
    from packaging.specifiers import SpecifierSet

    if installed is None:
        raise ImportError("TRL is not installed: pip install 'erclip[trl]'")
    if installed not in SpecifierSet(SUPPORTED):
        raise ImportError(
            f"TRL {installed} is not supported, only {SUPPORTED}: pip install 'erclip[trl]'"
        )


def _installed() -> str | None:
    try:
        return version("trl")
    except PackageNotFoundError:
        return None


check_version(_installed())

from erclip.integrations.trl.config import ERCConfig  # noqa: E402
from erclip.integrations.trl.trainer import ERCTrainer  # noqa: E402

__all__ = ["SUPPORTED", "ERCConfig", "ERCTrainer", "check_version"]
