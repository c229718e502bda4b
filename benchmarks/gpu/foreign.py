"""Single modules of packages whose other requirements are not installed.

TRL's and verl's functions need torch and Triton alone, but importing their packages asks for
datasets, ray and more. A package whose `__init__` is not run, only its place remembered, gives them
without those.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch


def unexecuted(package: str) -> None:
    """Let `package` and its parents be found without running any `__init__`."""
    name, place = "", Path()
    for part in package.split("."):
        name = f"{name}.{part}".lstrip(".")
        if name in sys.modules:
            place = Path(next(iter(sys.modules[name].__path__)))
            continue
        place = place / part if name != part else _place(part)
        module = ModuleType(name)
        module.__path__ = [str(place)]
        sys.modules[name] = module


def _place(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{package} is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


def stand_in(module: str, **names: Any) -> None:
    """A module that has nothing but `names`."""
    found = ModuleType(module)
    vars(found).update(names)
    sys.modules[module] = found


def trl_chunked() -> Any:
    """TRL's `ChunkedLogProbFunction`, as its GRPO trainer calls it."""
    unexecuted("trl.kernels")
    unexecuted("trl.trainer")
    stand_in("trl.trainer.utils", maybe_gather_lm_head_ctx=lambda *_: contextlib.nullcontext())
    return importlib.import_module("trl.kernels.chunked_logprob").ChunkedLogProbFunction


def verl_kernel() -> Any:
    """verl's Triton `linear_cross_entropy`."""
    unexecuted("verl.utils.kernel")
    stand_in(
        "verl.utils.device",
        get_device_capability=torch.cuda.get_device_capability,
        get_device_name=lambda: "cuda",
        get_torch_device=lambda: torch.cuda,
        is_cuda_available=torch.cuda.is_available(),
    )
    return importlib.import_module("verl.utils.kernel.linear_cross_entropy").linear_cross_entropy


def verl_torch() -> Any:
    """verl's `FusedLinearForPPOFunction`, its path without Triton."""
    unexecuted("verl.utils.experimental")
    names = ("liger_kernel", "liger_kernel.ops")
    kept = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    stand_in("liger_kernel")  # an option of verl's that is not used, and that not every Liger has
    stand_in("liger_kernel.ops", LigerFusedLinearScaledCrossEntropyFunction=None)
    try:
        module = importlib.import_module("verl.utils.experimental.torch_functional")
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(kept)
    return module.FusedLinearForPPOFunction
