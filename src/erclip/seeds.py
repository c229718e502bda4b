"""All randomness of a run, from one seed: every draw has a name of its own.

Nothing depends on what else is in a batch or on how many processes share the work.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(*parts: object) -> int:
    """A seed from names and numbers, so that no two uses of randomness share a stream."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def prompt_seeds(count: int, *parts: object) -> list[int]:
    """One seed for each of `count` prompts, from the names of the call and the prompt's place."""
    return [derive_seed(*parts, place) for place in range(count)]


def seed_torch(seed: int) -> None:
    """`torch.manual_seed`, on the devices that are there.

    For every absent kind of device, torch's own keeps the call with its traceback, for ever.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
