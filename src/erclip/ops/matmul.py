"""Matrix products that take the inputs' dtype and leave in float32.

Letters: R rows, C columns of a tile, D hidden size, K whatever is summed over.
"""

from __future__ import annotations

import functools
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

CPUINFO = Path("/proc/cpuinfo")


class Arithmetic(NamedTuple):
    """Tiles are multiplied as `operand`; sums and products are `total`.

    `exact` says that a product takes any operand of that dtype as it is. Else it sees 16 bits:
    inputs have no more, but a gradient of logits is rounded.
    """

    operand: torch.dtype
    total: torch.dtype
    exact: bool


def accumulation_dtype(hidden: Tensor) -> torch.dtype:
    """float64 for float64 inputs (gradcheck), float32 for everything else."""
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def arithmetic(hidden: Tensor, weight: Tensor) -> Arithmetic:
    """How this device multiplies these inputs.

    CUDA multiplies bf16 and fp16 and leaves in float32. On a CPU torch would round such a product
    to 16 bits, so tiles are widened first, which is exact. Where the CPU has a bf16 unit, oneDNN
    multiplies the widened tiles as bf16 again, still leaving in float32.
    """
    inputs, total = torch.promote_types(hidden.dtype, weight.dtype), accumulation_dtype(hidden)
    if hidden.device.type == "cuda" or inputs == torch.float64:
        return Arithmetic(inputs, total, inputs == total)
    narrow = inputs == torch.bfloat16 and hidden.device.type == "cpu" and bf16_is_faster()
    return Arithmetic(torch.float32, total, not narrow)


@contextmanager
def products(exact: bool, device: str) -> Generator[None]:
    """float32 products in here are exact, or of bf16 operands, whatever torch is set to.

    `torch.set_float32_matmul_precision("medium")` would otherwise make a float32 head a bf16 one
    on a CPU, and "high" one of TF32, which has ten bits, on CUDA. The setting is the process's:
    another thread's float32 product would follow it meanwhile.
    """
    backend = torch.backends.cuda if device == "cuda" else torch.backends.mkldnn
    setting = getattr(backend, "matmul", None)
    before = getattr(setting, "fp32_precision", None)
    if setting is None or before is None:  # torch before 2.9
        yield
        return
    setting.fp32_precision = "ieee" if exact or device == "cuda" else "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


def product(a: Tensor, b: Tensor, out_dtype: torch.dtype) -> Tensor:
    """a [R, K] · b [K, C], accumulated in and leaving as `out_dtype`."""
    return torch.mm(a, b) if a.dtype == out_dtype else torch.mm(a, b, out_dtype=out_dtype)


def accumulate(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a · b, in the dtype of `total`."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)


def logits_tile(x: Tensor, w: Tensor, out_dtype: torch.dtype) -> Tensor:
    """x [R, D] · w [C, D]ᵀ, the only product that oneDNN may take over."""
    if x.dtype == torch.float32 and x.device.type == "cpu" and onednn_is_faster():
        return torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")
    return product(x, w.T, out_dtype)


@functools.cache
def bf16_is_faster(cpuinfo: Path = CPUINFO) -> bool:
    """Whether bf16 tiles are multiplied as bf16: a CPU with AMX, and a product that works.

    Like `onednn_is_faster`, this rests on the machine and never on a timing.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.backends.mkldnn, "matmul"):
        return False
    if not cpuinfo.is_file() or "amx_bf16" not in cpuinfo.read_text().split():
        return False
    with products(exact=False, device="cpu"):  # 325 has nine bits: a product in bf16 has eight
        out = torch.mm(torch.ones(64, 65), torch.full((65, 64), 5.0))
    return bool((out == 325).all())


@functools.cache
def onednn_is_faster(cpuinfo: Path = CPUINFO) -> bool:
    """Whether float32 tiles go through oneDNN: an AMD CPU with AVX-512, and a product that works.

    The choice rests on the machine, never on a timing, so that every process of a run makes the
    same one. MKL and oneDNN do not give the same bits.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    if "AVX512" not in torch.backends.cpu.get_cpu_capability() or not cpuinfo.is_file():
        return False
    if "AuthenticAMD" not in cpuinfo.read_text():
        return False
    x, w = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(4, 3)
    try:
        out = torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")
    except (AttributeError, RuntimeError):  # a private operator: absent or changed
        return False
    return torch.equal(out, x @ w.T)
