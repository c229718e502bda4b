"""What every system of `train.py` trains on: the same prompts, and a reward that spreads."""

from __future__ import annotations

import resource
import zlib

TEXT = "Tom has {a} boxes with {b} apples each and gives {c} of them to his friends. "


def questions(job: dict) -> list[str]:
    """One text per prompt, about 17 · repeats words long."""
    return [
        " ".join(
            TEXT.format(a=3 + i + k, b=2 + i % 7, c=1 + k) for k in range(job["prompt_repeats"])
        )
        + "How many apples are left? Explain."
        for i in range(job["prompts"])
    ]


def spread(text: str) -> float:
    """A reward that differs within every group: no group is without advantage."""
    return zlib.crc32(text.encode()) % 1000 / 1000


def peak_rss_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak_device_mib() -> float:
    """What the allocator held at most on a CUDA device; 0 without one."""
    import torch

    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
