"""verl on the CPU platform of `verl_cpu`, in this process and in those that it starts."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent

if find_spec("verl") is None:  # only `make test-verl` has it
    collect_ignore = [path.name for path in HERE.glob("test_*.py") if path.name != "test_checks.py"]
else:
    os.environ.update(
        VERL_USE_EXTERNAL_MODULES="verl_cpu",
        VERL_PLATFORM="cpu",
        VERL_ENGINE_DEVICE="cuda",  # under which verl registers its FSDP engine
        TOKENIZERS_PARALLELISM="false",
        RAY_worker_niceness="0",  # 15 by default, which starves them on a busy machine
        RAY_worker_register_timeout_seconds="600",  # 60, after which slow ones are started again
        RAY_raylet_start_wait_time_s="180",  # 30
        PYTHONPATH=os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
    )
    sys.path.insert(0, str(HERE))


@pytest.fixture
def actor_config():
    """verl's dataclass for the actor, with our policy-loss section."""
    from .engines import actor

    return actor
