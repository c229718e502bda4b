"""ERC and every other loss of this package in ms-swift's GRPO.

    # erc.py, for `swift rlhf --rlhf_type grpo --external_plugins erc.py …`
    from erclip.integrations.swift import use

    use({"surrogate": "gppo_clip", "constraints": ["entropy_ratio_clip"]})

Importing this package needs nothing of ms-swift. Which of its private names `trainer` rests on is
listed in `tests/integrations/swift/test_contract.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from erclip.errors import UserError
from erclip.extras import need, stand_on

SUPPORTED = ">=4.6,<4.7"
TRAINER = "erclip.integrations.swift.trainer.ERCTrainer"
_chosen: dict[str, Any] = {}


def use(loss: Mapping[str, Any]) -> None:
    """Let GRPO train with this `loss` section of a recipe; called by a file of `external_plugins`.

    Raises UserError for a section that is wrong or that ms-swift cannot serve, before a model is
    loaded.
    """
    for extra in ("swift", "train"):
        stand_on(extra, "the adapter for ms-swift")
    check_version(version("ms-swift"))
    if any(name.startswith("swift.megatron") for name in sys.modules):
        raise UserError(
            "Megatron-SWIFT has trainers of its own, which this adapter does not reach; start the "
            "run with `swift rlhf`."
        )
    from erclip.integrations.swift.settings import HOME

    HOME.read(loss)
    _chosen.clear()
    _chosen.update(loss)
    need("swift.trainers", "use").TrainerFactory.TRAINER_MAPPING["grpo"] = TRAINER


def chosen() -> dict[str, Any]:
    """The section that `use` was given."""
    if not _chosen:
        raise UserError("no loss was chosen; call erclip.integrations.swift.use(loss) first.")
    return dict(_chosen)


def check_version(found: str) -> None:
    """Refuse an ms-swift whose private parts were not read.

    >>> check_version("4.6.1")
    >>> check_version("4.5.3")
    Traceback (most recent call last):
    erclip.errors.UserError: ms-swift 4.5.3 is not supported, only >=4.6,<4.7; pip install \
'erclip[swift]'.
    """
    specifiers = need("packaging.specifiers", "the adapter for ms-swift")
    if specifiers.SpecifierSet(SUPPORTED).contains(found):
        return
    raise UserError(
        f"ms-swift {found} is not supported, only {SUPPORTED}; pip install 'erclip[swift]'."
    )
