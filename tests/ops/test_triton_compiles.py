"""The Triton kernels, compiled for GPUs that need not be there: what no interpreter checks."""

from __future__ import annotations

import os

import pytest

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter has nothing to compile", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from erclip.ops import triton_epilogue  # noqa: E402

GPUS = [("cuda", 80, 32), ("cuda", 90, 32), ("hip", "gfx942", 64)]
SHARED = {"raw": "*fp32", "bias": "*fp32", "targets": "*i64", "width": "i32", "start": "i32"}
REDUCE = {**SHARED, "state": "*fp32", "state_stride": "i32", "floor": "fp32"}
GRADIENT = {**SHARED, "out": "*bf16", "rows": "*fp32", "num_rows": "i32"}


def compiled(kernel, types, constants, gpu):
    """The kernel's machine code for `gpu`, whose arguments are of these types or constant."""
    constants = {"BLOCK": triton_epilogue.BLOCK, **constants}
    signature = {
        name: "constexpr" if name in constants else types[name] for name in kernel.arg_names
    }
    where = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    return triton.compile(ASTSource(kernel, signature, where), target=GPUTarget(*gpu)).asm


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: f"{gpu[0]}-{gpu[1]}")
@pytest.mark.parametrize(
    ("kernel", "types", "option"),
    [
        (triton_epilogue._reduce_kernel, REDUCE, "SLOPES"),
        (triton_epilogue._gradient_kernel, GRADIENT, "HAS_ENTROPY"),
    ],
    ids=["reduce", "gradient"],
)
@pytest.mark.parametrize(
    "constants",
    [{"temperature": 0.7, "softcap": 30.0}, {"temperature": 1.0, "softcap": None, "bias": None}],
    ids=["full", "plain"],
)
def test_compiles(gpu, kernel, types, option, constants):
    constants = {**constants, option: constants["softcap"] is not None}
    try:
        code = compiled(kernel, types, constants, gpu)
    except Exception as error:  # older releases of triton bring none
        if "linker" not in str(error):
            raise
        pytest.skip("triton finds no linker for AMD's GPUs")
    assert len(code["cubin" if gpu[0] == "cuda" else "hsaco"]) > 1000
