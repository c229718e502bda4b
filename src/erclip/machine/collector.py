"""Python's garbage collector, kept from looking at what will stay."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def old_objects_skipped() -> Generator[None]:
    """Within it, a collection walks through what was made since, and not through what was there.

    Modules, the model and the task are half a million objects that outlive a run. At its end all
    are looked at again, also those that the caller had frozen.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
