"""Imports of packages that talk while they are imported."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

BITSANDBYTES = "bitsandbytes.backends.cpu.ops"
"""Warns on CPUs with bfloat16 products that a 4-bit kernel is missing: nothing here is 4-bit."""


def import_quietly(name: str) -> Any:
    """The module `name`, without what bitsandbytes says where it comes along (peft imports it).

    >>> import_quietly("math").floor(1.5)
    1
    """
    logging.getLogger(BITSANDBYTES).setLevel(logging.ERROR)
    return import_module(name)
