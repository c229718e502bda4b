"""What to change in a recipe so that it fits into memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple


SHARES = (0.4, 0.5, 0.6, 0.8)  # of a GPU, for vLLM beside the trainer
